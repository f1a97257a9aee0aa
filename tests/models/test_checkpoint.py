"""Models come back from disk as they were, and damaged files are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError, UsageError
from cropgen.models.base import InputSpec
from cropgen.models.checkpoint import build_model, load_model, save_model
from cropgen.models.discriminative.tempcnn import TempCNN
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SPEC = InputSpec(("a", "b"), Calendar("month", 0, 6), Legend.from_codes("l", ["x", "y", "z"]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build_model("tempcnn", {"hidden": 3, "width": 4}, SPEC, seed=7)
    save_model(tmp_path, model, "tempcnn")
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_model_comes_back_equal(folder: Path) -> None:
    built, loaded = build_model("tempcnn", {"hidden": 3, "width": 4}, SPEC, seed=7), load_model(folder)
    assert isinstance(loaded, TempCNN)
    assert loaded.options == built.options
    assert loaded.spec == SPEC
    assert not loaded.training
    state = loaded.state_dict()
    assert all(torch.equal(state[key], value) for key, value in built.state_dict().items())


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = build_model("tempcnn", {}, SPEC, seed=7).state_dict()["classify.weight"]
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = build_model("tempcnn", {}, SPEC, seed=7).state_dict()["classify.weight"]
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one, build_model("tempcnn", {}, SPEC, seed=8).state_dict()["classify.weight"])


def test_double_precision_survives(tmp_path: Path) -> None:
    model = build_model("tempcnn", {"hidden": 3, "width": 4}, SPEC).double()
    save_model(tmp_path, model, "tempcnn")
    assert load_model(tmp_path).state_dict()["classify.weight"].dtype == torch.float64


def test_saving_twice_gives_equal_bytes(folder: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "again", load_model(folder), "tempcnn")
    for name in ("model.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_missing_files(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingInputError, match="model weights not found"):
        load_model(folder)
    with pytest.raises(MissingInputError, match="model description not found"):
        load_model(folder / "nowhere")


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_truncated_weights(folder: Path, cut: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CorruptInputError, match=r"model\.safetensors"):
        load_model(folder)


def test_weights_that_are_no_safetensors(folder: Path) -> None:
    import hashlib

    (folder / "model.safetensors").write_bytes(b"not tensors at all")
    rewrite(folder, sha256=hashlib.sha256(b"not tensors at all").hexdigest())
    with pytest.raises(CorruptInputError, match="not a safetensors file"):
        load_model(folder)


def test_a_description_that_is_not_json(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(CorruptInputError, match="is not JSON"):
        load_model(folder)
    path.write_text("[]")
    with pytest.raises(SchemaError, match="expected an object, got list"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": 99}, "expected model schema 1, got 99"),
        ({"name": "tempcn"}, "unknown model"),
        ({"name": 3}, "name: expected str, got int"),
        ({"options": {"hidden": 3, "depth": 9}}, "depth"),
        ({"options": {"hidden": 4, "width": 4}}, "does not fit the model tempcnn"),
        ({"spec": {"bands": ["a"]}}, "does not describe a model"),
    ],
)
def test_descriptions_that_do_not_fit(folder: Path, changes: dict, message: str) -> None:
    rewrite(folder, **changes)
    with pytest.raises(SchemaError, match=message):
        load_model(folder)


def test_unknown_options_are_refused_when_building() -> None:
    with pytest.raises(UsageError, match="options of tempcnn: hidden"):
        build_model("tempcnn", {"hidden": 0}, SPEC)
