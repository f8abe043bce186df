"""Identity of the served model: by the contents of its weights, or, with a warning, by its name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm", reason="the fingerprint is of vLLM's configuration: make venv")

import huggingface_hub

from memos_vllm.engine.kv.fingerprint import describe, fingerprint


def config_of(model: str, revision: str | None = None) -> Any:
    shape = SimpleNamespace(model_type="llama", hidden_size=64)
    return SimpleNamespace(
        model_config=SimpleNamespace(
            model=model,
            revision=revision,
            hf_text_config=shape,
            quantization=None,
            dtype="bfloat16",
            get_num_layers=lambda parallel: 2,
        ),
        load_config=SimpleNamespace(load_format="auto"),
        cache_config=SimpleNamespace(cache_dtype="auto"),
        parallel_config=None,
    )


def test_weights_count_by_their_contents_and_without_a_warning(tmp_path, caplog):
    digests = []
    for name, content in (("a", b"one"), ("b", b"one"), ("c", b"two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(content)
        digests.append(fingerprint(config_of(str(tmp_path / name)), tmp_path / "cache"))
    assert digests[0] == digests[1] != digests[2]
    assert caplog.records == []


@pytest.mark.parametrize(
    "name",
    ["nobody-has-this/model", "a name : of no hub"],  # prose: name of a model
)
def test_a_model_without_weight_files_is_its_name_and_a_warning_says_so(
    tmp_path, monkeypatch, caplog, name
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert describe(config_of(name, "v1"), tmp_path)["weights"] == [name, "v1"]
    logged = [record.getMessage() for record in caplog.records]
    assert len(logged) == 2
    assert f"the weight files of {name} are not found" in logged[0]
    assert f"KV is identified by the name {name}, revision v1" in logged[1]


def test_a_folder_without_weights_is_its_name_and_a_warning_says_so(tmp_path, caplog):
    (tmp_path / "model").mkdir()
    name = str(tmp_path / "model")
    assert describe(config_of(name), tmp_path / "cache")["weights"] == [name, None]
    assert "not by the contents of its weights" in caplog.text


def test_a_bug_behind_the_look_up_is_not_taken_for_missing_weights(tmp_path, monkeypatch):
    def breaks(*_: Any, **__: Any) -> str:
        raise TypeError("our own")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", breaks)
    with pytest.raises(TypeError, match="our own"):
        describe(config_of("nobody-has-this/model"), tmp_path)  # prose: name of a model
