"""Crops told from the crops before them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cropgen.core.errors import DataError
from cropgen.core.progress import Silent
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model, load_model, save_model
from cropgen.series.batches import Batch, make_batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.training.data import assemble
from cropgen.training.fit import fit_model

SPEC = InputSpec(("B04",), Calendar("month", 2, 2), Legend.from_codes("test", "abc"))
A, B, C = 0, 1, 2


def rows(*facts: tuple[int, int, int]) -> Batch:
    """Rows of (parcel, year, crop)."""
    parcel, year, crop = (torch.tensor(column) for column in zip(*facts, strict=True))
    n = len(facts)
    blank = torch.zeros(n, 2)
    return Batch(blank[..., None], blank > 0, blank, blank.long(), crop, parcel=parcel, year=year)


# a is followed by b twice and by c once, b by a once; parcel 5 is known in 2020 alone
KNOWN = rows(
    (1, 2020, A), (1, 2021, B), (2, 2020, A), (2, 2021, B), (3, 2020, A), (3, 2021, C), (4, 2020, B), (4, 2021, A),
    (5, 2020, C), (6, 2021, C),
)  # fmt: skip
PRIOR = torch.tensor([4.0, 3.0, 3.0]) / 10


def trained(known: Batch = KNOWN, **options: Any) -> tuple[Any, Context]:
    model, context = build_model("rotation", options, SPEC), Context(report=Silent())
    model.prepare(TrainingData(known), context)
    return model, context


def asked(model: Any, parcel: int, year: int) -> torch.Tensor:
    return model.log_posterior(rows((parcel, year, -1)))[0].exp()


def test_transitions_are_smoothed_counts() -> None:
    model, context = trained(smoothing=1.0)
    expected = (torch.tensor([[0.0, 2, 1], [1, 0, 0], [0, 0, 0]]) + PRIOR) / torch.tensor([[4.0], [2], [1]])
    torch.testing.assert_close(model.transition, expected)
    torch.testing.assert_close(asked(model, 4, 2022), expected[A])
    assert context.facts["rotation"]["pairs"] == 4


def test_a_crop_two_years_back_passes_through_the_matrix_twice() -> None:
    model, _ = trained()
    torch.testing.assert_close(asked(model, 1, 2023), (model.transition @ model.transition)[B])
    torch.testing.assert_close(asked(model, 5, 2023), torch.linalg.matrix_power(model.transition, 3)[C])
    short, _ = trained(memory=1)
    torch.testing.assert_close(asked(short, 1, 2023), PRIOR)


def test_only_earlier_years_of_the_same_parcel_count() -> None:
    model, _ = trained()
    torch.testing.assert_close(asked(model, 77, 2022), PRIOR)
    torch.testing.assert_close(asked(model, -1, 2022), PRIOR)
    torch.testing.assert_close(asked(model, 6, 2021), PRIOR)
    torch.testing.assert_close(asked(model, 1, 2020), PRIOR)
    torch.testing.assert_close(asked(model, 1, 2021), model.transition[A])


def test_the_same_crop_again_is_believed_as_far_as_it_was_right() -> None:
    """None of the 4 counted years repeats the crop: ε = (4 + 1)/(4 + 2)."""
    model, _ = trained(mode="previous")
    wrong = 5 / 6
    expected = wrong * PRIOR + (1 - wrong) * torch.tensor([0.0, 1, 0])
    torch.testing.assert_close(asked(model, 1, 2022), expected)


def test_the_most_frequent_follower_is_believed_as_far_as_it_was_right() -> None:
    """b follows a and a follows b; of 4 counted years one is otherwise: ε = (1 + 1)/(4 + 2)."""
    model, _ = trained(mode="majority")
    wrong = 2 / 6
    torch.testing.assert_close(asked(model, 4, 2022), wrong * PRIOR + (1 - wrong) * torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(asked(model, 4, 2023), wrong * PRIOR + (1 - wrong) * torch.tensor([1.0, 0, 0]))


def test_one_year_of_labels_says_nothing_of_rotations_and_says_so() -> None:
    single = KNOWN.take(KNOWN.year == 2020)
    model, context = trained(single)
    assert any("two successive years" in line for line in context.report.warnings)
    prior = torch.tensor([3.0, 1.0, 1.0]) / 5
    torch.testing.assert_close(asked(model, 1, 2021), prior)
    often, _ = trained(single, mode="majority")
    for parcel in (1, 4, 5):
        torch.testing.assert_close(asked(often, parcel, 2021), prior)
    again, _ = trained(single, mode="previous")
    assert int(asked(again, 4, 2021).argmax()) == B


def test_parcels_without_a_key_teach_the_prior_alone() -> None:
    model, context = trained(rows((-1, 2020, A), (-1, 2021, B), (-1, 2021, C)))
    assert context.facts["rotation"]["parcels"] == 0
    torch.testing.assert_close(asked(model, -1, 2022), torch.full((3,), 1 / 3))
    with pytest.raises(DataError, match="no labelled parcel"):
        trained(KNOWN.without_labels())


def test_the_disk_keeps_the_memory(tmp_path) -> None:
    model, _ = trained()
    save_model(tmp_path / "model", model, "rotation")
    loaded = load_model(tmp_path / "model")
    query = rows((1, 2022, -1), (5, 2022, -1), (9, 2022, -1))
    assert torch.equal(loaded.log_posterior(query), model.log_posterior(query))


def test_parcels_are_known_again_by_region_and_id_in_another_year() -> None:
    """Three years of a fixed rotation a → b → c → a; two are learnt from, the third is told without an image."""
    generator = np.random.default_rng(0)
    first = generator.integers(0, 3, 60)
    year = np.repeat([2019, 2020, 2021], 60)
    start = (year - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)
    series = ParcelSeries.build(
        bands=("B04",), values=generator.uniform(size=(180, 3, 1)), mask=np.ones((180, 3)),
        day=start[:, None] + np.array([70, 100, 130]), parcel_id=[f"p{i}" for i in range(60)] * 3, year=year,
        region=["south", "north"] * 90, label=np.concatenate([first, (first + 1) % 3, (first + 2) % 3]),
    )  # fmt: skip
    legend = Legend.from_codes("crops", "abc")
    spec, data = assemble(legend, series.take(year < 2021))
    model = fit_model("rotation", {}, spec, data).model
    last = make_batch(series.take(year == 2021), spec.calendar)
    assert torch.equal(model.log_posterior(last).argmax(1), last.y)
