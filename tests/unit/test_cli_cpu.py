"""The data type of a model on a CPU."""

from __future__ import annotations

import json

import pytest

from memos_vllm.cli.cpu import dtype_flags, is_bfloat16_slow

AVX2 = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma\n"
AVX512 = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 avx512f avx512_bf16\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"
FLOAT32 = ["--dtype", "float32"]


@pytest.fixture
def cpu(tmp_path):
    def write(text):
        path = tmp_path / "cpuinfo"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(("text", "slow"), [(AVX2, True), (AVX512, False), (ARM, False)])
def test_bfloat16_is_slow_on_an_x86_without_avx_512(cpu, text, slow):
    assert is_bfloat16_slow(cpu(text)) is slow


@pytest.fixture
def model(tmp_path):
    def write(**config):
        folder = tmp_path / f"model-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        return str(folder)

    return write


def test_where_nothing_is_known_of_the_cpu_nothing_is_changed(tmp_path, model):
    assert dtype_flags(model(), [], tmp_path / "none") == []


def test_a_type_that_is_chosen_stays_and_a_change_is_told(cpu, model, capsys):
    path, plain = cpu(AVX2), model(torch_dtype="bfloat16")
    assert dtype_flags(plain, ["port"], path) == FLOAT32
    assert "--dtype bfloat16 keeps it" in capsys.readouterr().err
    for flag in ("dtype", "quantization", "revision"):
        assert dtype_flags(plain, [flag], path) == []
    assert dtype_flags(plain, [], cpu(AVX512)) == []
    assert capsys.readouterr().err == ""


def test_quantised_models_and_those_that_cannot_be_read_keep_their_type(
    cpu, model, tmp_path, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    path = cpu(AVX2)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    quantised = model(quantization_config={"quant_method": "awq"})
    for name in (quantised, str(tmp_path / "m.gguf"), "m", "zed/has-this", "a/b/c"):
        assert dtype_flags(name, [], path) == []
