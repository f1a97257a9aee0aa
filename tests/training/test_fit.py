"""Fits are repeatable, resumable and refuse what they cannot run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cropgen.core.errors import DeviceError, UsageError
from cropgen.models.base import InputSpec, TrainingData
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import data_digest, find_device, fit_model

SPEC = InputSpec(("a", "b"), Calendar("dekad", 0, 4), Legend.from_codes("l", ["x", "y"]))
TINY = {"steps": 60, "hidden": 4, "width": 4, "semi": "fixmatch"}


def rows(count: int, seed: int, *, known: bool) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    values = 0.1 * torch.randn(count, 4, 2, generator=generator) + y[:, None, None]
    mask = torch.rand(count, 4, generator=generator) > 0.2
    slot = torch.arange(4).expand(count, 4)
    return Batch(values * mask[..., None], mask, 10.0 * slot, slot, y if known else y * 0 - 1)


DATA = TrainingData(rows(20, 0, known=True), rows(30, 1, known=False))


def fit(**changes: Any) -> Any:
    return fit_model("tempcnn", TINY, SPEC, DATA, **{"seed": 3, **changes})


def test_equal_arguments_give_equal_weights_and_learn() -> None:
    one, two, other = fit(), fit(), fit(seed=4)
    state = one.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in two.model.state_dict().items())
    assert not torch.equal(state["classify.weight"], other.model.state_dict()["classify.weight"])
    test = rows(40, 9, known=True)
    assert (one.model.log_posterior(test).argmax(1) == test.y).float().mean() > 0.9
    assert not one.model.training
    assert one.seconds > 0
    assert one.facts["tempcnn"] == {"steps": 60, "semi": "fixmatch"}


def test_resuming_gives_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit().model.state_dict()
    from cropgen.models.discriminative.tempcnn import TempCNN

    learn = TempCNN.objective

    def interrupted(self: TempCNN, batch: Batch, generator: torch.Generator) -> Any:
        if int(self.step) == 55:
            raise KeyboardInterrupt
        return learn(self, batch, generator)

    with monkeypatch.context() as patch:
        patch.setattr(TempCNN, "objective", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(checkpoint=tmp_path)
    resumed = fit(checkpoint=tmp_path, resume=True).model.state_dict()
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    with pytest.raises(UsageError, match="other data, options or seed"):
        fit(checkpoint=tmp_path, resume=True, seed=4)


def test_the_digest_sees_every_member() -> None:
    before = data_digest(DATA)
    assert data_digest(TrainingData(DATA.labelled, DATA.unlabelled)) == before
    assert data_digest(TrainingData(DATA.labelled)) != before
    assert data_digest(TrainingData(DATA.labelled, None, DATA.unlabelled)) != before
    assert data_digest(TrainingData(DATA.labelled, DATA.unlabelled, DATA.labelled)) != before
    assert data_digest(TrainingData(DATA.labelled, DATA.unlabelled, target=DATA.unlabelled)) != before
    for name in ("values", "day", "slot", "y"):
        changed = replace(DATA.labelled, **{name: getattr(DATA.labelled, name) + 1})
        assert data_digest(TrainingData(changed, DATA.unlabelled)) != before


def test_unknown_names_options_and_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="unknown model"):
        fit_model("tempcn", {}, SPEC, DATA)
    with pytest.raises(UsageError, match="options of tempcnn: step"):
        fit_model("tempcnn", {"step": 3}, SPEC, DATA)
    with pytest.raises(UsageError, match="unknown device"):
        find_device("gpu")
    with pytest.raises(DeviceError, match="is not there"):
        find_device("cuda:97")
    assert find_device("cpu") == torch.device("cpu")
