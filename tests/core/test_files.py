"""Files are whole or absent."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from cropgen.core.errors import CropgenError, MissingInputError, OutputExistsError
from cropgen.core.files import (
    atomic_output,
    files_below,
    folder_size,
    guard_output,
    remove_leftovers,
    require_input,
    sha256_file,
    sha256_tree,
    write_text,
)


def test_success_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    write_text(target, "one")
    write_text(target, "two")
    assert target.read_text() == "two"
    assert list(target.parent.iterdir()) == [target]


def test_what_lies_beside_a_name_with_brackets_is_removed(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "map [v1]*.gpkg") as part:
        part.write_text("whole")
        part.with_name(f"{part.name}-spool.arrow").write_text("sidecar")
        other = part.with_name(part.name.replace("[v1]*", "vv") + "-spool.arrow")
        other.write_text("of another output")
    assert {path.name for path in tmp_path.iterdir()} == {"map [v1]*.gpkg", other.name}


def test_failure_keeps_the_previous_file(tmp_path: Path) -> None:
    target = tmp_path / "a.gpkg"
    target.write_text("before")

    def fail_halfway() -> None:
        with atomic_output(target) as part:
            part.write_text("half")
            part.with_name(part.name + "-journal").write_text("sidecar")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_halfway()
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"

    def fill() -> None:
        with atomic_output(target) as part:
            part.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CropgenError, match="No space left on device") as caught:
        fill()
    assert "a.txt" in caught.value.message
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "store"
    for content in ("one", "two"):
        with atomic_output(target) as part:
            part.mkdir()
            (part / content).write_text(content)
    assert [p.name for p in target.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_is_replaced_where_a_link_points(tmp_path: Path) -> None:
    (tmp_path / "disk" / "store").mkdir(parents=True)
    (tmp_path / "disk" / "store" / "one").write_text("one")
    link = tmp_path / "here" / "link"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "disk" / "store")
    with atomic_output(link) as part:
        part.mkdir()
        (part / "two").write_text("two")
    assert link.is_symlink()
    assert [p.name for p in (tmp_path / "disk" / "store").iterdir()] == ["two"]
    assert list(link.parent.iterdir()) == [link]
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["store"]


def test_a_link_to_nothing_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for overwrite in (False, True):
        with pytest.raises(OutputExistsError, match="gone, which is not there"):
            guard_output(tmp_path / "link", overwrite=overwrite)


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "a.gpkg") as part:
        assert part.suffix == ".gpkg"
        part.write_text("x")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    others = [".b.h5.0123abcd.part.h5", ".a.h5.0123abcd.part.nc", ".a.h5.mine.part.h5", "a.h5.part", "a.h5"]
    for name in (*others, ".a.h5.0123abcd.part.h5"):
        (tmp_path / name).write_text(name)
    with atomic_output(tmp_path / "a[1].h5") as part:
        part.mkdir()
        remove_leftovers(tmp_path / "a.h5")
        assert part.is_dir()
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, part.name])
        remove_leftovers(tmp_path / "a[1].h5")
        assert not part.exists()
        part.mkdir()


def test_guards(tmp_path: Path) -> None:
    existing = tmp_path / "a"
    existing.write_text("x")
    guard_output(tmp_path / "b", overwrite=False)
    guard_output(existing, overwrite=True)
    with pytest.raises(OutputExistsError) as caught:
        guard_output(existing, overwrite=False)
    assert caught.value.exit_code == 2
    assert "--overwrite" in (caught.value.hint or "")
    assert require_input(existing, "table") == existing
    with pytest.raises(MissingInputError, match="table not found"):
        require_input(tmp_path / "b", "table")


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "t" / "u").mkdir(parents=True)
    (tmp_path / "t" / "a").write_bytes(b"abc")
    (tmp_path / "t" / "u" / "b").write_bytes(b"defg")
    assert sha256_file(tmp_path / "t" / "a") == hashlib.sha256(b"abc").hexdigest()
    before = sha256_tree(tmp_path / "t")
    assert folder_size(tmp_path / "t") == 7
    (tmp_path / "t" / "u" / "b").write_bytes(b"defh")
    assert sha256_tree(tmp_path / "t") != before


def test_files_below_a_folder_are_found_once_through_links(tmp_path: Path) -> None:
    for name in ("a/one/x", "a/one/.y", "a/.git/z", "b/w"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name, target in (("a/0", "a/one"), ("a/one/up", "a"), ("a/two", "b"), ("a/three", "b"), ("a/gone", "c")):
        (tmp_path / name).symlink_to(tmp_path / target)
    assert [p.relative_to(tmp_path).as_posix() for p in files_below(tmp_path / "a")] == ["a/one/x", "a/three/w"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "raw" / "survey.csv"
    kept.parent.mkdir()
    guard_output(kept.parent, overwrite=True)
    kept.write_text("1,2")
    with pytest.raises(OutputExistsError, match="raw is a folder of something else, which --overwrite does not"):
        guard_output(kept.parent, overwrite=True)
    guard_output(kept.parent, overwrite=True, folder=True)
    (kept.parent / "zarr.json").write_text("{}")
    guard_output(kept.parent, overwrite=True)
