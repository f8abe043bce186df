"""Parametric cubes attached to requests while the server runs.

A request carries its adapter into the engine as vLLM's own `LoRARequest`, set by the gateway
(`engine.gateway`). Adapters are never among vLLM's served models, so that a guessed model name reaches
none: the vault decides before whether the principal may use it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import threading
from collections.abc import Sequence
from typing import Any

from memos_vllm.cube.ids import CubeId, TenantId
from memos_vllm.engine.gateway import current_call
from memos_vllm.engine.lora.merging import Merging
from memos_vllm.errors import AdapterUnavailable, Conflict, Unprocessable
from memos_vllm.governance.current import PRINCIPAL
from memos_vllm.governance.principal import Principal
from memos_vllm.parametric.adapter.checks import Shaped, Shapes, check_fits
from memos_vllm.parametric.adapter.folders import (
    AdapterFolders,
    engine_id,
    engine_name,
    served_name,
)
from memos_vllm.parametric.adapter.uses import Uses
from memos_vllm.system import MemorySystem
from memos_vllm.vault.views import AdapterCube

log = logging.getLogger(__name__)
_REMOVAL_SECONDS = 5.0


class EngineModel:
    """The served model that adapters have to fit. Implements `attached.ServedModel`."""

    def __init__(self, vllm_config: Any, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._config = vllm_config.model_config.hf_config
        lora = vllm_config.lora_config
        self.max_rank: int | None = None if lora is None else lora.max_lora_rank
        self._lock = threading.Lock()

    def check(self, adapter: Shaped) -> None:
        """Check an adapter's shapes and rank. Raises Unprocessable."""
        with self._lock:
            shapes = self._shapes
        check_fits(adapter, shapes, self.max_rank)

    @functools.cached_property
    def _shapes(self) -> Shapes:
        """(out_features, in_features) of each linear layer; the model is built without its weights."""
        import torch
        from transformers import AutoModelForCausalLM

        try:
            with torch.device("meta"):
                build: Any = AutoModelForCausalLM.from_config
                model = build(self._config)
        except (ValueError, ImportError) as error:
            raise Unprocessable(f"the served model's layers are not known: {error}") from error
        return {
            name: (module.out_features, module.in_features)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and name != "lm_head"
        }


@dataclasses.dataclass(frozen=True)
class Attached:
    """An adapter in the engine. Implements `ports.AttachedAdapter`."""

    request: Any
    """vLLM's `LoRARequest`."""
    name: str
    cubes: Sequence[AdapterCube]
    uses: Uses

    def __enter__(self) -> None:
        self.uses.begin(self.name)

    def __exit__(self, *_: object) -> None:
        self.uses.end(self.name)


class EngineAdapters:
    """Loads, pins and lists adapters. Implements `ports.AdapterLoader`."""

    def __init__(
        self,
        engine_client: Any,
        models: Any,
        system: MemorySystem,
        served: EngineModel,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Prepare adapters for one engine.

        Args:
            models: vLLM's handler of served models.
        """
        self._engine = engine_client
        self._models = models
        self._system = system
        self._served = served
        self._loop = loop
        self._folders = AdapterFolders(system.config.adapters_path)
        self._numbers: dict[int, str] = {}
        self._loaded: set[int] = set()
        self._pinned: dict[int, str] = {}
        """Cube by the adapter's number in the engine."""
        self._loading = asyncio.Lock()
        self.uses = Uses(self._folders, self._forget)
        rank = engine_client.vllm_config.lora_config.max_lora_rank
        self._most_pinned = _room_for_pins(engine_client.vllm_config)
        self._model = f"{self._served.fingerprint} {rank}"
        self._merged = Merging(self._folders, self, system.config.adapters.merge, rank)

    @property
    def base_model(self) -> str:
        name: str = self._models.base_model_paths[0].name
        return name

    def is_served(self, model: str) -> bool:
        """Whether vLLM serves a model of this name."""
        return bool(self._models.is_base_model(model)) or model in self._models.lora_requests

    @property
    def resolvers_are_on(self) -> bool:
        """Whether vLLM asks its own LoRA resolvers for names that it does not serve."""
        from vllm import envs

        return bool(envs.VLLM_ALLOW_RUNTIME_LORA_UPDATING and self._models.lora_resolvers)

    def install_listing(self) -> None:
        """List in `/v1/models`, beside the base model, the adapters that the caller may use."""
        show = self._models.show_available_models

        async def show_available_models() -> Any:
            listed = await show()
            for card in listed.data:
                if card.parent is not None:
                    card.root = card.parent  # never a path on this server
            if (principal := PRINCIPAL.get()) is not None:
                listed.data += await self._cards(principal, type(listed.data[0]))
            return listed

        self._models.show_available_models = show_available_models

    def install_naming(self) -> None:
        """Put the model name of the request into its reply."""
        own = self._models.model_name

        def model_name(lora_request: Any = None) -> str:
            name: str = current_call().model_name or own(lora_request)
            return name

        self._models.model_name = model_name

    async def _cards(self, principal: Principal, card: type) -> list[Any]:
        cubes = await asyncio.to_thread(self._system.views.adapters, principal)
        base = self.base_model
        names = [c.cube_id if not c.name or self.is_served(c.name) else c.name for c in cubes]
        return [card(id=name, root=base, parent=base) for name in names]

    def problem(self, cube: AdapterCube) -> str | None:
        if cube.model is not None and cube.model != self._served.fingerprint:
            return "it was trained for another base model than the served one"
        return None

    @property
    def most_merged(self) -> int:
        config = self._system.config.adapters
        return 1 if config.merge == "none" else config.merged_at_most

    async def prepare(self, cubes: Sequence[AdapterCube]) -> Attached:
        """Write an adapter's folder and load it into the engine.

        Several are merged in the background; until that is done, the first of them is loaded.

        Raises:
            Unprocessable: it does not fit the served model.
            AdapterUnavailable, VaultUnavailable, DamagedPayload
        """
        from vllm.lora.request import LoRARequest

        name = self.name(cubes[0])
        if len(cubes) > 1:
            whole = self._merged.name(cubes)
            if await asyncio.to_thread(self._folders.has, whole):
                name = whole
            else:
                self._merged.begin(cubes)
                cubes = cubes[:1]
        self.uses.cancel_removal(name)
        if len(cubes) == 1:
            await asyncio.to_thread(self.store_folder, cubes[0])
        path = self._folders.path(name)
        number = engine_id(name)
        request = LoRARequest(lora_name=engine_name(name), lora_int_id=number, lora_path=str(path))
        if self._numbers.setdefault(number, name) != name:
            raise AdapterUnavailable(
                "two adapters have the same number in the engine: store one of them again"
            )
        pinned = cubes[0].cube_id if len(cubes) == 1 else ""
        if pinned not in self._system.adapter_pins:
            pinned = ""
        await self._load(request, pinned)
        return Attached(request, name, tuple(cubes), self.uses)

    async def pin(self, cube: AdapterCube, on: bool | None) -> None:
        """Load an adapter and keep it in host memory beyond LRU eviction.

        Args:
            on: True pins it, False unpins it, None leaves that as it is.

        Raises:
            Unprocessable: there is no room for another pin; or as `prepare`.
            Conflict: requests compute with the adapter to unpin.
        """
        name = self.name(cube)
        number = engine_id(name)
        pins = self._system.adapter_pins
        if on and number not in self._pinned and len(self._pinned) >= self._most_pinned:
            raise Unprocessable(
                f"{len(self._pinned)} adapters are pinned, and there is room for {self._most_pinned}: "
                "unpin one, or start the server with a larger --max-cpu-loras (pins need more than "
                "--max-loras)",
                param="pinned",
            )
        if on is not None:
            await asyncio.to_thread(pins.add if on else pins.remove, cube.cube_id)
        if on is False and number in self._pinned:
            if self.uses.is_used(name):
                await asyncio.to_thread(pins.add, cube.cube_id)
                raise Conflict("requests compute with the adapter now: try again")
            await self._unload(number)  # vLLM has no other way to unpin an adapter
        await self.prepare([cube])

    async def find(self, principal: Principal, ref: str) -> AdapterCube | None:
        """The parametric cube of this id or name that the principal may use."""
        return await asyncio.to_thread(self._system.views.adapter, principal, ref)

    def sweep(self) -> None:
        """Remove folders of adapters whose cubes the vault has deleted. Blocks."""
        if not (names := self._folders.names()):
            return
        payloads = self._system.views.adapter_payloads()
        known = {served_name(tenant, digest, self._model) for tenant, digest in payloads}
        for name in names:
            if not known.issuperset(self._folders.parents(name)):
                self.uses.remove(name)

    def name(self, cube: AdapterCube) -> str:
        """Name of a cube's folder, and of its adapter in the engine."""
        return served_name(TenantId(cube.tenant), cube.digest, self._model)

    def store_folder(self, cube: AdapterCube) -> None:
        """Write a cube's folder from its payload.

        Raises:
            AdapterUnavailable: the disk refuses; or as `prepare`.
        """

        def read() -> bytes:
            tenant, digest = TenantId(cube.tenant), cube.digest
            return self._system.payloads.get(tenant, CubeId(cube.cube_id), digest)

        try:
            self._folders.ready(self.name(cube), read, self._served.check)
        except OSError as error:
            raise AdapterUnavailable(f"the adapter cannot be written to disk: {error}") from error

    async def _load(self, request: Any, pinned: str) -> None:
        """Load an adapter that the engine has not seen: a load that fails inside a step ends it.

        The engine reloads by itself an adapter that it has evicted.

        Args:
            pinned: cube to pin; empty: none.
        """
        number = request.lora_int_id
        if pinned and number not in self._pinned:
            await self._unpin_older(pinned, number)
        is_pinned = bool(pinned) and len({*self._pinned, number}) <= self._most_pinned
        if number in self._loaded and (number in self._pinned or not is_pinned):
            return
        async with self._loading:
            try:
                if number not in self._loaded or is_pinned:  # it may have been evicted
                    await self._engine.add_lora(request)
                self._loaded.add(number)
                if is_pinned and number not in self._pinned:
                    await self._engine.pin_lora(number)
                    self._pinned[number] = pinned
            except Exception as error:  # foreign code: the engine passes on any error of its worker
                log.exception("the engine does not load the adapter %s", request.lora_name)
                raise AdapterUnavailable(
                    f"the engine does not load the adapter: {error}"
                ) from error

    async def _unpin_older(self, cube: str, number: int) -> None:
        """Unload older versions of a pinned cube that no request computes with."""
        for old, of in list(self._pinned.items()):
            if of == cube and old != number and not self.uses.is_used(self._numbers[old]):
                await self._unload(old)

    async def _unload(self, number: int) -> None:
        async with self._loading:
            self._pinned.pop(number, None)
            if number in self._loaded:
                self._loaded.discard(number)
                await self._engine.remove_lora(number)

    def _forget(self, name: str) -> None:
        number = engine_id(name)

        async def forget() -> None:
            await self._unload(number)
            await asyncio.to_thread(self._folders.remove, name)

        done = asyncio.run_coroutine_threadsafe(forget(), self._loop)
        if threading.current_thread() is threading.main_thread():
            return  # the event loop's own thread cannot wait for itself
        with contextlib.suppress(TimeoutError):
            done.result(_REMOVAL_SECONDS)


def _room_for_pins(vllm_config: Any) -> int:
    """Number of adapters that each API server may pin; slots for a whole batch stay free."""
    lora, servers = vllm_config.lora_config, vllm_config.parallel_config._api_process_count
    room: int = max(0, (lora.max_cpu_loras or 0) - lora.max_loras) // servers
    return room
