"""Archives that come from elsewhere: whole, inside, and nothing but files."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cropgen.core.archives import Limits, extract_archive
from cropgen.core.errors import CorruptInputError

ROOM = Limits(10_000_000)
CONTENT = {"a.txt": b"one", "deep/er/b.bin": bytes(range(256)) * 40}


def zip_of(path: Path, entries: dict[str, bytes], **kinds: int) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if name in kinds:
                info.external_attr = kinds[name] << 16
            archive.writestr(info, content)
    return path


def tar_of(path: Path, entries: dict[str, bytes], *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def refuses(archive: Path, tmp_path: Path, match: str, limits: Limits = ROOM) -> None:
    """Nothing is left: neither the folder nor anything beside it."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CorruptInputError, match=match):
        extract_archive(archive, tmp_path / "out", limits)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar"])
def test_what_was_packed_comes_out(tmp_path: Path, name: str) -> None:
    archive = (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, CONTENT)
    found = extract_archive(archive, tmp_path / "out", ROOM)
    assert [p.as_posix() for p in found] == sorted(CONTENT)
    assert {p.as_posix(): (tmp_path / "out" / p).read_bytes() for p in found} == CONTENT


def test_a_tar_of_a_folder_may_begin_with_itself(tmp_path: Path) -> None:
    root = special(".", tarfile.DIRTYPE)
    assert extract_archive(tar_of(tmp_path / "x.tar", {"./a": b"1"}, root), tmp_path / "out", ROOM) == [Path("a")]


@pytest.mark.parametrize("name", ["../a", "x/../../a", "/etc/a", "C:/a", "a\\..\\b"])
def test_nothing_is_written_outside(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    refuses(zip_of(inside / "x.zip", {name: b"1"}), inside, "outside")
    refuses(tar_of(inside / "x.tar.gz", {name: b"1"}), inside, "outside")
    assert list(tmp_path.iterdir()) == [inside]


def test_links_and_devices_are_refused(tmp_path: Path) -> None:
    for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)):
        archive = tar_of(tmp_path / f"{number}.tar.gz", {"a": b"1"}, special("b", kind, "/etc/passwd"))
        refuses(archive, tmp_path, "link or a device")
    refuses(zip_of(tmp_path / "x.zip", {"b": b"/etc/passwd"}, b=stat.S_IFLNK | 0o777), tmp_path, "link or a device")


def test_a_write_through_a_link_cannot_happen(tmp_path: Path) -> None:
    """The link comes first in the archive, so the refusal must too."""
    archive = tmp_path / "x.tar"
    with tarfile.open(archive, "w") as opened:
        opened.addfile(special("b", tarfile.SYMTYPE, str(tmp_path)))
        info = tarfile.TarInfo("b/planted")
        info.size = 1
        opened.addfile(info, io.BytesIO(b"1"))
    refuses(archive, tmp_path, "link")


def test_bombs_are_refused(tmp_path: Path) -> None:
    bomb = zip_of(tmp_path / "bomb.zip", {"a": bytes(70 << 20)})
    refuses(bomb, tmp_path, "more than the 1,000 bytes expected", Limits(1000))
    refuses(bomb, tmp_path, "400 times its size", Limits(1 << 40))
    many = zip_of(tmp_path / "many.zip", {f"{i}": b"" for i in range(50)})
    refuses(many, tmp_path, "more than 49 entries", Limits(1 << 40, entries=49))
    with gzip.open(tmp_path / "bomb.tar.gz", "wb") as stream:
        info = tarfile.TarInfo("a")
        info.size = 70 << 20
        stream.write(info.tobuf() + bytes(70 << 20) + bytes(1024))
    refuses(tmp_path / "bomb.tar.gz", tmp_path, "400 times its size", Limits(1 << 40))


def test_a_size_that_lies_in_the_header_does_not_help(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", {"a": bytes(100_000)})
    content = archive.read_bytes()
    archive.write_bytes(content.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CorruptInputError):
        extract_archive(archive, tmp_path / "out", Limits(50))
    assert sorted(tmp_path.iterdir()) == before


def test_repeated_and_encrypted_entries_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"2")
    refuses(tmp_path / "x.zip", tmp_path, "twice")
    locked = zip_of(tmp_path / "y.zip", {"a": b"1"})
    content = bytearray(locked.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    locked.write_bytes(content)
    refuses(locked, tmp_path, "encrypted")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar"])
def test_truncated_archives_are_corrupt(tmp_path: Path, name: str) -> None:
    whole = (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, CONTENT)
    content = whole.read_bytes()
    padded = name == "x.tar"  # its last bytes are filling that nobody misses
    for share in (0.0, 0.1, 0.5) if padded else (0.0, 0.1, 0.5, 0.9, 0.99):
        whole.write_bytes(content[: int(share * len(content))])
        refuses(whole, tmp_path, "truncated or damaged")


def test_a_damaged_byte_is_noticed(tmp_path: Path) -> None:
    for name in ("x.zip", "x.tar.gz"):
        whole = (zip_of if name.endswith("zip") else tar_of)(tmp_path / name, {"a": bytes(range(256)) * 400})
        content = bytearray(whole.read_bytes())
        content[len(content) // 2] ^= 0xFF
        whole.write_bytes(content)
        refuses(whole, tmp_path, "truncated or damaged")


def test_another_kind_of_file_is_corrupt(tmp_path: Path) -> None:
    page = tmp_path / "x.zip"
    page.write_text("<html>log in</html>" * 200)
    refuses(page, tmp_path, "truncated or damaged")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=300), kind=st.sampled_from([b"PK\x03\x04", b"\x1f\x8b\x08", b""]))
def test_noise_never_gets_through(tmp_path: Path, noise: bytes, kind: bytes) -> None:
    archive = tmp_path / "noise"
    archive.write_bytes(kind + noise)
    with pytest.raises(CorruptInputError):
        extract_archive(archive, tmp_path / "out", ROOM)
    assert list(tmp_path.iterdir()) == [archive]
