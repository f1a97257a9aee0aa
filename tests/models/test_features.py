"""What classifiers of one vector see of a season."""

from __future__ import annotations

import pytest
import torch

from cropgen.core.errors import DataError
from cropgen.models.base import InputSpec
from cropgen.models.layers.features import (
    class_log_prior,
    labelled_features,
    require_classes,
    require_every_class,
    scale_of,
    season_features,
)
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

BANDS = ("B04", "B08", "B11")
SLOTS = 6


def spec(bands: tuple[str, ...] = BANDS) -> InputSpec:
    return InputSpec(bands, Calendar("month", 2, SLOTS), Legend.from_codes("test", "abc"))


def test_features_are_filled_bands_and_indices() -> None:
    one = Batch(
        values=torch.tensor([[[0.1, 0.3, 0.2], [0.0, 0.0, 0.0], [0.2, 0.6, 0.2]]]),
        mask=torch.tensor([[True, False, True]]),
        day=torch.tensor([[60.0, 90.0, 120.0]]),
        slot=torch.tensor([[0, 1, 2]]),
        y=torch.tensor([0]),
    )
    x, seen = season_features(one, spec())
    season = x.view(SLOTS, 5)
    assert seen.all()
    torch.testing.assert_close(season[1], torch.tensor([0.15, 0.45, 0.2, 0.5, 0.25 / 0.65]))
    torch.testing.assert_close(season[2:], season[2].expand(SLOTS - 2, -1))
    plain, _ = season_features(one, spec(("B04", "X", "Y")))
    assert plain.shape == (1, 3 * SLOTS)


def test_rows_without_class_or_date_are_no_labels() -> None:
    rows = Batch(
        values=torch.full((3, 1, 3), 0.2),
        mask=torch.tensor([[True], [False], [True]]),
        day=torch.full((3, 1), 60.0),
        slot=torch.zeros(3, 1, dtype=torch.int64),
        y=torch.tensor([2, 1, -1]),
    )
    x, y = labelled_features(rows, spec())
    assert x.shape == (1, 5 * SLOTS)
    assert y.tolist() == [2]
    with pytest.raises(DataError, match="no labelled parcel"):
        labelled_features(rows.without_labels(), spec())


def test_a_single_class_is_refused_by_name() -> None:
    require_classes(torch.tensor([0, 2]), spec())
    with pytest.raises(DataError, match="got only c"):
        require_classes(torch.tensor([2, 2]), spec())


def test_every_class_is_needed_by_models_of_classes() -> None:
    require_every_class(torch.tensor([0, 2, 1, 1]), spec())
    with pytest.raises(DataError, match="for a, c"):
        require_every_class(torch.tensor([1, 1]), spec())


def test_the_prior_is_the_share_of_labels() -> None:
    expected = torch.tensor([3.0, 1.0, 2.0]) / 6
    torch.testing.assert_close(class_log_prior(torch.tensor([0, 0, 0, 2, 2]), 3).exp(), expected.double())


def test_a_feature_that_does_not_vary_is_not_divided_by_next_to_nothing() -> None:
    assert torch.equal(scale_of(torch.tensor([0.0, 1e-7, 2e-6, 3.0])), torch.tensor([1.0, 1.0, 2e-6, 3.0]))
