"""Hostile zip files: each is refused before anything of it is imported, and costs little."""

from __future__ import annotations

import stat
import struct
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from memos_vllm.config.imports import ImportsConfig
from memos_vllm.errors import BadRequest, MemosError, TooLarge, Unprocessable
from memos_vllm.importers.foreign.parser import ForeignFiles
from tests.unit import exports


@pytest.fixture(scope="module")
def files() -> Iterator[ForeignFiles]:
    opened = ForeignFiles(ImportsConfig(members=1000, text_bytes=64 << 20))
    yield opened
    opened.close()


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("conversations.json", b"[]")
        for name, data in members:
            made.writestr(name, data)
    return path


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "a/../../b", "/etc/passwd", "C:\\x", "..\\..\\x", "a\\b", "c:/x"],
)
def test_names_that_leave_the_folder_are_refused(
    files: ForeignFiles, tmp_path: Path, name: str
) -> None:
    with pytest.raises(BadRequest, match="download it again"):
        files.read(zipped(tmp_path / "z.zip", (name, b"x")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(files: ForeignFiles, tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("photo.png")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    with pytest.raises(BadRequest, match="a link or a device"):
        files.read(zipped(tmp_path / "z.zip", (info, b"/etc/passwd")))


@pytest.mark.parametrize(
    "name", ["conversations.json", "Conversations.JSON", "./conversations.json"]
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_is_refused(files: ForeignFiles, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadRequest, match="a name twice"):
        files.read(zipped(tmp_path / "z.zip", (name, b"[1]")))


def test_encrypted_members_are_refused_with_what_to_do(files: ForeignFiles, tmp_path: Path) -> None:
    path = zipped(tmp_path / "z.zip")
    data = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    path.write_bytes(data)
    with pytest.raises(Unprocessable, match="unpack the archive"):
        files.read(path)


def test_bombs_are_refused_before_they_are_unpacked(files: ForeignFiles, tmp_path: Path) -> None:
    bomb = b'[{"mapping": "' + b"a" * (60 << 20) + b'"}]'
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("conversations.json", bomb)
    started = time.monotonic()
    with pytest.raises(TooLarge, match=r"imports\.ratio"):
        files.read(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as made:
        for number in range(3):  # together over the limit of all
            made.writestr(f"conversations-{number}.json", b"[" + b" " * (30 << 20) + b"]")
    with pytest.raises(MemosError):
        files.read(path)
    assert time.monotonic() - started < 30


def test_too_many_members_are_refused(files: ForeignFiles, tmp_path: Path) -> None:
    members = [(f"{n}.png", b"") for n in range(1001)]
    with pytest.raises(TooLarge, match=r"imports\.members"):
        files.read(zipped(tmp_path / "z.zip", *members))


def test_members_that_overlap_are_refused(files: ForeignFiles, tmp_path: Path) -> None:
    """A directory whose entries all name one kernel of data, under lengths that sum up to more."""
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("conversations.json", exports.json.dumps([exports.chatgpt_conversation()]))
        entry = made.infolist()[0]
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    central = data[start:end]
    names = [b"conversations-%03d.json" % n for n in range(40)]
    entries = [
        central[:28] + struct.pack("<H", len(name)) + central[30:46] + name for name in names
    ]
    directory = central + b"".join(entries)
    count = len(names) + 1
    tail = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, count, count, len(directory), start, 0)
    path.write_bytes(data[:start] + directory + tail)
    assert entry.compress_size * count > path.stat().st_size
    with pytest.raises(BadRequest, match="overlap"):
        files.read(path)


def test_sizes_that_lie_and_damage_are_refused(files: ForeignFiles, tmp_path: Path) -> None:
    path = exports.chatgpt_zip(tmp_path / "z.zip")
    whole = path.read_bytes()
    lying = bytearray(whole)
    at = lying.index(b"PK\x01\x02")
    lying[at + 24 : at + 28] = struct.pack("<L", 10)  # the unpacked size
    path.write_bytes(lying)
    with pytest.raises(MemosError):
        files.read(path)
    flipped = bytearray(whole)
    flipped[60] ^= 0xFF
    path.write_bytes(flipped)
    with pytest.raises(MemosError, match=r"damaged|truncated|valid|UTF-8"):
        files.read(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadRequest, match="download it again"):
        files.read(path)


def test_an_archive_without_conversations_says_what_is_looked_for(
    files: ForeignFiles, tmp_path: Path
) -> None:
    path = exports.write_zip(
        tmp_path / "z.zip", {"notes.txt": b"hello", "inner.zip": b"PK\x03\x04"}
    )
    with pytest.raises(BadRequest, match=r"no conversations\.json"):
        files.read(path)
