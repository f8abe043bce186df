"""MemStore: a registry that lies, hides versions or sends bombs installs nothing."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from memos_vllm.cube.bundle import Follow
from memos_vllm.errors import Conflict, Forbidden, MemosError, NotFound, TooLarge, Unprocessable
from memos_vllm.memstore.model import (
    ADAPTER_WEIGHTS,
    ARTIFACT,
    CONFIG,
    CUBE,
    INDEX,
    ITEMS,
    MANIFEST_BYTES,
    Manifest,
    check_name,
    descriptor,
    digest_of,
)
from memos_vllm.memstore.publish import _next, _sign
from memos_vllm.memstore.registry import FolderRegistry, RegistryUnavailable
from memos_vllm.memstore.remote import RemoteRegistry
from memos_vllm.memstore.signing import PublisherKey
from memos_vllm.system import MemorySystem
from tests.bundles import ADMIN, HOURS, NAME, Bundler
from tests.conftest import make_config


@pytest.fixture
def system(tmp_path):
    opened = MemorySystem(make_config(tmp_path, store={"bundle_bytes": 1 << 20})).open()
    yield opened
    opened.close()


def config(**fields):
    base = {
        "format": "memos-bundle-1",
        "name": NAME,
        "version": "1.0.0",
        "licence": "MIT",
        "created": "2026-01-01T00:00:00Z",
        "cubes": [{"name": "hours", "items": 1}],
    }
    return json.dumps({**base, **fields}).encode()


ITEM = json.dumps({"text": "The shop opens at nine."}).encode() + b"\n"


class Forger:
    """Publishes, under a trusted signature, a manifest and blobs that a test has made."""

    def __init__(self, bundler):
        self.bundler, self.registry = bundler, bundler.registry

    def publish(self, manifest, *blobs, name=NAME, version="1.0.0"):
        for blob in blobs:
            self.registry.put_blob(name, blob)
        data = manifest if isinstance(manifest, bytes) else self.dumped(manifest)
        self.registry.put_manifest(name, version, data)
        index = _next(None, name, timedelta(days=1), versions={version: digest_of(data)})
        _sign(self.registry, self.bundler.key, index)

    @staticmethod
    def dumped(manifest):
        return json.dumps(manifest.model_dump(mode="json")).encode()


@pytest.fixture
def forger(bundler):
    return Forger(bundler)


def layer(data=ITEM, media=ITEMS, cube="hours"):
    return descriptor(data, media, **{CUBE: cube})


def manifest_of(raw, layers, **fields):
    made = Manifest(artifact_type=ARTIFACT, config=descriptor(raw, CONFIG), layers=layers)
    return made.model_copy(update=fields)


def nothing_is_there(bundler):
    assert bundler.texts() == {}
    assert bundler.system.bundles.all("acme") == []


def deep(depth=100_000):
    return b'{"text": ' + b"[" * depth + b"]" * depth + b"}\n"


HOSTILE = {
    "a layer of no cube": lambda: (config(), [layer(cube="other")]),
    "two layers of one cube": lambda: (config(), [layer(), layer(b'{"text": "B"}\n')]),
    "no layer": lambda: (config(), []),
    "a media type that does not match": lambda: (config(), [layer(media=ADAPTER_WEIGHTS)]),
    "two cubes of one name": lambda: (
        config(cubes=[{"name": "hours"}, {"name": "hours"}]),
        [layer()],
    ),
    "a cube with a slash": lambda: (config(cubes=[{"name": "../hours"}]), [layer(cube="../hours")]),
    "another name in the config": lambda: (config(name="other"), [layer()]),
    "another version in the config": lambda: (config(version="2.0.0"), [layer()]),
    "no licence": lambda: (config(licence="whatever I like"), [layer()]),
    "an unknown field": lambda: (config(shell="rm -rf /"), [layer()]),
    "activation memory": lambda: (
        config(cubes=[{"name": "hours", "kind": "activation"}]),
        [layer()],
    ),
    "no JSON in a layer": lambda: (config(), [layer(b"\xff\xfe\n")]),
    "deep JSON in a layer": lambda: (config(), [layer(deep())]),
    "deep JSON as config": lambda: (deep(), [layer()]),
    "an item without text": lambda: (config(), [layer(b'{"text": ""}\n')]),
    "an item with a state": lambda: (config(), [layer(b'{"text": "A", "state": "frozen"}\n')]),
    "a number that is none": lambda: (config(), [layer(b'{"text": "A", "claim": NaN}\n')]),
    "a priority beyond all": lambda: (
        config(cubes=[{"name": "hours", "priority": 10**9}]),
        [layer()],
    ),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_signed_bundle_that_is_malformed_installs_nothing(forger, bundler, kind):
    raw, layers = HOSTILE[kind]()
    blobs = [raw, ITEM, b'{"text": "B"}\n', deep(), b"\xff\xfe\n", b'{"text": ""}\n']
    blobs += [b'{"text": "A", "state": "frozen"}\n', b'{"text": "A", "claim": NaN}\n']
    forger.publish(manifest_of(raw, layers), *blobs)
    with pytest.raises((Unprocessable, TooLarge)):
        bundler.install()
    nothing_is_there(bundler)


def test_lying_sizes_and_digests_are_found_while_reading(forger, bundler):
    raw = config()
    blob = bundler.registry.path(NAME, digest_of(ITEM))
    for size in (len(ITEM) - 1, len(ITEM) + 1):
        wrong = layer().model_copy(update={"size": size})
        forger.publish(manifest_of(raw, [wrong]), raw, ITEM)
        with pytest.raises(Unprocessable, match="another size"):
            bundler.install()
    forger.publish(manifest_of(raw, [layer()]), raw, ITEM)
    blob.write_bytes(ITEM.replace(b"nine", b"nils"))
    with pytest.raises(Unprocessable, match="other bytes"):
        bundler.install()
    blob.unlink()
    with pytest.raises(NotFound):
        bundler.install()
    nothing_is_there(bundler)


def test_a_bundle_beyond_the_limit_is_refused_before_it_is_read(forger, bundler):
    raw = config()
    huge = layer().model_copy(update={"size": 1 << 40})
    forger.publish(manifest_of(raw, [huge]), raw)
    with pytest.raises(TooLarge, match=r"store\.bundle_bytes"):
        bundler.install()
    forger.publish(b" " * (MANIFEST_BYTES + 1))
    with pytest.raises((Unprocessable, TooLarge)):
        bundler.install()
    nothing_is_there(bundler)


def test_a_registry_that_never_ends_a_blob_is_cut_off(forger, bundler, monkeypatch):
    raw = config()
    forger.publish(manifest_of(raw, [layer()]), raw, ITEM)
    stream = FolderRegistry.stream

    def endless(self, name, digest):
        if digest != digest_of(ITEM):
            yield from stream(self, name, digest)
            return
        for _ in range(1000):
            yield b"x" * (1 << 20)
        raise AssertionError("a gigabyte was read of a layer of a few bytes")

    monkeypatch.setattr(FolderRegistry, "stream", endless)
    with pytest.raises(Unprocessable, match="another size"):
        bundler.install()


def test_what_is_unsigned_or_signed_by_another_is_refused(bundler, tmp_path):
    other = PublisherKey.create(tmp_path / "other")
    bundler.publish(key=other)
    with pytest.raises(Forbidden, match="is signed by"):
        bundler.install()
    with pytest.raises(Forbidden, match="no trusted publisher"):
        bundler.install(publisher=None)
    unsigned = json.dumps({"payload": "", "payloadType": INDEX, "signatures": []}).encode()
    bundler.registry.put_blob(NAME, unsigned)
    made = Manifest(
        artifact_type=INDEX, config=descriptor(b"{}", "x"), layers=[descriptor(unsigned, INDEX)]
    )
    bundler.registry.put_manifest(NAME, "index", Forger.dumped(made))
    with pytest.raises(Unprocessable, match="not signed"):
        bundler.install(publisher=None)
    nothing_is_there(bundler)


def test_a_tag_that_points_to_another_version_does_not_matter(bundler):
    """The signed index names digests; tags are for people."""
    bundler.publish("1.0.0")
    bundler.publish("1.1.0", {"hours": ["Open always."]})
    first = bundler.registry.manifest(NAME, "1.0.0")
    bundler.registry.put_manifest(NAME, "1.1.0", first)
    bundler.install()
    assert bundler.texts() == {f"{NAME}:hours": ["Open always."]}


def test_an_index_of_before_is_refused(bundler):
    """A registry that goes back, or hides newer versions, is not followed."""
    bundler.publish("1.0.0")
    old = bundler.registry.manifest(NAME, "index")
    bundler.publish("1.1.0", {"hours": ["Open always."]})
    bundler.install(follow=Follow.AUTO)
    bundler.registry.put_manifest(NAME, "index", old)
    with pytest.raises(Unprocessable, match="older index"):
        bundler.check()
    bundler.store.uninstall(ADMIN, NAME)
    with pytest.raises(Unprocessable, match="older index"):
        bundler.install()
    nothing_is_there(bundler)


def test_an_index_that_has_expired_is_refused_until_it_is_signed_again(bundler):
    bundler.publish(valid=timedelta(seconds=-1))
    with pytest.raises(Unprocessable, match="memos store sign"):
        bundler.install()
    bundler.withdraw("1.0.0")
    with pytest.raises(Unprocessable, match="withdrawn"):
        bundler.install()
    bundler.publish("1.0.1")
    assert bundler.install().bundle.version == "1.0.1"


def test_an_index_of_another_bundle_is_refused(bundler):
    bundler.publish(name="other")
    index = bundler.registry.manifest("other", "index")
    blob = json.loads(index)["layers"][0]["digest"]
    bundler.registry.put_blob(NAME, bundler.registry.path("other", blob).read_bytes())
    bundler.registry.put_manifest(NAME, "index", index)
    with pytest.raises(Unprocessable, match="that of other"):
        bundler.install()


def test_a_bundle_does_not_change_hands(bundler, tmp_path, system):
    bundler.publish()
    bundler.install()
    bundler.store.uninstall(ADMIN, NAME)
    another = Bundler(system, tmp_path / "another")
    another.publish("9.0.0", {"hours": ["Pay here."]})
    with pytest.raises(Conflict, match="another publisher"):
        another.install()
    nothing_is_there(bundler)


def test_a_version_that_is_published_does_not_change(bundler):
    bundler.publish()
    assert bundler.publish() == bundler.publish(), "the same content is the same version"
    with pytest.raises(Conflict, match="higher version"):
        bundler.publish(contents={"hours": ["Other."]})


@pytest.mark.parametrize(
    "name", ["", "..", "a/b", "A", "a..b", "a" * 81, "a\x00", "-a", "a ", "ä", "a:b", "index/../x"]
)
def test_names_are_no_paths(name, bundler):
    with pytest.raises(MemosError):
        check_name(name)
    with pytest.raises(MemosError):
        bundler.store.install(ADMIN, "team", bundler.registry, name)


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "md5:0", "", "sha256:", "x" * 1000])
def test_digests_are_no_paths(digest, bundler):
    with pytest.raises(Unprocessable):
        bundler.registry.path(NAME, digest)


@pytest.mark.parametrize(
    "url",
    [
        "http://registry.example.com/team",
        "https://user:secret@registry.example.com",
        "https://registry.example.com/?x=1",
        "https://",
    ],
)
def test_a_location_that_is_unsafe_is_no_registry(url):
    with pytest.raises(MemosError):
        RemoteRegistry(url)


def test_texts_of_a_bundle_are_redacted_as_the_tenant_wants(bundler, system):
    bundler.publish(contents={"hours": ["The card number is 4111 1111 1111 1111, open at nine."]})
    bundler.install()
    assert "4111 1111 1111 1111" not in str(bundler.texts())


def test_a_downloaded_half_is_nothing(bundler, monkeypatch):
    """A registry that breaks off in the second cube: neither is installed."""
    bundler.publish(contents={"a": HOURS, "b": ["Second."]})
    stream, seen = FolderRegistry.stream, []

    def breaking(self, name, digest):
        seen.append(digest)
        chunks = list(stream(self, name, digest))
        if len(seen) == 5:
            raise RegistryUnavailable("gone")
        yield from chunks

    monkeypatch.setattr(FolderRegistry, "stream", breaking)
    with pytest.raises(MemosError, match="gone"):
        bundler.install()
    nothing_is_there(bundler)
