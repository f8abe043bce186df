"""0001: LoRA operators for the CPU that keep rows of the base model out of every adapter.

vLLM's own take `weights[indices]` for each row of the batch.  A row without an adapter has the index
-1, which in torch is the last adapter; and each row gets a copy of its adapter's weights, which for a
long prompt is most of the time.  These multiply the rows of one adapter together and do not
change rows with a negative index, as the GPU's kernels do.  See `patches/0001-cpu-lora.md`.

Shapes: inputs (rows, in); weights (adapters, 1, out, in) or (adapters, out, in); output (rows, ≥ out);
indices (rows,), the adapter of each row.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence

import torch

NAME = "0001-cpu-lora"
_MARK = "_memos_patched"
_OPERATORS = "vllm.lora.ops.torch_ops"
_USERS = (f"{_OPERATORS}.lora_ops", _OPERATORS, "vllm.lora.punica_wrapper.punica_cpu")


def install() -> bool:
    """Replace vLLM's operators in each module that uses them; False: the platform is no CPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return False
    for name in _USERS:
        module = importlib.import_module(name)
        if not getattr(module, _MARK, False):
            for function in REPLACEMENTS:
                setattr(module, function.__name__, function)
            setattr(module, _MARK, True)
    return True


def bgmv_shrink(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    scaling: float = 1.0,
) -> None:
    """output[row] = scaling · inputs[row] @ weights[indices[row]].T"""
    _shrink(inputs, lora_b_weights, output_tensor, _rows(lora_indices_tensor.tolist()), scaling)


def sgmv_shrink(
    inputs: torch.Tensor,
    lora_a_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    b_seq_start_loc: torch.Tensor,
    seq_len_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    batches: int,
    max_seq_length: int,
    token_nums: int,
    scaling: float,
) -> None:
    """`bgmv_shrink` with one index for each run of rows."""
    rows = _rows_of_runs(lora_indices_tensor, seq_len_tensor)
    _shrink(inputs, lora_a_weights, output_tensor, rows, scaling)


def bgmv_expand(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    add_inputs: bool = True,
) -> None:
    """output[row] (+)= inputs[row] @ weights[indices[row]].T, as far as both are wide."""
    rows = _rows(lora_indices_tensor.tolist())
    _expand(inputs, lora_b_weights, output_tensor, rows, 0, output_tensor.shape[1], add_inputs)


def sgmv_expand(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    b_seq_start_loc: torch.Tensor,
    seq_len_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    batches: int,
    max_seq_length: int,
    token_nums: int,
    add_inputs: bool = False,
) -> None:
    """`bgmv_expand` with one index for each run of rows."""
    rows = _rows_of_runs(lora_indices_tensor, seq_len_tensor)
    _expand(inputs, lora_b_weights, output_tensor, rows, 0, output_tensor.shape[1], add_inputs)


def bgmv_expand_slice(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = True,
) -> None:
    """`bgmv_expand` into columns `slice_offset:slice_offset + slice_size`."""
    rows = _rows(lora_indices_tensor.tolist())
    _expand(inputs, lora_b_weights, output_tensor, rows, slice_offset, slice_size, add_inputs)


def sgmv_expand_slice(
    inputs: torch.Tensor,
    lora_b_weights: torch.Tensor,
    output_tensor: torch.Tensor,
    b_seq_start_loc: torch.Tensor,
    seq_len_tensor: torch.Tensor,
    lora_indices_tensor: torch.Tensor,
    batches: int,
    max_seq_length: int,
    token_nums: int,
    slice_offset: int,
    slice_size: int,
    add_inputs: bool = False,
) -> None:
    """`bgmv_expand_slice` with one index for each run of rows."""
    rows = _rows_of_runs(lora_indices_tensor, seq_len_tensor)
    _expand(inputs, lora_b_weights, output_tensor, rows, slice_offset, slice_size, add_inputs)


REPLACEMENTS = (
    bgmv_shrink,
    sgmv_shrink,
    bgmv_expand,
    sgmv_expand,
    bgmv_expand_slice,
    sgmv_expand_slice,
)


Rows = Mapping[int, Sequence[int]]
"""The rows of the batch that have each adapter, in order; those of the base model are left out."""


def _rows(indices: Sequence[int]) -> Rows:
    found: dict[int, list[int]] = {}
    for row, index in enumerate(indices):
        if index >= 0:
            found.setdefault(index, []).append(row)
    return found


def _rows_of_runs(indices: torch.Tensor, lengths: torch.Tensor) -> Rows:
    found: dict[int, Sequence[int]] = {}
    start = 0
    for index, length in zip(indices.tolist(), lengths.tolist(), strict=True):
        run = range(start, start + length)
        start += length
        if index >= 0:
            found[index] = [*found[index], *run] if index in found else run
    return found


def _shrink(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, rows: Rows, scaling: float
) -> None:
    for rows_out, product in _products(inputs, weights, output, rows):
        output[rows_out, : product.shape[1]] = product if scaling == 1 else scaling * product


def _expand(
    inputs: torch.Tensor,
    weights: torch.Tensor,
    output: torch.Tensor,
    rows: Rows,
    offset: int,
    width: int,
    adds: bool,
) -> None:
    for rows_out, product in _products(inputs, weights, output, rows):
        # Adapter and model may pad their outputs differently.
        end = min(offset + width, offset + product.shape[1], output.shape[1])
        product, columns = product[:, : end - offset], output[:, offset:end]
        if not adds:
            columns[rows_out] = product
        elif isinstance(rows_out, slice):
            columns[rows_out].add_(product)
        else:
            columns.index_add_(0, rows_out, product)


def _products(
    inputs: torch.Tensor, weights: torch.Tensor, output: torch.Tensor, rows: Rows
) -> Iterator[tuple[slice | torch.Tensor, torch.Tensor]]:
    """For each adapter of the batch: its rows of the output, and their product with its weights."""
    if weights.dim() == 4:
        weights = weights.squeeze(1)
    count = output.shape[0]
    if inputs.shape[0] == 1 and count != 1:
        inputs, rows = inputs.expand(count, -1), {index: range(count) for index in rows}
    inputs = inputs.to(output.dtype)
    for index, wanted in rows.items():
        first, last = wanted[0], wanted[-1] + 1
        rows_out: slice | torch.Tensor = slice(first, min(last, count))
        if last - first != len(wanted):
            rows_out = torch.tensor([row for row in wanted if row < count])
        yield rows_out, inputs[rows_out] @ weights[index].to(output.dtype).T
