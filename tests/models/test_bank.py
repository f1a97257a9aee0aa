"""The bank of whitened augmented copies."""

from __future__ import annotations

import pytest
import torch

from cropgen.core.progress import Silent
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.layers.bank import Bank, concatenate_seasons, see
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.series.augment import Strength
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, BANDS, CLASSES = 4, 2, 3
CALENDAR = Calendar("month", 3, SLOTS)
SPEC = InputSpec(("B04", "B08"), CALENDAR, Legend.from_codes("crops", ["1", "2", "3"]))
START_DAYS = torch.as_tensor(CALENDAR.start_days(), dtype=torch.float32)


@pytest.fixture
def tied() -> TiedGaussian:
    """A Gaussian with a full covariance, uneven means and a scale."""
    generator = torch.Generator().manual_seed(0)
    tied = TiedGaussian(SPEC).double()
    root = torch.randn(SLOTS * BANDS, SLOTS * BANDS, generator=generator, dtype=torch.float64) * 0.4
    tied.cov.copy_(root @ root.T + torch.eye(SLOTS * BANDS))
    tied.chol.copy_(torch.linalg.cholesky(tied.cov))
    tied.means.copy_(torch.randn(CLASSES, SLOTS * BANDS, generator=generator, dtype=torch.float64))
    tied.scale.copy_(torch.tensor([0.05, 0.2]))
    return tied


def rows(count: int, seed: int, *, known: bool) -> Batch:
    """Six dates on four slots: some slots hold two observations, some none."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, 6, generator=generator) > 0.3
    slot = torch.tensor([0, 0, 1, 2, 3, 3]).expand(count, -1)
    day = START_DAYS[slot] + torch.tensor([3.0, 20.0, 5.0, 12.0, 1.0, 29.0])
    values = torch.rand(count, 6, BANDS, generator=generator) * mask[..., None]
    y = torch.arange(count) % CLASSES if known else torch.full((count,), -1)
    return Batch(values, mask, day, slot, y).to(dtype=torch.float64)


def build(tied: TiedGaussian, *, labelled: int, unlabelled: int, strength: Strength, seed: int = 0) -> Bank:
    data = TrainingData(rows(6, 1, known=True), rows(5, 2, known=False))
    generator = torch.Generator().manual_seed(seed)
    return Bank.build(
        tied, data, START_DAYS.double(), labelled=labelled, unlabelled=unlabelled, strength=strength,
        generator=generator, report=Silent(),
    )  # fmt: skip


def test_see_bins_whitens_and_dates(tied: TiedGaussian) -> None:
    batch = rows(8, 3, known=True)
    seasons = see(tied, batch, START_DAYS.double())
    x, mask = tied.grid(batch)
    white = tied.whiten(x, mask)
    assert torch.equal(seasons.mask, mask)
    assert torch.equal(seasons.e, white.e)
    assert torch.equal(seasons.offset, white.offset)
    assert torch.equal(seasons.log_det, white.log_det)
    assert torch.equal(seasons.observed, BANDS * mask.sum(1))
    assert torch.equal(seasons.present.sum(1).long(), seasons.observed)
    for row in range(8):
        for slot in range(SLOTS):
            days = batch.day[row][batch.mask[row] & (batch.slot[row] == slot)]
            expected = days.mean() if len(days) else START_DAYS[slot].double()
            assert float(seasons.day[row, slot]) == pytest.approx(float(expected))


def test_copies_are_shuffled_passes_over_the_rows(tied: TiedGaussian) -> None:
    bank = build(tied, labelled=15, unlabelled=10, strength="none")
    originals = see(tied, rows(6, 1, known=True), START_DAYS.double())
    same = (bank.labelled.e[:, None] - originals.e).abs().amax(-1) < 1e-12
    assert same.sum(1).eq(1).all()
    assert sorted(same.sum(0).tolist()) == [2, 2, 2, 3, 3, 3]
    assert torch.equal(bank.labelled.y, originals.y[same.long().argmax(1)])
    assert bank.unlabelled is not None
    assert len(bank.unlabelled) == 10
    assert bank.unlabelled.y.eq(-1).all()


def test_augmented_copies_differ_and_are_whitened_as_they_are_scored(tied: TiedGaussian) -> None:
    bank = build(tied, labelled=600, unlabelled=0, strength="strong")
    assert bank.unlabelled is None
    white = tied.whiten(bank.labelled.x, bank.labelled.mask)
    torch.testing.assert_close(bank.labelled.e, white.e, rtol=0, atol=1e-10)
    torch.testing.assert_close(bank.labelled.offset, white.offset, rtol=0, atol=1e-10)
    assert len(torch.unique(bank.labelled.e, dim=0)) > 550
    again = build(tied, labelled=600, unlabelled=0, strength="strong")
    other = build(tied, labelled=600, unlabelled=0, strength="strong", seed=1)
    assert torch.equal(bank.labelled.e, again.labelled.e)
    assert not torch.equal(bank.labelled.e, other.labelled.e)


def test_draw_gives_rows_of_each_kind_from_the_bank(tied: TiedGaussian) -> None:
    bank = build(tied, labelled=12, unlabelled=10, strength="lite")
    drawn = bank.draw(7, 9, torch.Generator().manual_seed(0))
    assert drawn.y[:7].ge(0).all()
    assert drawn.y[7:].eq(-1).all()
    assert bank.unlabelled is not None
    everything = concatenate_seasons([bank.labelled, bank.unlabelled])
    found = (drawn.e[:, None] - everything.e).abs().amax(-1) == 0
    assert found.any(1).all()
    assert torch.equal(drawn.e, bank.draw(7, 9, torch.Generator().manual_seed(0)).e)
    assert len(bank.draw(7, 0, torch.Generator().manual_seed(0))) == 7
