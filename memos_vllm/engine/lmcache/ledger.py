"""Which chunks LMCache was given: in this process's memory, and in the records that deletions read."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from memos_vllm.activation.orders import Conversation
from memos_vllm.activation.store import SegmentStore
from memos_vllm.activation.tombstones import short

log = logging.getLogger("vllm.memos_kv")
_KNOWN_SALTS = 1024


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a conversation's KV is, in LMCache and in the records."""

    conversation: Conversation

    @functools.cached_property
    def salt(self) -> str:
        """The only name under which it is found: whose it is, and behind which cubes.

        A cube that changes is another `id@sequence`, so nothing of the old is ever found again.
        """
        text = "\0".join(("memos lmcache 1", self.conversation.scope, *self.conversation.cubes))
        return hashlib.sha256(text.encode()).hexdigest()[:40]

    @property
    def cubes(self) -> list[str]:
        return [short(cube.partition("@")[0]) for cube in self.conversation.cubes]

    @property
    def scope(self) -> str:
        return short(self.conversation.scope.partition("/")[0])


class Ledger:
    def __init__(
        self, store: SegmentStore, keys: Callable[[str, Sequence[bytes]], list[dict[str, Any]]]
    ) -> None:
        """Args: keys: of LMCache's objects, by salt and hashes of chunks."""
        self._store = store
        self._keys = keys
        self._known: OrderedDict[str, set[bytes]] = OrderedDict()

    def is_gone(self, place: Place) -> bool:
        """Whether a cube of it was deleted or changed, or its person's KV was forgotten."""
        gone, conversation = self._store.gone, place.conversation
        return (
            gone.any_buried(conversation.cubes)
            or gone.generation(place.scope) != conversation.generation
        )

    def unknown(self, place: Place, hashes: Sequence[bytes]) -> list[bytes]:
        """Those that LMCache was not given, as far as this process knows."""
        if not self._store.remote.has(place.cubes, place.scope, place.salt):
            self.doubt(place)
        known = self._known.get(place.salt, set())
        return [each for each in hashes if each not in known]

    def note(self, place: Place, hashes: Sequence[bytes]) -> None:
        """They are about to be given. Raises OSError: they must not."""
        keys = self._keys(place.salt, hashes)
        self._store.remote.note(place.cubes, place.scope, place.salt, keys)
        self._known.setdefault(place.salt, set()).update(hashes)
        self._known.move_to_end(place.salt)
        if len(self._known) > _KNOWN_SALTS:
            self._known.popitem(last=False)

    def doubt(self, place: Place) -> None:
        """LMCache does not have all that it was given."""
        self._known.pop(place.salt, None)

    def given(self, place: Place, hashes: Sequence[bytes]) -> None:
        """They are there now: what was deleted while they were on their way is deleted once more."""
        there = self._store.remote.has(place.cubes, place.scope, place.salt)
        if there and not self.is_gone(place):
            return
        self.doubt(place)
        threading.Thread(target=self._take_back, args=(place, hashes), daemon=True).start()

    def _take_back(self, place: Place, hashes: Sequence[bytes]) -> None:
        remote, keys = self._store.remote, self._keys(place.salt, hashes)
        try:
            remote.note(place.cubes, place.scope, place.salt, keys)  # in case that this fails
            remote.delete(keys)
        except OSError as error:
            log.warning("KV of something deleted meanwhile is still in LMCache: %s", error)
