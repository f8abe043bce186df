"""Registries: a folder, a real OCI registry, and a folder that is served; the command line over them."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time

import httpx
import pytest
from typer.testing import CliRunner

from memos_vllm.cli.main import app as cli
from memos_vllm.config.load import load_config
from memos_vllm.errors import NotFound
from memos_vllm.memstore.registry import RegistryUnavailable, opened
from memos_vllm.memstore.remote import RemoteRegistry
from memos_vllm.memstore.serve import create_app
from tests.bundles import ADMIN, HOURS, NAME, Bundler
from tests.http_server import served


@pytest.fixture
def docker_registry(tmp_path):
    """Debian's docker-registry over a folder; skipped where it is not installed."""
    program = shutil.which("docker-registry") or shutil.which("registry")
    if program is None:
        pytest.skip("no docker-registry on this machine (Debian: apt install docker-registry)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = tmp_path / "registry.yaml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'images'}}}, delete: {{enabled: true}}}}\n"
    )
    process = subprocess.Popen([program, "serve", str(config)], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            try:
                httpx.get(f"{url}/v2/", timeout=1)
                break
            except httpx.HTTPError:
                time.sleep(0.05)
        yield f"{url}/team/memory"
    finally:
        process.terminate()
        process.wait(20)


def test_a_bundle_goes_through_a_real_oci_registry(system, tmp_path, docker_registry):
    bundler = Bundler(system, tmp_path, opened(docker_registry))
    bundler.publish(description="The shop's handbook")
    bundler.publish("1.1.0", {"hours": [*HOURS, "Late on Friday."]})
    (shown,) = bundler.catalogue().search("HANDBOOK")
    assert (shown.index.newest(), shown.is_trusted) == ("1.1.0", False)
    assert bundler.catalogue().search("nothing like it") == []
    assert bundler.install("1.0.0").bundle.version == "1.0.0"
    bundler.approve()
    bundler.update()
    assert bundler.texts() == {f"{NAME}:hours": [*HOURS, "Late on Friday."]}
    with pytest.raises(NotFound):
        bundler.catalogue().show("absent")
    assert bundler.registry.names() == [NAME]


def test_a_registry_that_is_down_says_so_at_once():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(RegistryUnavailable, match="does not answer"):
        RemoteRegistry(url).manifest(NAME, "index")
    assert time.monotonic() - started < 5


def test_a_folder_that_is_served_is_a_registry(system, tmp_path):
    bundler = Bundler(system, tmp_path)
    bundler.publish(description="<script>alert(1)</script> handbook")
    with served(create_app(bundler.folder)) as url:
        remote = Bundler(system, tmp_path / "remote", opened(url))
        remote.key = bundler.key
        assert remote.registry.names() == [NAME]
        remote.install()
        assert remote.texts()[f"{NAME}:hours"] == HOURS
        with httpx.Client(base_url=url) as http:
            page = http.get("/", params={"q": "handbook"})
            assert page.status_code == 200
            assert "<script>" not in page.text
            assert "&lt;script&gt;" in page.text
            assert "script-src" not in page.headers["content-security-policy"]
            assert "no such bundle" in http.get("/", params={"q": "<b>other"}).text
            assert http.get("/v2/").status_code == 200
            assert http.get(f"/v2/{NAME}/tags/list").json()["tags"] == ["1.0.0", "index"]
            for path in (
                "/v2/absent/manifests/index",
                f"/v2/{NAME}/blobs/sha256:{'0' * 64}",
                f"/v2/{NAME}/manifests/9.9.9",
                "/v2/absent/tags/list",
            ):
                assert http.get(path).status_code == 404, path
            for path in (
                f"/v2/{NAME}/blobs/..%2f..%2findex.json",
                f"/v2/{NAME}/blobs/sha256:..",
                "/v2/..%2f..%2fetc/manifests/passwd",
                "/v2/../../../../etc/passwd",
                f"/v2/{NAME}/manifests/..%2f..%2f..%2fkey",
            ):
                reply = http.get(path)
                assert 400 <= reply.status_code < 500, path
                assert "PRIVATE" not in reply.text
            for method in ("PUT", "POST", "DELETE", "PATCH"):
                assert http.request(method, f"/v2/{NAME}/manifests/1.0.0").status_code == 405


def test_tags_of_a_folder_survive_a_repetition(system, tmp_path):
    bundler = Bundler(system, tmp_path)
    bundler.publish()
    bundler.publish()
    index = json.loads((bundler.folder / NAME / "index.json").read_text())
    assert len(index["manifests"]) == 2
    assert (bundler.folder / NAME / "oci-layout").exists()


def run(*arguments, code=0):
    result = CliRunner().invoke(cli, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_line_publishes_installs_and_uninstalls(config, system, tmp_path, monkeypatch):
    file = tmp_path / "memos.yaml"
    file.write_text(
        json.dumps(
            {
                "home": str(config.home),
                "embedder": {"model": config.embedder.model, "processes": 0},
                "chroma": {"process": False},
                "store": {"registries": {"team": str(tmp_path / "bundles")}},
            }
        )
    )
    assert load_config(file).store.registries
    bundler = Bundler(system, tmp_path)
    bundler.cubes({"hours": HOURS})
    system.close()
    key, own = tmp_path / "publisher.key", ("--config", file)
    made = run("store", "keys", "new", key)
    fingerprint = made.split("fingerprint ")[1].strip()
    assert key.stat().st_mode & 0o077 == 0
    run("store", "keys", "new", key, code=1)
    publish = ("store", "publish", NAME, "1.0.0", "--key", key, "--licence", "CC-BY-4.0")
    run(*publish, "--cube", "hours", "--tenant", "publisher", *own)
    run(*publish, "--cube", "absent", "--tenant", "publisher", *own, code=1)
    assert NAME in run("store", "search", "hand", *own)
    assert json.loads(run("store", "show", NAME, *own))["publisher"] == fingerprint
    run("store", "install", NAME, *own, code=1)
    run("store", "keys", "trust", f"{key}.pub", "--label", "Acme", *own)
    assert fingerprint in run("store", "keys", "list", "--json", *own)
    assert "quarantined" in run("store", "install", NAME, *own)
    assert "whole tenant" in run("store", "approve", NAME, *own)
    assert "active" in run("store", "list", *own)
    assert "no newer version" in run("store", "update", "--all", *own)
    assert "approve" in run("store", "subscribe", NAME, "--follow", "approve", *own)
    assert "serial 2" in run("store", "sign", NAME, "--key", key, *own)
    assert "bundle,version,day" in run("store", "usage", *own)
    assert "payload" in run("store", "entitle", NAME, "--key", key, "--to", "local")
    assert json.loads(run("store", "uninstall", NAME, *own))["complete"]
    run("store", "uninstall", NAME, *own, code=1)
    run("store", "keys", "distrust", fingerprint, *own)
    run("store", "install", NAME, *own, code=1)


def test_an_administrator_of_one_tenant_sees_no_other(system, tmp_path):
    bundler = Bundler(system, tmp_path)
    bundler.publish()
    bundler.install()
    assert [each.name for each in system.bundles.all(ADMIN.tenant)] == [NAME]
    assert system.bundles.all("publisher") == []
