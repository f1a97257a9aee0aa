"""tgem learns from few labels, uses unlabelled parcels when they help, and says so when they do not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cropgen.core.errors import DataError
from cropgen.core.progress import Silent
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.classical.tgem import TiedGaussianEM
from cropgen.models.layers.tied_fit import TiedOptions, fit_tied
from cropgen.series.batches import Batch, concatenate_batches
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, BANDS = 8, 2


def spec(classes: int = 3) -> InputSpec:
    return InputSpec(("B04", "B08"), Calendar("dekad", 9, SLOTS), Legend.from_codes("test", "abcdef"[:classes]))


def seasons(y: torch.Tensor, seed: int, spread: float = 0.08, contrast: float = 1.2) -> Batch:
    """Noisy seasons whose phase depends on the class, with a third of the dates missing."""
    generator = torch.Generator().manual_seed(seed)
    slot = torch.arange(SLOTS).expand(len(y), -1)
    phase = slot / 2 + contrast * y[:, None] + 0.3 * torch.randn(len(y), 1, generator=generator)
    level = 0.1 * torch.randn(len(y), 1, BANDS, generator=generator)
    values = 0.4 + 0.2 * torch.stack([torch.sin(phase), torch.cos(phase)], -1) + level
    values = values + spread * torch.randn(values.shape, generator=generator)
    mask = torch.rand(len(y), SLOTS, generator=generator) > 0.3
    return Batch(values * mask[..., None], mask, 92.0 + 10 * slot, slot, y)


def data(labels: int = 12, unlabelled: int = 300, classes: int = 3, **form: float) -> TrainingData:
    known = seasons(torch.arange(labels) % classes, seed=1, **form)
    free = seasons(torch.arange(unlabelled) % classes, seed=2, **form).without_labels()
    return TrainingData(known, free if unlabelled else None)


def trained(training: TrainingData, classes: int = 3, **options: object) -> tuple[TiedGaussianEM, Context]:
    model, context = TiedGaussianEM(spec(classes), TiedOptions(**options)), Context(seed=4)  # type: ignore[arg-type]
    model.prepare(training, context)
    return model, context


def accuracy(model: TiedGaussianEM, classes: int = 3) -> float:
    test = seasons(torch.arange(300) % classes, seed=3)
    return float((model.log_posterior(test).argmax(1) == test.y).float().mean())


def test_unlabelled_parcels_help_and_the_decision_is_recorded() -> None:
    model, context = trained(data(labels=6), augment="lite")
    alone, _ = trained(data(labels=6, unlabelled=0), augment="lite")
    assert accuracy(model) > accuracy(alone) + 0.02
    facts = context.facts["tgem"]
    assert facts["fit"] == "em 1"
    assert not facts["guard_fell_back"]
    assert set(facts["nll"]) == {"em 1", "em 0.3", "em 0.1", "augmented", "plain"}


def test_the_guard_falls_back_when_unlabelled_parcels_mislead() -> None:
    training = data(labels=90, contrast=0.5)
    foreign = seasons(torch.zeros(600, dtype=torch.int64), seed=8, contrast=0.0, spread=0.5).without_labels()
    outliers = replace(foreign, values=foreign.values * 8 - 3 * foreign.mask[..., None])
    report = Silent()
    context = Context(seed=4, report=report)
    model = TiedGaussianEM(spec(), TiedOptions())
    model.prepare(TrainingData(training.labelled, outliers), context)
    facts = context.facts["tgem"]
    assert facts["guard_fell_back"]
    assert facts["nll"]["em 1"] > 1.25 * facts["nll"][facts["fit"]]
    assert any("unlabelled parcels hurt" in line for line in report.warnings)
    stubborn, told = trained(TrainingData(training.labelled, outliers), em="on")
    assert told.facts["tgem"]["fit"] == "em 1"
    assert accuracy(model) > accuracy(stubborn)


def test_other_forms_of_em_learn_too() -> None:
    alone, _ = trained(data(labels=6, unlabelled=0), augment="lite")
    for form in ({"em_labels": "once"}, {"starts": "ledoit-wolf"}, {"restarts": 0}):
        model, context = trained(data(labels=6), augment="lite", **form)  # type: ignore[arg-type]
        assert accuracy(model) > accuracy(alone) + 0.02
        assert context.facts["tgem"]["fit"].startswith("em 1")


def test_never_means_never() -> None:
    model, context = trained(data(), em="off")
    alone, _ = trained(TrainingData(data().labelled), em="off")
    assert model.gaussian.means.shape == alone.gaussian.means.shape
    assert set(context.facts["tgem"]["nll"]) == {"augmented", "plain"}


@pytest.mark.parametrize("classes", [2, 5])
def test_one_label_per_class_is_enough_to_run(classes: int) -> None:
    model, context = trained(data(labels=classes, classes=classes), classes)
    posterior = model.log_posterior(seasons(torch.arange(20) % classes, seed=3))
    assert torch.isfinite(posterior).all()
    assert context.facts["tgem"]["nll"] == {}
    trained(data(labels=classes, unlabelled=0, classes=classes), classes, augment="none")


def test_posteriors_are_normalised_and_an_empty_row_gets_the_prior() -> None:
    model, _ = trained(data(labels=13))
    rows = seasons(torch.arange(6) % 3, seed=5)
    empty = Batch(rows.values * 0, rows.mask & False, rows.day, rows.slot, rows.y)
    torch.testing.assert_close(model.log_posterior(rows).exp().sum(1), torch.ones(6))
    prior = torch.tensor([5 / 13, 4 / 13, 4 / 13]).log()
    torch.testing.assert_close(model.log_posterior(empty), prior.expand(6, -1))
    torch.testing.assert_close(model.log_likelihood(empty), torch.zeros(6), atol=1e-5, rtol=0)


def test_the_prior_follows_its_exponent() -> None:
    flat, _ = trained(data(labels=13), prior_exponent=0.0)
    torch.testing.assert_close(flat.gaussian.log_prior, torch.full((3,), 1 / 3).log())


def test_an_early_view_uses_the_dates_it_has() -> None:
    model, _ = trained(data())
    rows = seasons(torch.arange(60) % 3, seed=6)
    early = rows.until(125.0)
    x, m = model.gaussian.grid(rows)
    torch.testing.assert_close(model.log_joint(early), model.gaussian.prefix_log_joint(x, m)[:, 3], atol=1e-3, rtol=0)


def test_densities_are_per_unit_of_reflectance() -> None:
    """Stretching the reflectances by 10 divides the density by 10 for each observed value."""
    training, rows = data(), seasons(torch.arange(30) % 3, seed=6)

    def stretched(batch: Batch) -> Batch:
        return Batch(batch.values * 10, batch.mask, batch.day, batch.slot, batch.y)

    assert training.unlabelled is not None
    model, _ = trained(training)
    other, _ = trained(TrainingData(stretched(training.labelled), stretched(training.unlabelled)))
    change = other.log_likelihood(stretched(rows)) - model.log_likelihood(rows)
    torch.testing.assert_close(change, -np.log(10.0) * rows.mask.sum(1) * BANDS, atol=1e-2, rtol=1e-3)


def test_it_repeats_survives_the_disk_and_works_in_double(tmp_path) -> None:
    model, _ = trained(data())
    again, _ = trained(data())
    rows = seasons(torch.arange(30) % 3, seed=6)
    assert torch.equal(model.log_posterior(rows), again.log_posterior(rows))
    save_model(tmp_path / "model", model, "tgem")
    assert torch.equal(load_model(tmp_path / "model").log_joint(rows), model.log_joint(rows))
    single = model.log_joint(rows)
    double = model.double().log_joint(rows.to(dtype=torch.float64))
    torch.testing.assert_close(single.double(), double, atol=5e-3, rtol=1e-4)


def test_the_order_of_rows_and_padding_do_not_matter() -> None:
    model, _ = trained(data())
    rows = seasons(torch.arange(30) % 3, seed=6)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.log_joint(rows.padded(11).take(order)), model.log_joint(rows)[order])


def test_rows_without_dates_are_left_out_of_the_fit() -> None:
    training = data()
    assert training.unlabelled is not None
    blank = seasons(torch.zeros(50, dtype=torch.int64), seed=9)
    empty = Batch(blank.values * 0, blank.mask & False, blank.day, blank.slot, blank.y).without_labels()
    model, _ = trained(training)
    other, _ = trained(TrainingData(training.labelled, concatenate_batches([training.unlabelled, empty])))
    torch.testing.assert_close(model.gaussian.cov, other.gaussian.cov)


def test_a_class_without_labels_is_refused_by_name() -> None:
    with pytest.raises(DataError, match="for d"):
        fit_tied(spec(4), data(), TiedOptions(), Context())


def test_samples_look_like_the_class() -> None:
    model, _ = trained(data(labels=60))
    y = torch.arange(3).repeat_interleave(200)
    drawn = model.sample(y, torch.Generator().manual_seed(0))
    assert drawn.shape == (600, SLOTS, BANDS)
    mean = torch.stack([drawn[y == k].mean(0) for k in range(3)])
    expected = model.gaussian.restore(model.gaussian.means.unflatten(1, (SLOTS, BANDS)))
    torch.testing.assert_close(mean, expected, atol=0.05, rtol=0)
