"""The secret of salts and scopes is rotated beside a running server, and stored KV still hits."""

from __future__ import annotations

import signal
import time

from memos_vllm.config.load import load_config
from memos_vllm.config.secrets import CACHE_SALT
from memos_vllm.system import MemorySystem
from tests.engine.harness import Server, cached_tokens, wait_for
from tests.engine.kv import RULES, ask, make, same, segments


def test_kv_of_the_older_secret_hits_after_a_rotation_without_a_restart(restartable: Server):
    restartable.set(MEMOS__GOVERNANCE__SECRETS__REFRESH_SECONDS="0.5")
    restartable.kill(signal.SIGKILL)
    restartable.start()
    cube = make(restartable, "rotated", "Rotated. " + " ".join(RULES))
    earlier = set(segments(restartable))
    cold = ask(restartable, "rot", cube, max_tokens=16)
    wait_for(lambda: set(segments(restartable)) - earlier, "a save")
    time.sleep(2)
    warm = ask(restartable, "rot", cube, max_tokens=16)
    config = load_config(overrides={"home": str(restartable.home)})
    system = MemorySystem(config)
    system.keys.secrets.rotate(CACHE_SALT)
    system.database.dispose()
    ask(restartable, "other", cube, max_tokens=1)  # reads the secrets
    time.sleep(2)
    again = ask(restartable, "rot", cube, max_tokens=16)
    assert cached_tokens(again) > 300, "from the store: the prefix cache has another salt"
    assert cached_tokens(again) >= cached_tokens(warm) - 128
    assert same(again, cold)
