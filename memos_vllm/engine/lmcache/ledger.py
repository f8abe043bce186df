"""Chunks that LMCache was given: in this process's memory, and in the records that deletions read."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import threading
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import Any

from cachetools import LRUCache

from memos_vllm.activation.names import scope_folder
from memos_vllm.activation.orders import Conversation
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tombstones import short
from memos_vllm.cube.ids import CubeVersion

log = logging.getLogger("vllm.memos_kv")
_KNOWN_SALTS = 1024
_FIRST_RETRY_SECONDS, _LAST_RETRY_SECONDS = 1.0, 60.0


@dataclasses.dataclass(frozen=True)
class ConversationKV:
    """Names of a conversation's KV in LMCache and in the records."""

    conversation: Conversation

    @functools.cached_property
    def salt(self) -> str:
        """Its only name in LMCache: a digest of its scope and its cubes.

        A cube that changes has another `id@sequence`, so a lookup never finds the old KV.
        """
        text = "\0".join(("memos lmcache 1", self.conversation.scope, *self.conversation.cubes))
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    @property
    def cubes(self) -> list[str]:
        return [short(CubeVersion.parse(cube).cube) for cube in self.conversation.cubes]

    @property
    def scope(self) -> str:
        return scope_folder(self.conversation.scope)


class Ledger:
    def __init__(
        self, store: SegmentStore, keys: Callable[[str, Sequence[bytes]], list[dict[str, Any]]]
    ) -> None:
        """
        Args:
            store: its records and tombstones.
            keys: of LMCache's objects, by salt and hashes of chunks.
        """
        self._store = store
        self._keys = keys
        # Of the scheduler's thread alone: `_take_back` does not touch it.
        self._known: MutableMapping[str, set[bytes]] = LRUCache(_KNOWN_SALTS)

    def is_gone(self, kv: ConversationKV) -> bool:
        """Whether one of its cubes was deleted or changed, or its scope was forgotten."""
        gone, conversation = self._store.gone, kv.conversation
        return (
            gone.any_buried(conversation.cubes)
            or gone.generation(kv.scope) != conversation.generation
        )

    def unknown(self, kv: ConversationKV, hashes: Sequence[bytes]) -> list[bytes]:
        """The chunks that this process has not handed to LMCache."""
        if not self._store.remote.has(kv.cubes, kv.scope, kv.salt):
            self.doubt(kv)
        known = self._known.get(kv.salt, set())
        return [each for each in hashes if each not in known]

    def note(self, kv: ConversationKV, hashes: Sequence[bytes]) -> None:
        """Record chunks before they are handed over. Raises OSError: they must not be."""
        keys = self._keys(kv.salt, hashes)
        self._store.remote.note(kv.cubes, kv.scope, kv.salt, keys)
        self._known[kv.salt] = self._known.get(kv.salt, set()) | set(hashes)

    def doubt(self, kv: ConversationKV) -> None:
        """Forget what LMCache was given: it may have lost a part."""
        self._known.pop(kv.salt, None)

    def given(self, kv: ConversationKV, hashes: Sequence[bytes]) -> None:
        """LMCache has these chunks now: delete them again if they were deleted meanwhile."""
        is_recorded = self._store.remote.has(kv.cubes, kv.scope, kv.salt)
        if is_recorded and not self.is_gone(kv):
            return
        self.doubt(kv)
        threading.Thread(target=self._take_back, args=(kv, hashes), daemon=True).start()

    def _take_back(self, kv: ConversationKV, hashes: Sequence[bytes]) -> None:
        """Delete chunks until LMCache has done it: no later deletion of their cube or person comes."""
        remote, keys = self._store.remote, self._keys(kv.salt, hashes)
        pause, is_noted = _FIRST_RETRY_SECONDS, False
        while True:
            try:
                if not is_noted:  # for a later deletion, if this process ends before its own
                    remote.note(kv.cubes, kv.scope, kv.salt, keys)
                    is_noted = True
                remote.delete(keys)
                return
            except OSError as error:
                text = "KV that was deleted meanwhile is still in LMCache, again in %.0f s: %s"
                log.warning(text, pause, error)
            time.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY_SECONDS)
