"""A version of a bundle, read from a registry: everything is checked before it is parsed."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from memos_vllm import strict_json
from memos_vllm.cube.ids import now_us, to_datetime
from memos_vllm.cube.model import ExplicitPayload, Item, Kind, ParametricPayload, Payload
from memos_vllm.errors import BadRequest, NotFound, TooLarge, Unprocessable
from memos_vllm.memstore.model import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ARTIFACT,
    CONFIG,
    CONFIG_BYTES,
    CUBE,
    INDEX,
    INDEX_TAG,
    ITEMS,
    MANIFEST_BYTES,
    PUBLISHER,
    BundleConfig,
    BundledCube,
    Descriptor,
    Index,
    Manifest,
    digest_of,
    parsed,
)
from memos_vllm.memstore.registry import Registry, blob, manifest
from memos_vllm.memstore.signing import ENVELOPE_BYTES, PublicKey, opened, read_public

_LAYERS = {Kind.EXPLICIT: (ITEMS,), Kind.PARAMETRIC: (ADAPTER_CONFIG, ADAPTER_WEIGHTS)}
_LINE_BYTES = 1 << 20
_ADAPTER_CONFIG_BYTES = 1 << 20


def read_index(
    registry: Registry, name: str, trusted: Iterable[PublicKey] | None
) -> tuple[Index, PublicKey]:
    """The signed index of a bundle, and the key that signed it; it may have expired.

    Args:
        trusted: None: the key that the registry names, which may be anyone's.
    Raises:
        NotFound: the registry has no such bundle.
        Forbidden: no trusted key signed it.
        Unprocessable: it is no index, or another bundle's.
        RegistryUnavailable
    """
    what = f"index of {name}"
    found = parsed(Manifest, registry.manifest(name, INDEX_TAG), what, MANIFEST_BYTES)
    if found.artifact_type != INDEX or [layer.media_type for layer in found.layers] != [INDEX]:
        raise Unprocessable(f"{what}: no signed index stands under the tag `{INDEX_TAG}`")
    signed = blob(registry, name, found.layers[0], ENVELOPE_BYTES)
    if trusted is None:
        trusted = [_named(found.annotations.get(PUBLISHER, ""), what)]
    content, key = opened(signed, INDEX, trusted, what)
    index = parsed(Index, content, what, ENVELOPE_BYTES)
    if index.name != name:
        raise Unprocessable(f"{what}: it is that of {index.name}")
    return index, key


def _named(text: str, what: str) -> PublicKey:
    try:
        return read_public(text)
    except BadRequest as error:
        raise Unprocessable(f"{what}: it does not name its publisher's key") from error


def check_fresh(index: Index, least_serial: int) -> None:
    """Raise Unprocessable: an older index than was seen before, or one that has expired."""
    if index.serial < least_serial:
        raise Unprocessable(
            f"the registry shows an older index of {index.name} than before (serial {index.serial} after "
            f"{least_serial}): it hides newer versions, or was restored from a backup"
        )
    if index.expires <= to_datetime(now_us()):
        raise Unprocessable(
            f"the index of {index.name} has expired on {index.expires:%Y-%m-%d}: newer versions may be hidden; its "
            "publisher signs it again with `memos store sign`"
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Package:
    """One version: its config, and the layers of each cube, not yet read."""

    digest: str
    config: BundleConfig
    layers: dict[str, tuple[Descriptor, ...]]
    """By the cube's name."""

    def content_digest(self, cube: str) -> str:
        """What changes when the content of a cube does."""
        return digest_of("\n".join(layer.digest for layer in self.layers[cube]).encode())


def read_package(
    registry: Registry, name: str, version: str, digest: str, most_bytes: int
) -> Package:
    """The manifest and config of a version by its digest, which the index names.

    Raises:
        Unprocessable: they do not say what the index says, or layers are missing, doubled or unknown.
        TooLarge: all layers together have more than `most_bytes`.
    """
    what = f"{name} {version}"
    data = manifest(registry, name, digest)
    found = parsed(Manifest, data, what, MANIFEST_BYTES)
    if found.artifact_type != ARTIFACT or found.config.media_type != CONFIG:
        raise Unprocessable(f"{what}: no bundle, but {found.artifact_type[:80]}")
    if (size := sum(layer.size for layer in found.layers)) > most_bytes:
        raise TooLarge(f"{what} has {size} bytes; at most {most_bytes} (`store.bundle_bytes`)")
    raw = blob(registry, name, found.config, CONFIG_BYTES)
    config = parsed(BundleConfig, raw, what, CONFIG_BYTES)
    if (config.name, config.version) != (name, version):
        raise Unprocessable(f"{what}: its config says {config.name} {config.version}")
    return Package(digest, config, _layers_of(config.cubes, found.layers, what))


def _layers_of(
    cubes: Sequence[BundledCube], layers: Sequence[Descriptor], what: str
) -> dict[str, tuple[Descriptor, ...]]:
    by_cube: dict[str, dict[str, Descriptor]] = {cube.name: {} for cube in cubes}
    if len(by_cube) != len(cubes):
        raise Unprocessable(f"{what}: two cubes have the same name")
    for layer in layers:
        name = layer.annotations.get(CUBE)
        if name not in by_cube:
            raise Unprocessable(
                f"{what}: a layer ({layer.digest[:20]}…) belongs to no cube of the config"
            )
        if layer.media_type in by_cube[name]:
            raise Unprocessable(f"{what}: cube {name!r} has two layers of {layer.media_type}")
        by_cube[name][layer.media_type] = layer
    for cube in cubes:
        wanted = _LAYERS[cube.kind]
        if set(by_cube[cube.name]) != set(wanted):
            raise Unprocessable(
                f"{what}: cube {cube.name!r} is {cube.kind} and has the layers {sorted(by_cube[cube.name])}, not "
                f"{sorted(wanted)}"
            )
    return {
        cube.name: tuple(by_cube[cube.name][media] for media in _LAYERS[cube.kind])
        for cube in cubes
    }


def read_payload(
    registry: Registry, package: Package, cube: BundledCube, most_bytes: int, most_items: int
) -> Payload:
    """The payload of a cube. Raises TooLarge, Unprocessable, NotFound, RegistryUnavailable."""
    name, layers = package.config.name, package.layers[cube.name]
    what = f"{name} {package.config.version}, cube {cube.name!r}"
    if cube.kind is Kind.EXPLICIT:
        data = blob(registry, name, layers[0], most_bytes)
        return ExplicitPayload(content=_items(data, what, most_items))
    config = blob(registry, name, layers[0], _ADAPTER_CONFIG_BYTES)
    weights = blob(registry, name, layers[1], most_bytes)
    content = {
        "adapter_config": _json(config, what),
        "adapter_model": base64.b64encode(weights).decode(),
    }
    return ParametricPayload(content=content)


def _items(data: bytes, what: str, most: int) -> list[Item]:
    if data.count(b"\n") > most:  # before each becomes an object of a hundred times its size
        raise TooLarge(f"{what}: a cube holds at most {most} items (`limits.items_per_cube`)")
    items = []
    lines = data.removesuffix(b"\n").split(b"\n") if data else []
    for number, line in enumerate(lines, start=1):
        try:
            items.append(Item.model_validate(_json(line, f"{what}:{number}", _LINE_BYTES)))
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise Unprocessable(f"{what}:{number}: no item: `{where}`: {problem['msg']}") from error
    return items


def _json(data: bytes, what: str, most_bytes: int = _ADAPTER_CONFIG_BYTES) -> Any:
    try:
        return strict_json.parse(data, what=what, most_bytes=most_bytes)
    except BadRequest as error:
        raise Unprocessable(error.message) from error


def digest_in(index: Index, version: str) -> str:
    """Digest of a version that may be installed. Raises NotFound, Unprocessable: it is withdrawn."""
    digest = index.versions.get(version)
    if digest is None:
        there = ", ".join(sorted(index.versions)[-5:]) or "none"
        raise NotFound(
            f"{index.name} has no version {version} (there are: {there})", param="version"
        )
    if (why := index.withdrawn.get(version)) is not None:
        raise Unprocessable(f"{index.name} {version} was withdrawn by its publisher: {why}")
    return digest
