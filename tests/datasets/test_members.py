"""Members of archives and folders, against the standard library's reading of the same archives."""

from __future__ import annotations

import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cropgen.core.errors import CorruptInputError, MissingInputError
from cropgen.datasets.members import FolderMembers, ZipMembers


def archive(path: Path, method: int = zipfile.ZIP_DEFLATED, count: int = 20) -> dict[str, bytes]:
    random = np.random.default_rng(0)
    content = {f"a/é{i}.csv": random.bytes(int(random.integers(0, 5000))) for i in range(count)}
    with zipfile.ZipFile(path, "w", method) as opened:
        opened.writestr("a/", "")
        for name, text in content.items():
            info = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))
            info.extra = bytes([0xFE, 0xCA, 0x04, 0x00, 1, 2, 3, 4])
            opened.writestr(info, text, method)
    return content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_what_was_packed(tmp_path: Path, method: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pread", raising=False)  # Windows has none
    expected = archive(tmp_path / "a.zip", method)
    with ZipMembers(tmp_path / "a.zip") as members:
        assert list(members.names) == list(expected)
        assert [members.read(i) for i in range(len(expected))] == list(expected.values())


def test_sizes_and_counts_beyond_32_and_16_bits(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        for i in range(66_000):
            opened.writestr(f"{i}.csv", str(i))
        with opened.open("wide.csv", "w", force_zip64=True) as wide:
            wide.write(b"behind")
    with ZipMembers(path) as members:
        assert len(members.names) == 66_001
        assert members.read(65_999) == b"65999"
        assert members.read(66_000) == b"behind"


def test_more_members_than_16_bits_count(tmp_path: Path) -> None:
    """Some writers leave out the 64-bit record and begin to count anew."""
    path, count = tmp_path / "a.zip", 65_536 + 3
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as opened:
        for i in range(count):
            opened.writestr(f"{i}.csv", "")
    whole = path.read_bytes()
    wide = whole.rindex(b"PK\x06\x06")
    size, begin = struct.unpack_from("<QQ", whole, wide + 40)
    for told in (count % 65_536, 65_535):
        path.write_bytes(whole[:wide] + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, told, told, size, begin, 0))
        with ZipMembers(path) as members:
            assert list(members.names) == [f"{i}.csv" for i in range(count)]
    path.write_bytes(whole[:wide] + struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 10, 10, 0, begin, 0))
    with pytest.raises(CorruptInputError, match=r"a\.zip"):
        ZipMembers(path)


def test_offsets_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with path.open("wb") as file:
        file.seek(5 << 30)
        with zipfile.ZipFile(file, "w") as opened:
            opened.writestr("far.csv", b"far")
    with zipfile.ZipFile(path) as opened:
        assert opened.infolist()[0].header_offset == 5 << 30
    with ZipMembers(path) as members:
        assert members.read(0) == b"far"


def test_damage_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    archive(path)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptInputError, match=r"a\.zip"):
            ZipMembers(path)
    flipped = bytearray(whole)
    flipped[200] ^= 0xFF
    path.write_bytes(flipped)
    with ZipMembers(path) as members, pytest.raises(CorruptInputError, match="damaged"):
        members.read(0)
    with pytest.raises(MissingInputError):
        ZipMembers(tmp_path / "none.zip")


def test_unusual_packing_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as opened:
        opened.writestr("a.csv", "text")
    with pytest.raises(CorruptInputError, match="unusual"):
        ZipMembers(tmp_path / "a.zip")


def test_a_folder_is_listed_in_order(tmp_path: Path) -> None:
    for name in ("b/2.csv", "b/10.csv", "a/1.csv", "a/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    with FolderMembers(tmp_path) as members:
        assert list(members.names) == ["a/1.csv", "b/10.csv", "b/2.csv"]
        assert members.read(1) == b"b/10.csv"
    (tmp_path / "b/10.csv").unlink()
    with pytest.raises(CorruptInputError, match=r"10\.csv"):
        members.read(1)
