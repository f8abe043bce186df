"""Segment files: a standard format, whole or absent, and overwritten when they are wiped."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from memos_vllm.activation import erase, files
from memos_vllm.activation.direct_io import Scratch
from memos_vllm.activation.erase import wipe
from memos_vllm.activation.files import SegmentReader, Shape
from memos_vllm.errors import DamagedPayload

SHAPE = Shape(layers=3, tokens=5, heads=2, head_dim=4, dtype=torch.float32)
METADATA = {"key": "k", "start": "16"}
NO_FOLDER = (NotADirectoryError, FileExistsError)


def layers_of(shape: Shape = SHAPE, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = shape.sizes()
    return list(torch.randn(*sizes, generator=generator).to(shape.dtype))


def read(path: Path) -> tuple[dict[str, str], Shape, torch.Tensor]:
    with SegmentReader(path) as reader:
        layers = [layer.clone() for layer in reader.layers(Scratch())]
    return reader.metadata, reader.shape, torch.stack(layers)


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "new" / "folder" / "one.safetensors"
    files.write(made, SHAPE, layers_of(), METADATA)
    return made


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, bytes, int]:
    """A path for changed copies, the bytes of a whole file, and the length of its header."""
    path = tmp_path_factory.mktemp("files") / "one"
    size = files.write(path, SHAPE, layers_of(), METADATA)
    return path, path.read_bytes(), size - SHAPE.bytes


# -- the format -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_written_file_is_read_and_the_safetensors_library_opens_it(tmp_path, dtype):
    shape = Shape(3, 5, 2, 4, dtype)
    layers = layers_of(shape)
    size = files.write(tmp_path / "one", shape, layers, METADATA)
    assert size == (tmp_path / "one").stat().st_size
    metadata, found, tensor = read(tmp_path / "one")
    assert (metadata, found) == (METADATA, shape)
    assert torch.equal(tensor, torch.stack(layers))
    with safe_open(tmp_path / "one", framework="pt") as opened:
        assert list(opened.keys()) == ["kv"]
        assert torch.equal(opened.get_tensor("kv"), torch.stack(layers))
        assert METADATA.items() <= opened.metadata().items()


def test_layers_may_share_their_memory_and_need_not_be_contiguous(tmp_path):
    def in_one_buffer():
        buffer = torch.empty(4, 2, 5, 2).permute(1, 2, 3, 0)
        for layer in layers_of():
            yield buffer.copy_(layer)

    files.write(tmp_path / "one", SHAPE, in_one_buffer(), METADATA)
    assert torch.equal(read(tmp_path / "one")[2], torch.stack(layers_of()))


def test_scratch_memory_is_used_again_and_grows():
    scratch = Scratch()
    first = scratch.take(64)
    assert scratch.take(32).data_ptr() == first.data_ptr()
    assert len(scratch.take(4096)) == 4096


def test_a_copy_is_the_same_file(path, tmp_path):
    size = files.copy(path, tmp_path / "other" / "one")
    assert (tmp_path / "other" / "one").read_bytes() == path.read_bytes()
    assert size == path.stat().st_size
    assert files.check(tmp_path / "other" / "one").metadata == METADATA


# -- damage ---------------------------------------------------------------------------------------


def _is_refused(path: Path, data: bytes) -> bool:
    """Whether these bytes are refused; if not, they must hold the tensor that was written."""
    path.write_bytes(data)
    try:
        _, shape, tensor = read(path)
    except DamagedPayload:
        return True
    assert shape == SHAPE
    assert torch.equal(tensor, torch.stack(layers_of()))
    return False


def test_every_other_length_is_refused(whole):
    path, data, _ = whole
    assert not _is_refused(path, data)
    for length in range(len(data)):
        assert _is_refused(path, data[:length]), length
    assert _is_refused(path, data + b"\0")


def test_no_bit_of_the_header_turns_into_a_wrong_tensor(whole):
    path, data, header = whole
    refused = 0
    for bit in range(8 * header):
        refused += _is_refused(path, _flip(data, bit))
    assert refused > 6 * header, "only padding, offsets and others' metadata may go unnoticed"


@given(st.data())
def test_bits_that_flip_among_the_numbers_are_noticed(whole, data):
    path, good, header = whole
    places = st.integers(8 * header, 8 * len(good) - 1)
    changed = good
    for bit in data.draw(st.sets(places, min_size=1, max_size=9)):
        changed = _flip(changed, bit)
    assert _is_refused(path, changed)


def test_layers_that_changed_places_are_noticed(whole):
    path, data, header = whole
    size = SHAPE.layer_bytes
    first, second = data[header : header + size], data[header + size : header + 2 * size]
    assert _is_refused(path, data[:header] + second + first + data[header + 2 * size :])


def test_a_layer_without_a_checksum_is_noticed(whole):
    path, data, _ = whole
    end = data.rindex(b'"}', 0, data.index(b'"kv"'))
    assert _is_refused(path, data[: end - 32] + b" " * 32 + data[end:])


def test_a_file_that_is_cut_while_it_is_read_is_noticed(path):
    with SegmentReader(path) as reader:
        layers = reader.layers(Scratch())
        next(layers)
        os.truncate(path, path.stat().st_size - 1)
        next(layers)
        with pytest.raises(DamagedPayload, match="shorter"):
            next(layers)


def _flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_check_reads_everything(path):
    assert files.check(path).shape == SHAPE
    path.write_bytes(_flip(path.read_bytes(), 8 * path.stat().st_size - 1))
    with pytest.raises(DamagedPayload, match="checksum"):
        files.check(path)
    with pytest.raises(FileNotFoundError):
        files.check(path.with_name("none"))


# -- whole or not at all ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("no device"), KeyboardInterrupt()])
def test_a_write_that_breaks_off_leaves_nothing(tmp_path, error):
    def layers():
        yield layers_of()[0]
        assert files_in(tmp_path), "it is under way"
        raise error

    with pytest.raises(type(error)):
        files.write(tmp_path / "one", SHAPE, layers(), METADATA)
    assert files_in(tmp_path) == []


def test_a_write_that_breaks_off_leaves_the_file_that_was_there(path):
    with pytest.raises(AttributeError):
        files.write(path, SHAPE, [layers_of(seed=1)[0], None], METADATA)
    assert torch.equal(read(path)[2], torch.stack(layers_of()))
    assert files_in(path.parent) == [path.name]


def test_a_full_disk_leaves_nothing(tmp_path):
    full = OSError(28, "No space left on device")
    with mock.patch.object(os, "fsync", side_effect=full), pytest.raises(OSError, match="No space"):
        files.write(tmp_path / "one", SHAPE, layers_of(), METADATA)
    assert files_in(tmp_path) == []


def test_a_folder_that_is_a_file_is_an_os_error_and_leaves_nothing(path, tmp_path):
    (tmp_path / "file").write_text("here")
    before = files_in(tmp_path)
    for target in (tmp_path / "file" / "one", tmp_path / "file" / "deeper" / "one"):
        with pytest.raises(NO_FOLDER):
            files.write(target, SHAPE, layers_of(), METADATA)
        with pytest.raises(NO_FOLDER):
            files.copy(path, target)
    assert files_in(tmp_path) == before


def test_a_name_that_is_taken_by_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path / "one", SHAPE, layers_of(), METADATA)
    assert files_in(tmp_path) == []


# -- wiping ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1 << 22, 16, 7])
def test_a_wiped_file_is_zeros_for_a_process_that_holds_it(path, monkeypatch, chunk):
    monkeypatch.setattr(erase, "_WIPE_CHUNK", chunk)
    size = path.stat().st_size
    with path.open("rb") as held:
        assert wipe(path)
        assert held.read() == bytes(size)
    assert not path.exists()
    assert not wipe(path)


def test_files_shorter_than_a_header_are_wiped(tmp_path):
    for size in (0, 3, 8):
        path = tmp_path / "short"
        path.write_bytes(b"x" * size)
        with path.open("rb") as held:
            assert wipe(path)
            assert held.read() == bytes(size)


def test_the_header_goes_first(path, monkeypatch):
    """Cut off behind its first write, the file is refused, and stays to be wiped again."""
    monkeypatch.setattr(erase, "_WIPE_CHUNK", None)
    with pytest.raises(TypeError):
        wipe(path)
    assert path.read_bytes()[:8] == bytes(8)
    with pytest.raises(DamagedPayload, match="no header"):
        files.check(path)
    monkeypatch.undo()
    assert wipe(path)


def test_a_reader_of_a_wiped_file_gets_an_error(path):
    with SegmentReader(path) as reader:
        layers = reader.layers(Scratch())
        next(layers)
        wipe(path)
        with pytest.raises(DamagedPayload):
            next(layers)


def test_leftovers_are_the_unfinished_files_alone(path):
    unfinished = path.parent / ".x1.tmp"
    unfinished.touch()
    assert list(erase.leftovers(path.parents[1])) == [unfinished]


# -- a file that says something else than was written ----------------------------------------------


def _with_header(whole: bytes, change) -> bytes:
    length = int.from_bytes(whole[:8], "little")
    tree = json.loads(whole[8 : 8 + length])
    change(tree)
    text = json.dumps(tree).encode()
    return len(text).to_bytes(8, "little") + text + whole[8 + length :]


def _other_start(tree):
    tree["__metadata__"]["start"] = "17"


def _other_cubes(tree):
    tree["__metadata__"]["cubes"] = "other@1"


def _endless(tree):
    tree["kv"]["shape"][0] = 1e999


@pytest.mark.parametrize("change", [_other_start, _other_cubes, _endless])
def test_a_changed_header_is_damage(whole, change):
    path, intact, _ = whole
    path.write_bytes(_with_header(intact, change))
    with pytest.raises(DamagedPayload), SegmentReader(path):
        pass


@pytest.mark.parametrize("count", [SHAPE.layers - 1, SHAPE.layers + 1])
def test_another_number_of_layers_leaves_no_file(tmp_path, count):
    layers = (layers_of() * 2)[:count]
    with pytest.raises(ValueError, match="layers"):
        files.write(tmp_path / "one", SHAPE, layers, METADATA)
    assert files_in(tmp_path) == []


def test_the_size_of_a_file_is_known_before_it_is_written(tmp_path):
    written = files.write(tmp_path / "one", SHAPE, layers_of(), METADATA)
    assert files.file_bytes(SHAPE, METADATA) == written == (tmp_path / "one").stat().st_size


def test_a_copy_is_whole_where_the_system_takes_little_at_a_time(path, tmp_path, monkeypatch):
    class Little(io.FileIO):
        def write(self, data):
            return super().write(memoryview(data)[:100])

    monkeypatch.setattr(os, "fdopen", lambda fd, *_, **__: Little(fd, "wb"))
    copied = files.copy(path, tmp_path / "copy")
    assert copied == path.stat().st_size
    assert (tmp_path / "copy").read_bytes() == path.read_bytes()
