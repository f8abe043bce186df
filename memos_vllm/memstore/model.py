"""Forms of a bundle: an OCI artifact whose config describes cubes and whose layers hold them.

    <name>:<version>     manifest (artifact type ARTIFACT)
      config             `BundleConfig`, JSON
      layers             of each cube: its items (JSON lines), or configuration and weights of a LoRA adapter
    <name>:index         manifest with one layer: the signed `Index`, versions with the digests of their manifests

Everything in a bundle hangs on the one signature of the index: it names the digest of each manifest, and a manifest
the digest and size of each layer. Nothing is parsed before its digest was compared.

Source: OCI image specification 1.1, artifacts; the index follows the roles `timestamp` and `snapshot` of The Update
Framework, joined in one document.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeVar

import semver
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from memos_vllm import strict_json
from memos_vllm.cube.ids import sha256
from memos_vllm.cube.model import Kind, Placement, Tag
from memos_vllm.cube.moments import Moment
from memos_vllm.errors import BadRequest, Unprocessable
from memos_vllm.parametric.training.order import Question

ARTIFACT = "application/vnd.memos.bundle.v1"
CONFIG = "application/vnd.memos.bundle.config.v1+json"
ITEMS = "application/vnd.memos.items.v1+jsonl"
ADAPTER_CONFIG = "application/vnd.memos.adapter.config.v1+json"
ADAPTER_WEIGHTS = "application/vnd.memos.adapter.weights.v1+safetensors"
INDEX = "application/vnd.memos.bundle.index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
EMPTY_BYTES = b"{}"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX_TAG = "index"
CUBE = "dev.memos.cube"
"""Annotation of a layer: the name of its cube."""
PUBLISHER = "dev.memos.publisher"
"""Annotation of an index's manifest: the public key, for those who do not have it yet."""
MANIFEST_BYTES = 4 << 20
CONFIG_BYTES = 4 << 20
MOST_CUBES = 200
"""All are changed in one transaction: at 10 ms each, a bundle holds other writers of SQLite for two seconds."""
MOST_QUESTIONS = 64
"""Of an adapter's exam."""
_NAME, _NAME_LENGTH = r"[a-z0-9]+(?:[._-][a-z0-9]+)*", 80
_DIGEST = r"^sha256:[0-9a-f]{64}$"
_SHORT = StringConstraints(min_length=1, max_length=500, pattern=r"^[^\x00-\x1f]+$")


def _version(text: str) -> str:
    parsed = semver.Version.parse(text)
    if parsed.build:  # `+` is no character of a tag
        raise ValueError("a bundle's version has no build metadata (`+…`)")
    return str(parsed)


def _licence(text: str) -> str:
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression as error:
        raise ValueError(
            "no SPDX licence expression, such as `CC-BY-4.0` or `LicenseRef-acme`"
        ) from error


Digest = Annotated[str, StringConstraints(pattern=_DIGEST)]
BundleName = Annotated[str, StringConstraints(max_length=_NAME_LENGTH, pattern=f"^{_NAME}$")]
BundleVersion = Annotated[str, StringConstraints(max_length=60), AfterValidator(_version)]
CubeName = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f/]+$")
]
Words = Annotated[str, _SHORT]
Licence = Annotated[str, StringConstraints(max_length=200), AfterValidator(_licence)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BundledCube(Strict):
    """A cube as its publisher describes it."""

    name: CubeName
    kind: Literal[Kind.EXPLICIT, Kind.PARAMETRIC] = Kind.EXPLICIT
    placement: Placement = Placement.RETRIEVED
    priority: int = Field(0, ge=-1000, le=1000)
    tags: list[Tag] = Field(default_factory=list, max_length=64)
    items: int = Field(0, ge=0, description="items of text")
    base_model: Words | None = Field(None, description="fingerprint of the model of an adapter")
    exam: list[Question] = Field(
        default_factory=list,
        max_length=MOST_QUESTIONS,
        description="what an adapter answers better than the base model",
    )


class BundleConfig(Strict):
    """Config of a version's manifest."""

    format: Literal["memos-bundle-1"] = "memos-bundle-1"
    name: BundleName
    version: BundleVersion
    description: str = Field("", max_length=2000, pattern=r"^[^\x00]*$")
    authors: list[Words] = Field(default_factory=list, max_length=50)
    licence: Licence
    terms: str | None = Field(None, max_length=20_000, pattern=r"^[^\x00]*$")
    price: Words | None = Field(
        None, description="as text; with one, an entitlement is needed before it is used"
    )
    languages: list[Words] = Field(default_factory=list, max_length=100)
    provenance: list[Words] = Field(
        default_factory=list, max_length=200, description="what it was made from"
    )
    created: Moment
    cubes: list[BundledCube] = Field(min_length=1, max_length=MOST_CUBES)


class Index(Strict):
    """What a publisher signs: the versions of one bundle."""

    format: Literal["memos-bundle-index-1"] = "memos-bundle-index-1"
    name: BundleName
    serial: int = Field(ge=1, description="counted up with each change")
    issued: Moment
    expires: Moment
    versions: dict[BundleVersion, Digest] = Field(max_length=10_000)
    withdrawn: dict[BundleVersion, Words] = Field(
        default_factory=dict, max_length=10_000, description="versions not to install, with why"
    )

    def newest(self) -> str | None:
        """The highest version that is not withdrawn; one with a pre-release mark only if all have it."""
        there = [version for version in self.versions if version not in self.withdrawn]
        final = [version for version in there if not semver.Version.parse(version).prerelease]
        return max(final or there, key=semver.Version.parse, default=None)


class _Oci(BaseModel):
    """A document of the OCI image specification, whose unknown fields are read over."""

    model_config = ConfigDict(
        extra="ignore", alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True
    )


class Descriptor(_Oci):
    media_type: Annotated[str, StringConstraints(max_length=255)]
    digest: Digest
    size: int = Field(ge=0)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=100)


class Manifest(_Oci):
    schema_version: Literal[2] = 2
    media_type: Literal["application/vnd.oci.image.manifest.v1+json"] = (
        "application/vnd.oci.image.manifest.v1+json"
    )
    artifact_type: Annotated[str, StringConstraints(max_length=255)]
    config: Descriptor
    layers: list[Descriptor] = Field(max_length=2 * MOST_CUBES)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=100)


_Document = TypeVar("_Document", bound=BaseModel)


def descriptor(data: bytes, media_type: str, **annotations: str) -> Descriptor:
    return Descriptor(
        media_type=media_type,
        digest=digest_of(data),
        size=len(data),
        annotations=annotations,
    )


def digest_of(data: bytes) -> str:
    return f"sha256:{sha256(data)}"


def parsed(model: type[_Document], data: bytes, what: str, most_bytes: int) -> _Document:
    """A document of a bundle. Raises Unprocessable: it is none; the message names the field."""
    try:
        value: Any = strict_json.parse(data, what=what, most_bytes=most_bytes)
        return model.model_validate(value)
    except BadRequest as error:
        raise Unprocessable(error.message) from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"]) or "the document"
        raise Unprocessable(f"{what}: `{where}`: {problem['msg']}") from error


def check_name(name: str) -> str:
    """Raise BadRequest: no name of a bundle."""
    if len(name) > _NAME_LENGTH or not re.fullmatch(_NAME, name):
        raise BadRequest(
            f"{name!r} is no name of a bundle: lower-case letters and digits, parts joined by `.`, `-` or `_`",
            param="name",
        )
    return name


def check_version(version: str) -> str:
    """The canonical form of a version. Raises BadRequest."""
    try:
        return _version(version)
    except ValueError as error:
        raise BadRequest(
            f"{version!r} is no version: three numbers, such as `1.4.0` or `2.0.0-rc.1`",
            param="version",
        ) from error
