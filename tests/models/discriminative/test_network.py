"""What all networks share: how a season is seen, augmented, mixed, weighted and guessed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

from cropgen.core.errors import UsageError
from cropgen.models.base import Context, TrainingData
from cropgen.models.catalog import CATALOG, load
from cropgen.models.discriminative.network import (
    NetworkOptions,
    NeuralClassifier,
    SequenceOptions,
    class_weights,
    label_prior,
    usual_steps,
)
from cropgen.series.augment import AMPLITUDES, augment, mixup

from .conftest import Make, Rows

PLAIN = [e for e in CATALOG if e.family == "discriminative" and not e.pixel_sets]
NETWORKS = [e.name for e in PLAIN if issubclass(load(e), NeuralClassifier)]
SEQUENCES = [name for name in NETWORKS if name in {"lstm", "gru", "starrnn", "transformer", "ltae"}]


def network(make: Make, name: str = "tempcnn", **options: object) -> NeuralClassifier:
    model = make(name, **options)
    assert isinstance(model, NeuralClassifier)
    return model


def test_every_network_of_the_catalogue_is_one() -> None:
    assert {"tempcnn", "inceptiontime", "omniscale", "msresnet", *SEQUENCES} == set(NETWORKS)


def test_the_usual_loss_is_the_cross_entropy_of_lightly_augmented_seasons(make: Make, rows: Rows) -> None:
    model, batch = network(make, dropout=0.0).eval(), rows([0, 1, 2, 1])
    loss = model.objective(batch, torch.Generator().manual_seed(3))
    x, mask, day = model.see(batch)
    copy = augment(x, mask, "lite", torch.Generator().manual_seed(3))
    expected = functional.cross_entropy(model.classify(model.trunk(*copy, day)), batch.y)
    assert torch.equal(loss.total, expected)


@pytest.mark.parametrize("kind", ["balanced", "effective"])
def test_class_weights_count_each_row_once_on_average(kind: str) -> None:
    count = torch.tensor([80, 15, 5])
    weight = class_weights(count, kind)
    assert float((weight * count).sum()) == pytest.approx(100)
    assert weight[0] < weight[1] < weight[2]
    assert class_weights(count, "none").tolist() == [1, 1, 1]


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    y = np.repeat([0, 1, 2], [80, 15, 5])
    theirs = compute_class_weight("balanced", classes=np.arange(3), y=y)
    np.testing.assert_allclose(class_weights(torch.tensor([80, 15, 5]), "balanced").numpy(), theirs)


def test_effective_weights_by_hand() -> None:
    """Two classes of 1 and 3 rows: β = 3/4, effective numbers 1 and (1 − 27/64)/(1/4) = 37/16."""
    weight = class_weights(torch.tensor([1, 3]), "effective")
    assert float(weight[0] / weight[1]) == pytest.approx(37 / 16)


def test_a_class_without_rows_has_finite_weight_and_prior() -> None:
    assert torch.isfinite(class_weights(torch.tensor([3, 0]), "balanced")).all()
    assert label_prior(torch.tensor([0, 0, 0]), 2).exp().tolist() == pytest.approx([6 / 7, 1 / 7])


def test_weights_reach_the_loss(make: Make, rows: Rows) -> None:
    batch = rows([0, 0, 0, 1, 2])
    plain, weighted = (network(make, class_weight=kind, augment="none") for kind in ("none", "balanced"))
    weighted.load_state_dict(plain.state_dict())
    losses = []
    for model in (plain, weighted):
        model.prepare(TrainingData(batch), Context())
        losses.append(model.eval().objective(batch, torch.Generator()).total)
    logits = plain.classify(plain.trunk(*plain.see(batch)))
    weight = torch.tensor([5 / 9, 5 / 3, 5 / 3])
    assert torch.allclose(losses[1], functional.cross_entropy(logits, batch.y, weight=weight))
    assert not torch.allclose(losses[0], losses[1])


@pytest.mark.parametrize(("labels", "steps"), [(10, 450), (1440, 450), (3200, 1000), (20_000, 3000)])
def test_steps_follow_the_labels(labels: int, steps: int) -> None:
    assert usual_steps(labels, 64) == steps


def test_amplitudes_are_those_of_the_name_but_for_what_is_told(make: Make) -> None:
    assert network(make).amplitudes == AMPLITUDES["lite"]
    assert network(make, augment="none").amplitudes == AMPLITUDES["none"]
    told = network(make, augment="weak", time_warp=3, temporal_dropout=0.0, band_noise=0.2, resampling=0.4).amplitudes
    assert told == replace(AMPLITUDES["weak"], warp=3.0, drop=0.0, noise=0.2, resample=0.4)


def test_mixed_parcels_are_learnt_as_both_classes(make: Make, rows: Rows) -> None:
    model, batch = network(make, mixup=0.4, augment="none").eval(), rows([0, 1, 2, -1, -1])
    loss = model.objective(batch, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    partner = torch.cat([torch.randperm(3, generator=generator), torch.tensor([3, 4])])
    seed = int(torch.randint(2**62, (), generator=generator))
    share = torch.from_numpy(np.random.default_rng(seed).beta(0.4, 0.4, 5)).float()
    share[3:] = 1
    logits = model.classify(model.trunk(*mixup(*model.see(batch), partner, share)))
    told = torch.log_softmax(logits, -1)
    expected = (
        -sum(share[i] * told[i, batch.y[i]] + (1 - share[i]) * told[i, batch.y[partner[i]]] for i in range(3)) / 3
    )
    assert loss.total.item() == pytest.approx(float(expected.detach()), rel=1e-5)


def test_mixing_needs_a_grid(make: Make) -> None:
    with pytest.raises(UsageError, match="axis = grid"):
        make("lstm", mixup=0.2, axis="dates")
    with pytest.raises(UsageError, match="axis = grid"):
        make("transformer", mixup=0.2)


def test_pseudo_labels_are_the_classes_the_same_view_is_sure_of(make: Make, rows: Rows) -> None:
    batch = rows([0, 1, -1, -1, -1, -1])
    confidence, guess = network(make).eval().log_posterior(batch)[2:].detach().exp().max(1)
    sure = float(confidence.median()) + 1e-6
    model = network(make, semi="pseudo", threshold=sure, ramp=0.0, augment="none", dropout=0.0).eval()
    loss = model.objective(batch, torch.Generator())
    told = torch.log_softmax(model.classify(model.trunk(*model.see(batch))), -1)[2:]
    believed = (confidence >= sure).float()
    assert 0 < float(believed.mean()) < 1
    expected = -(told.gather(1, guess[:, None])[:, 0] * believed).mean()
    assert loss.terms["consistency"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.total.item() == pytest.approx((loss.terms["supervised"] + expected).item(), rel=1e-5)


def test_unlabelled_rows_are_asked_for_only_where_they_are_used(make: Make) -> None:
    assert network(make).learners()[0][1].unlabelled_batch == 0
    for semi in ("pseudo", "fixmatch"):
        assert network(make, semi=semi).learners()[0][1].unlabelled_batch == 96


def distilled(make: Make, name: str = "tempcnn", **options: object) -> NeuralClassifier:
    """A network that sees no later than 27 January (day 26: the first three slots) with the twin that teaches it."""
    return network(make, name, distil="01-27", dropout=0.0, augment="none", **options)


def test_a_twin_teaches_what_the_whole_season_tells(make: Make, rows: Rows) -> None:
    model, batch = distilled(make, ramp=0.0, distil_temperature=3.0), rows([0, 1, 2, -1, -1])
    model.prepare(TrainingData(batch.take(batch.y_mask)), Context())
    model, batch = model.double().eval(), batch.to(dtype=torch.float64)
    assert model.twin is not None
    trunk, classify = model.twin
    loss = model.objective(batch, torch.Generator())
    begun = batch.until(26.0)
    said, taught = model.classify(model.trunk(*model.see(begun))), classify(trunk(*model.see(batch)))
    p = torch.softmax(taught / 3, -1)
    divergence = 9 * (p * (p.log() - torch.log_softmax(said / 3, -1))).sum(-1).mean()
    teacher = functional.cross_entropy(taught[:3], batch.y[:3])
    supervised = functional.cross_entropy(said[:3], batch.y[:3])
    assert loss.terms["lesson"].item() == pytest.approx(divergence.item(), rel=1e-5)
    assert loss.terms["teacher"].item() == pytest.approx(teacher.item(), rel=1e-6)
    assert loss.total.item() == pytest.approx((supervised + divergence + teacher).item(), rel=1e-5)


def test_the_lesson_does_not_move_the_teacher(make: Make, rows: Rows) -> None:
    model, batch = distilled(make), rows([0, 1, 2, -1, -1])
    model.prepare(TrainingData(batch.take(batch.y_mask)), Context())
    model.objective(batch, torch.Generator()).terms["lesson"].backward()
    assert model.twin is not None
    assert all(parameter.grad is None for parameter in model.twin.parameters())
    assert all(parameter.grad is not None for parameter in model.trunk.parameters())


@pytest.mark.parametrize("name", ["tempcnn", "gru"])
def test_a_distilled_network_sees_no_later_than_told_and_keeps_no_twin(make: Make, rows: Rows, name: str) -> None:
    model, batch = distilled(make, name), rows([0, 1, 2])
    data = TrainingData(batch)
    model.prepare(data, Context())
    model.finish(data, Context())
    assert not [key for key in model.state_dict() if key.startswith("twin")]
    model.eval()
    later = replace(
        batch, values=torch.where(batch.day[..., None] > 26, batch.values + 5, batch.values) * batch.mask[..., None]
    )
    earlier = replace(batch, values=(batch.values + 5) * batch.mask[..., None])
    with torch.no_grad():
        assert torch.equal(model.log_posterior(later), model.log_posterior(batch))
        assert not torch.equal(model.log_posterior(earlier), model.log_posterior(batch))


def test_the_end_of_the_season_is_that_of_the_year_of_each_row(make: Make, rows: Rows) -> None:
    """1 March is day 60 of a leap year and day 59 of another."""
    model = network(make, distil="03-01").eval()
    batch = rows([0, 1])
    batch = replace(batch, mask=torch.ones_like(batch.mask), day=torch.tensor([[0, 10, 20, 30, 60, 61.0]] * 2))
    leap = replace(batch, year=torch.tensor([2020, 2021]))
    assert model.begun(leap).mask.sum(1).tolist() == [5, 4]
    assert network(make, distil="30").begun(leap).mask.sum(1).tolist() == [4, 4]


def test_distilling_asks_for_unlabelled_rows_and_a_day(make: Make) -> None:
    assert network(make, distil="06-30").learners()[0][1].unlabelled_batch == 96
    with pytest.raises(UsageError, match="expected a day as MM-DD"):
        make("tempcnn", distil="June")
    with pytest.raises(UsageError, match="needs mixup = 0"):
        make("tempcnn", distil="06-30", mixup=0.2)


@pytest.mark.parametrize("name", NETWORKS)
def test_thermal_time_needs_a_temperature(make: Make, name: str) -> None:
    with pytest.raises(UsageError, match="expected a band named temperature") as caught:
        make(name, dates="thermal")
    assert "day-of-year" in (caught.value.hint or "")
    make(name, dates="thermal", bands=("B04", "temperature"))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dates", ["calendar", "day-of-year", "thermal"])
def test_what_a_date_is_told_as(make: Make, rows: Rows, name: str, dates: str) -> None:
    """A later day matters by the true day and by degree days, not by the slot; warmth matters by degree days only."""
    model = network(make, name, dates=dates, bands=("a", "temperature")).eval()
    batch = rows([0, 1, 2])
    later = replace(batch, day=batch.day + 4)
    with torch.no_grad():
        answer, moved = model.log_posterior(batch), model.log_posterior(later)
        days, warm = (model.see(b)[2] for b in (batch, replace(batch, values=batch.values * 1.5)))
    assert torch.equal(moved, answer) == (dates == "calendar")
    assert torch.equal(days, warm) == (dates != "thermal")


@pytest.mark.parametrize("name", SEQUENCES)
def test_raw_dates_are_read_one_by_one(make: Make, rows: Rows, name: str) -> None:
    """Two dates in one slot are two observations, masked ones none, and their order in the row is that of time."""
    model = network(make, name, axis="dates").double().eval()
    batch = rows([0, 1, 2]).to(dtype=torch.float64)
    twin = replace(batch, slot=torch.zeros_like(batch.slot))
    with torch.no_grad():
        assert torch.allclose(model.log_posterior(batch), model.log_posterior(twin))
        assert torch.allclose(model.log_posterior(batch.padded(9)), model.log_posterior(batch))
        outside = replace(batch, slot=torch.where(torch.arange(6) == 2, -1, batch.slot))
        hidden = replace(batch, mask=batch.mask & (torch.arange(6) != 2))
        assert torch.allclose(model.log_posterior(outside), model.log_posterior(hidden))
        grid = network(make, name, axis="grid").double().eval()
        grid.load_state_dict(model.state_dict())
        assert torch.allclose(grid.log_posterior(batch), model.log_posterior(batch))
        assert not torch.allclose(grid.log_posterior(twin), model.log_posterior(twin))


@pytest.mark.parametrize("name", SEQUENCES)
def test_raw_dates_learn_with_every_augmentation(make: Make, rows: Rows, name: str) -> None:
    model = network(make, name, axis="dates", augment="strong", resampling=0.5, semi="fixmatch", threshold=0.34)
    loss = model.objective(rows([0, 1, 2, -1, -1, -1]), torch.Generator().manual_seed(0))
    loss.total.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert math.isfinite(loss.total.item())


def test_options_for_tuning_hold_their_default() -> None:
    for entry in CATALOG:
        kind = load(entry).Settings
        for name, field in kind.model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and "search" in extra:
                assert field.default in extra["search"], f"{entry.name}.{name}"  # type: ignore[operator]
    assert issubclass(SequenceOptions, NetworkOptions)


def test_a_band_that_was_constant_while_learning_has_scale_1(make: Make, rows: Rows) -> None:
    model, batch = network(make), rows([0, 1, 2, 1])
    model.prepare(
        TrainingData(replace(batch, values=torch.stack([batch.values[..., 0], 5.0 * batch.mask], -1))), Context()
    )
    assert float(model.scale[1]) == 1
    assert 0.3 < float(model.scale[0]) < 3
    assert model.scale[0] != 1
