"""Run folders guard what they hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from cropgen.core.errors import CorruptInputError, MissingInputError, OutputExistsError, UsageError
from cropgen.core.paths import Workspace
from cropgen.core.run import RunFolder, environment, fingerprint, new_run_name


def test_begin_refuses_resumes_and_overwrites(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs" / "a")
    with pytest.raises(MissingInputError, match="nothing to resume"):
        run.begin(resume=True, overwrite=False)
    run.begin(resume=False, overwrite=False)
    run.recipe.write_text("x")
    with pytest.raises(OutputExistsError, match="exists"):
        run.begin(resume=False, overwrite=False)
    run.begin(resume=True, overwrite=False)
    assert run.recipe.exists()
    run.begin(resume=False, overwrite=True)
    assert not run.recipe.exists()


def _finished(run: RunFolder, mark: str) -> None:
    run.begin(resume=False, overwrite=False)
    run.recipe.write_text(mark)
    run.weights.write_text(mark)


def test_what_overwriting_replaces_is_kept_until_the_new_run_is_done(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    _finished(run, "old")
    run.begin(resume=False, overwrite=True)
    assert (run.replaced / "recipe.toml").read_text() == "old"
    run.recipe.write_text("interrupted")
    run.begin(resume=False, overwrite=True)
    assert [path.name for path in run.path.iterdir()] == ["replaced"]
    assert (run.replaced / "recipe.toml").read_text() == "old"
    run.recipe.write_text("new")
    run.weights.write_text("new")
    run.begin(resume=False, overwrite=True)
    assert (run.replaced / "recipe.toml").read_text() == "new"
    run.finish()
    assert list(run.path.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_failed_replacement_brings_the_old_run_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    _finished(run, "old")

    def begin_and_fail(error: BaseException, *, resume: bool, state: bool) -> None:
        with run.lock():
            run.begin(resume=resume, overwrite=not resume)
            run.recipe.write_text("new")
            if state:
                run.checkpoint.mkdir()
            raise error

    def attempt(error: BaseException, *, resume: bool = False, state: bool = False) -> tuple[str, bool]:
        with pytest.raises(type(error)):
            begin_and_fail(error, resume=resume, state=state)
        return run.recipe.read_text(), run.replaced.exists()

    assert attempt(ValueError()) == ("old", False)
    assert run.weights.read_text() == "old"
    assert attempt(KeyboardInterrupt()) == ("new", True), "can be resumed"
    assert attempt(ValueError(), resume=True) == ("new", True)
    assert attempt(ValueError(), state=True) == ("new", True)
    assert (run.replaced / "recipe.toml").read_text() == "old"


def test_one_writer(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    with run.lock(), pytest.raises(UsageError, match="another process"), run.lock():
        raise AssertionError("two writers")
    with run.lock():
        pass


@dataclass(frozen=True)
class Told:
    fields: dict[str, Any]


def test_manifest(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "a")
    with pytest.raises(MissingInputError, match="not a run folder"):
        run.read_manifest()
    run.path.mkdir()
    run.write_manifest({"status": "done"})
    assert run.read_manifest() == {"manifest": 1, "status": "done"}
    assert asdict(Told(run.read_manifest())) == {"fields": {"manifest": 1, "status": "done"}}
    run.manifest.write_text("{")
    with pytest.raises(CorruptInputError, match="not JSON"):
        run.read_manifest()
    run.manifest.write_bytes(b"\xff")
    with pytest.raises(CorruptInputError, match="not JSON"):
        run.read_manifest()
    run.manifest.write_text("[1]")
    with pytest.raises(CorruptInputError, match=r"expected an object, got \[1\]"):
        run.read_manifest()
    run.manifest.write_text('{"status": "done", "data": {}}')
    damaged = run.read_manifest()
    assert damaged.get("model") is None
    for fields, name in ((damaged, "model"), (damaged["data"], "fingerprint")):
        with pytest.raises(CorruptInputError, match=f"manifest.json has no field '{name}'"):
            fields[name]


def test_fingerprints() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(environment()["code"]) == 64
    assert environment()["packages"]["numpy"]
    assert new_run_name("pool", "10%").endswith("-pool-10pct")


def test_workspace_defaults(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(MissingInputError, match="no series store") as caught:
        workspace.default_series()
    assert "cropgen fetch demo" in (caught.value.hint or "")
    with pytest.raises(MissingInputError, match="no finished run"):
        workspace.default_run()
    for name in ("a", "b"):
        (workspace.data / name / "series.zarr").mkdir(parents=True)
        (workspace.data / name / "series.zarr" / "zarr.json").write_text("{}")
    assert workspace.default_series().parent.name in {"a", "b"}
    assert len(workspace.series_stores()) == 2
