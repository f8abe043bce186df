"""Surfaces that `memos doctor --probe` does not attack: conversations' KV, the embedder's cache, adapters."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

from memos_vllm.errors import Unavailable
from memos_vllm.governance.probe_target import Target
from memos_vllm.governance.probing import Attack, NotStored, Sample
from tests.adapters import config_of, content_of, tensors_of
from tests.engine.harness import Server
from tests.engine.kv import segments

_STORED_SECONDS, _LOOK_SECONDS = 60.0, 0.05
_LAYER = {"model.layers.0.self_attn.q_proj": (576, 576)}
_ASKED = "Say one of the words."


class Conversations:
    """KV that is stored of a conversation; the engine's own cache is emptied before it is asked for."""

    def __init__(
        self, target: Target, server: Server, victim: str, attacker: str, admin: str
    ) -> None:
        """
        Args:
            victim: key; likewise the attacker.
            admin: key of the operator.
        """
        self._target, self._server, self._admin = target, server, admin
        self._keys, self._person = (victim, attacker), target.new_person()
        self._before: set[Any] = set()

    def attack(self, name: str) -> Attack:
        return Attack(name, self._victim, self._attacker, self._settle)

    def _victim(self, text: str) -> Sample:
        self._before = set(segments(self._server))
        return self._say(self._keys[0], self._person, text)

    def _attacker(self, text: str) -> Sample:
        return self._say(self._keys[1], self._target.new_person(), text)

    def _say(self, key: str, person: str, text: str) -> Sample:
        # Remembered: KV of a conversation is stored where its turn is.
        return self._target.chat(key, person, f"{text} {_ASKED}", {"retrieve": False})

    def _settle(self, _text: str) -> None:
        until = time.monotonic() + _STORED_SECONDS
        while not set(segments(self._server)) - self._before:
            if time.monotonic() > until:
                raise NotStored("the server stores no KV of conversations")
            time.sleep(_LOOK_SECONDS)
        while True:  # refused while a request runs
            try:
                self._target.call(self._admin, "operator", "POST", "/reset_prefix_cache")
                return
            except Unavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(_LOOK_SECONDS)


class Searches:
    """Questions that were searched for: the embedder's cache of their vectors."""

    def __init__(self, target: Target, victim: str, attacker: str) -> None:
        self._target = target
        self._sides = [(victim, target.new_person()), (attacker, target.new_person())]
        for key, person in self._sides:  # without memory, no question is embedded
            target.cube(key, person, "The harbour opens at nine.")

    def attack(self, name: str) -> Attack:
        return Attack(name, lambda text: self._search(0, text), lambda text: self._search(1, text))

    def _search(self, side: int, text: str) -> Sample:
        begun = time.perf_counter()
        self._target.call(*self._sides[side], "POST", "/v1/memory/search", {"query": text})
        return Sample(time.perf_counter() - begun)


class Adapters:
    """Adapters with the same weights: the engine's memory of loaded ones."""

    def __init__(self, target: Target, victim: str, attacker: str) -> None:
        self._target, self._keys, self._person = target, (victim, attacker), target.new_person()
        self._own: dict[str, str] = {}

    def attack(self, name: str) -> Attack:
        return Attack(name, self._victim, self._attacker)

    def _victim(self, text: str) -> Sample:
        key = self._keys[0]
        if text not in self._own:
            self._own[text] = self._stored(key, self._person, text)
        return self._asked(key, self._person, self._own[text])

    def _attacker(self, text: str) -> Sample:
        stranger = self._target.new_person()
        return self._asked(self._keys[1], stranger, self._stored(self._keys[1], stranger, text))

    def _stored(self, key: str, person: str, text: str) -> str:
        seed = random.Random(text).getrandbits(32)
        content = content_of(tensors_of(_LAYER, seed=seed), config_of(targets=("q_proj",)))
        return self._target.adapter(key, person, content)

    def _asked(self, key: str, person: str, cube: str) -> Sample:
        memory = {"adapter": cube, "retrieve": False, "write": False}
        # A new text each time: its tokens are cached for no one.
        sample = self._target.chat(key, person, f"{next(_numbers)}. {_ASKED}", memory)
        return Sample(sample.seconds)


_numbers = itertools.count()
