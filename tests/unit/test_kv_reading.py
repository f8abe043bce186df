"""Reading with O_DIRECT: the same bytes as through the page cache."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memos_vllm.activation import direct_io
from memos_vllm.activation.direct_io import FileBytes, Scratch, cached_share, forget_pages, plain
from memos_vllm.errors import DamagedPayload

SIZE = 3 * 4096 + 1234
BYTES = bytes(torch.randint(0, 256, (SIZE,), dtype=torch.uint8).tolist())


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("reading") / "file"
    made.write_bytes(BYTES)
    return made


def uncached(path: Path) -> Path:
    """A file without pages in the page cache."""
    forget_pages(path)
    return path


def share(path: Path) -> float:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return cached_share(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


@given(start=st.integers(0, SIZE), size=st.integers(0, SIZE), past_cache=st.booleans())
def test_any_part_of_a_file_is_read(path, start, size, past_cache):
    size = min(size, SIZE - start)
    with FileBytes(uncached(path), past_cache) as file:
        assert bytes(plain(file.read(start, size, Scratch()))) == BYTES[start : start + size]


@given(start=st.integers(0, SIZE), more=st.integers(1, 9000), past_cache=st.booleans())
def test_a_part_behind_the_end_is_damage(path, start, more, past_cache):
    with FileBytes(uncached(path), past_cache) as file, pytest.raises(DamagedPayload):
        file.read(start, SIZE - start + more, Scratch())


def test_the_share_of_a_file_in_the_page_cache_is_known(path):
    if share(uncached(path)) > 0:
        pytest.skip("this file system keeps files in memory")
    path.read_bytes()
    assert share(path) == 1


def test_nothing_read_past_the_cache_stays_in_it(path):
    if share(uncached(path)) > 0:
        pytest.skip("this file system keeps files in memory")
    with FileBytes(path, past_cache=True) as file:
        file.read(0, SIZE, Scratch())
        if file._direct is None:
            pytest.skip("this file system is always read through the system's cache")
    assert share(path) == 0


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_an_empty_file_and_one_that_is_gone_are_read_as_files(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(size))
    with FileBytes(uncached(path), past_cache=True) as file:
        path.unlink()
        assert file.read(0, size, Scratch()).tolist() == [0] * size
    with pytest.raises(FileNotFoundError):
        FileBytes(path, past_cache=True)


def test_where_the_file_system_refuses_it_is_read_through_the_cache(path, monkeypatch):
    real, refused = os.open, []

    def without_direct(name, flags, *rest):
        if flags & os.O_DIRECT:
            refused.append(name)
            raise OSError(errno.EINVAL, "not here")
        return real(name, flags, *rest)

    monkeypatch.setattr(direct_io, "cached_share", lambda *_: 0.0)
    monkeypatch.setattr(direct_io.os, "open", without_direct)
    with FileBytes(path, past_cache=True) as file:
        assert bytes(plain(file.read(7, 5000, Scratch()))) == BYTES[7:5007]
    assert refused == [path]


def test_where_only_the_read_is_refused_it_goes_through_the_cache(path, monkeypatch):
    real = os.preadv
    monkeypatch.setattr(direct_io, "cached_share", lambda *_: 0.0)
    with FileBytes(path, past_cache=True) as file:
        direct = file._direct
        if direct is None:
            pytest.skip("this file system is always read through the system's cache")

        def refusing(descriptor, *rest):
            if descriptor == direct:
                raise OSError(errno.EINVAL, "larger blocks")
            return real(descriptor, *rest)

        monkeypatch.setattr(direct_io.os, "preadv", refusing)
        assert bytes(plain(file.read(7, 5000, Scratch()))) == BYTES[7:5007]


def test_a_disk_that_fails_is_an_error(path, monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "broken")

    with FileBytes(uncached(path), past_cache=True) as file:
        monkeypatch.setattr(direct_io.os, "preadv", failing)
        with pytest.raises(OSError, match="broken"):
            file.read(0, SIZE, Scratch())


def test_scratch_begins_at_a_page_and_is_kept():
    scratch = Scratch()
    first = scratch.take(5000)
    assert first.numel() == 5000
    assert first.data_ptr() % 4096 == 0
    assert scratch.take(100).data_ptr() == first.data_ptr()
