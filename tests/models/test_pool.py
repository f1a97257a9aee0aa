"""The pool is the weighted product of its members' posteriors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from cropgen.core.errors import UsageError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.models.classical.tgem import TiedGaussianEM
from cropgen.models.discriminative.tempcnn import TempCNN
from cropgen.models.dvaes.srnn import SRNN
from cropgen.models.pool import Pool, PoolOptions, pool_weight
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import fit_model

SPEC = InputSpec(("a", "b"), Calendar("dekad", 0, 5), Legend.from_codes("l", ["x", "y", "z"]))
SMALL = {"generative": "tgem", "discriminative_options": {"hidden": 4, "width": 5}}


def rows(count: int, *, known: bool, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    mask = torch.rand(count, 5, generator=generator) > 0.2
    values = (0.3 * torch.randn(count, 5, 2, generator=generator) + y[:, None, None]) * mask[..., None]
    slot = torch.arange(5).expand(count, 5)
    return Batch(values, mask, slot * 10.0, slot, y if known else y * 0 - 1)


DATA = TrainingData(rows(18, known=True), rows(24, known=False, seed=1))


def make(**options: Any) -> Pool:
    model = build_model("pool", {**SMALL, **options}, SPEC)
    assert isinstance(model, Pool)
    return model


def prepared(**options: Any) -> Pool:
    model = make(**options)
    model.prepare(DATA, Context())
    return model.eval()


@pytest.mark.parametrize(("labels", "weight"), [(0.0, 1.0), (45.0, 0.5), (1.4, 0.80), (7.0, 0.68), (14.0, 0.61)])
def test_the_weight_follows_the_labels_per_class(labels: float, weight: float) -> None:
    assert pool_weight(labels) == pytest.approx(weight, abs=0.005)


def test_the_posterior_is_the_renormalised_product() -> None:
    model, batch = prepared(weight=0.3), rows(7, known=True, seed=5)
    first = model.generative.log_posterior(batch).exp()
    second = model.discriminative.log_posterior(batch).exp()
    product = first**0.3 * second**0.7
    assert torch.allclose(model.log_posterior(batch).exp(), product / product.sum(1, keepdim=True), atol=1e-6)


def test_the_beginning_of_a_season_is_the_generative_members() -> None:
    model, batch = prepared(), rows(9, known=True, seed=5)
    model.reach.last.fill_(4)
    whole = replace(batch, mask=torch.ones_like(batch.mask))
    begun = replace(whole, mask=torch.arange(5).expand(9, -1) < 3)
    assert torch.equal(model.log_posterior(begun), model.generative.log_posterior(begun))
    assert not torch.isclose(model.log_posterior(whole), model.generative.log_posterior(whole)).all()


@pytest.mark.parametrize(("weight", "role"), [(1.0, "generative"), (0.0, "discriminative")])
def test_at_the_ends_it_is_one_member(weight: float, role: str) -> None:
    model, batch = prepared(weight=weight), rows(7, known=True, seed=5)
    assert torch.allclose(model.log_posterior(batch), model.members[role].log_posterior(batch), atol=1e-6)


def test_prepare_weighs_by_the_labels_and_says_so() -> None:
    model, context = make(), Context()
    model.prepare(DATA, context)
    assert float(model.weight) == pytest.approx(pool_weight(6.0))
    assert context.facts["pool"] == {
        "generative": "tgem", "discriminative": "tempcnn", "labels_per_class": 6.0, "weight": pool_weight(6.0),
    }  # fmt: skip
    assert "tempcnn" in context.facts


def test_a_network_of_beginnings_is_tempered_on_beginnings() -> None:
    """Both members see the first three slots only: what comes later in the unlabelled rows is not judged by."""
    temperatures = []
    for later in (0.0, 3.0):
        model = prepared(discriminative_options={**SMALL["discriminative_options"], "distil": "01-21"})
        free = rows(24, known=False, seed=1)
        moved = free.values + later * (free.day > 20)[..., None] * free.mask[..., None]
        model.finish(TrainingData(DATA.labelled, replace(free, values=moved)), Context(facts={"pool": {}}))
        temperatures.append(float(model.temperature))
    assert temperatures[0] == temperatures[1] != 1.0


def test_about_a_season_far_from_every_class_the_generative_member_is_less_sure() -> None:
    data = TrainingData(DATA.labelled, rows(300, known=False, seed=2))
    pools = [make(discriminative="rf", discriminative_options={"trees": 5}, heavy_tails=on) for on in (True, False)]
    for pool in pools:
        pool.prepare(data, Context())
        pool.finish(data, context := Context(facts={"pool": {}}))
        assert ("freedom" in context.facts["pool"]) == pool.chosen.heavy_tails
    heavy, plain = pools
    batch = rows(12, known=True, seed=5)
    far = replace(batch, values=batch.values - 30 * batch.mask[..., None])
    for pool, sure in ((plain, True), (heavy, False)):
        network = pool.discriminative.log_posterior(far)
        tailed = pool.tails.log_posterior(cast(TiedGaussianEM, pool.generative).gaussian, far)
        assert (float(tailed.exp().amax(1).mean()) > 0.98) == sure
        product = torch.log_softmax(pool.weight * tailed + (1 - pool.weight) / pool.temperature * network, -1)
        assert torch.allclose(pool.log_posterior(far), product, atol=1e-6)
    assert torch.equal(plain.generative.log_posterior(far), heavy.generative.log_posterior(far))


def test_the_likelihood_is_the_generative_members() -> None:
    model, batch = prepared(), rows(7, known=True, seed=5)
    assert torch.equal(model.log_likelihood(batch), model.generative.log_likelihood(batch))


def test_only_gradient_members_are_trained() -> None:
    model = prepared().train()
    loss = model.objective(DATA.labelled, torch.Generator().manual_seed(0))
    assert set(loss.terms) == {"discriminative.supervised"}
    loss.total.backward()
    assert all(p.grad is not None for p in model.discriminative.parameters())
    assert [module for module, _ in model.learners()] == [model.discriminative]


def test_two_gradient_members_learn_from_the_sum() -> None:
    model = make(generative="realnvp", generative_options={"steps": 3})
    model.prepare(DATA, Context())
    assert [options.steps for _, options in model.learners()] == [3, 450]
    loss = model.train().objective(DATA.labelled, torch.Generator().manual_seed(0))
    assert {name.split(".")[0] for name in loss.terms} == {"generative", "discriminative"}
    loss.total.backward()
    assert any(p.grad is not None for p in model.generative.parameters())


def test_two_closed_members_need_no_steps() -> None:
    model = prepared(discriminative="rf", discriminative_options={})
    assert model.learners() == []
    assert model.log_posterior(rows(4, known=True)).shape == (4, 3)


def test_members_are_checked() -> None:
    with pytest.raises(UsageError, match="'tempcnn' is not a generative model"):
        make(generative="tempcnn")
    with pytest.raises(UsageError, match="cannot be a member"):
        make(discriminative="pool")
    with pytest.raises(UsageError, match="discriminative_options of tempcnn: hiden"):
        make(discriminative_options={"hiden": 3})
    with pytest.raises(UsageError, match="unknown model 'tgen'"):
        make(generative="tgen")


def test_a_convolutional_member_uses_unlabelled_parcels_unless_told_otherwise() -> None:
    assert PoolOptions().discriminative_options == {"semi": "fixmatch"}
    assert PoolOptions(discriminative_options={"semi": "none"}).discriminative_options == {"semi": "none"}
    assert PoolOptions(discriminative_options={"hidden": 3}).discriminative_options == {"semi": "fixmatch", "hidden": 3}
    assert PoolOptions(discriminative="rf").discriminative_options == {}
    assert PoolOptions.model_validate(PoolOptions().model_dump()) == PoolOptions()


@pytest.mark.parametrize("role", ["generative_options", "discriminative_options"])
@pytest.mark.parametrize("given", [5, "x", [1], None])
def test_options_of_a_member_that_are_no_table_are_refused(role: str, given: object) -> None:
    with pytest.raises(UsageError, match=f"{role}: Input should be a valid dictionary"):
        build_model("pool", {role: given}, SPEC)


def test_the_larger_number_of_steps_holds_for_both_members_and_they_say_so() -> None:
    settings = {
        "generative": "srnn", "generative_options": {"steps": 1, "hidden": 4, "copies": 16, "warm_up": 9},
        "discriminative_options": {"steps": 3, "hidden": 4, "width": 5},
    }  # fmt: skip
    model = fit_model("pool", settings, SPEC, DATA).model
    assert isinstance(model, Pool)
    assert int(cast(SRNN, model.generative).updates) == int(cast(TempCNN, model.discriminative).step) == 3
    for role in ("generative_options", "discriminative_options"):
        assert "steps, batch sizes and patience the larger" in (PoolOptions.model_fields[role].description or "")
