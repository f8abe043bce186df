"""vLLM's other front ends: nothing goes round the server that memory stands in front of."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import subprocess
import sys

import pytest

from memos_vllm.cli.checks import check_front_end
from memos_vllm.cli.serve import refuse_other_front_ends
from memos_vllm.engine import front_ends
from memos_vllm.errors import ConfigError
from memos_vllm.governance.principal import Role
from memos_vllm.system import MemorySystem
from tests.conftest import make_config

vllm = pytest.importorskip("vllm")


@pytest.mark.parametrize(
    "flags", [["--grpc"], ["--grpc-port", "1"], ["--grpc_port=1"], ["--grpc-p", "1"], ["--omni"]]
)
def test_serve_refuses_a_flag_that_starts_another_front_end(flags):
    with pytest.raises(ConfigError, match="checks no keys"):
        refuse_other_front_ends(["--max-model-len", "9", *flags], {})


def test_serve_refuses_the_rust_front_end_and_a_configuration_that_names_one(tmp_path):
    with pytest.raises(ConfigError, match=front_ends.VARIABLE):
        refuse_other_front_ends([], {front_ends.VARIABLE: "1"})
    refuse_other_front_ends(["--host", "127.0.0.1"], {front_ends.VARIABLE: "0"})
    path = tmp_path / "vllm.yaml"
    path.write_text("port: 1\ngrpc_port: 2\n")
    for given in (["--config", str(path)], [f"--config={path}"]):
        with pytest.raises(ConfigError, match="grpc-port"):
            refuse_other_front_ends(given, {})
    path.write_text("port: 1\ngrpc: false\n")
    refuse_other_front_ends(["--config", str(path)], {})


def test_doctor_says_so(tmp_path, monkeypatch):
    monkeypatch.delenv(front_ends.VARIABLE, raising=False)
    assert check_front_end(make_config(tmp_path)).status == "ok"
    named = make_config(tmp_path, serve={"flags": {"grpc-port": 50051}})
    assert check_front_end(named).status == "broken"
    monkeypatch.setenv(front_ends.VARIABLE, "1")
    assert front_ends.VARIABLE in check_front_end(make_config(tmp_path)).found


RUST = ("--port", {front_ends.VARIABLE: "1"})


@pytest.mark.parametrize(
    ("argument", "environment", "with_key"),
    [("--grpc", {}, True), (*RUST, True), (*RUST, False)],
)
def test_the_engine_does_not_start_behind_one_where_keys_exist(
    tmp_path, argument, environment, with_key
):
    if with_key:
        system = MemorySystem(make_config(tmp_path)).open()
        system.keys.create("acme", Role.READER)
        system.close()
    code = "from memos_vllm.engine.general import register; register()"
    done = subprocess.run(
        [sys.executable, "-c", code, argument],
        env={**os.environ, "MEMOS__HOME": str(tmp_path), **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode != 0) is with_key, done.stderr
    assert ("without keys, salts and memory" in done.stderr) is with_key


def test_vllm_calls_general_plugins_where_an_error_ends_the_start():
    """A plugin that cannot be imported is skipped; what it raises when it is called is not."""
    import inspect

    from vllm.plugins import load_general_plugins

    source = inspect.getsource(load_general_plugins)
    assert "func()" in source
    assert "except" not in source


@pytest.mark.parametrize("package", sorted(front_ends.KNOWN))
def test_every_front_end_of_the_installed_vllm_is_known(package):
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip(f"this version of vLLM has no {package}")
    found = {module.name for module in pkgutil.iter_modules(spec.submodule_search_locations)}
    new = found - set(front_ends.KNOWN[package])
    assert not new, f"vLLM has new ways to start a server: are they behind memory? {new}"


def test_every_flag_of_vllm_for_another_protocol_is_refused():
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        cli_args = importlib.import_module("vllm.entrypoints.common.cli_args")  # from 0.33 on
    except ModuleNotFoundError:
        cli_args = pytest.importorskip("vllm.entrypoints.launchers.cli_args")
    parser = cli_args.make_arg_parser(FlexibleArgumentParser())
    flags = {flag for action in parser._actions for flag in action.option_strings}
    others = {flag for flag in flags if "grpc" in flag or "frontend" in flag}
    assert others
    for flag in others:
        assert front_ends.found([flag, "1"], {}), flag


def test_no_other_variable_of_vllm_names_a_front_end():
    from vllm import envs

    named = {name for name in envs.environment_variables if "FRONTEND" in name or "GRPC" in name}
    assert named <= {front_ends.VARIABLE, "VLLM_RUST_FRONTEND_PATH"}
