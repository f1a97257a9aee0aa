"""Two networks, trained side by side and asked together."""

from __future__ import annotations

from pathlib import Path

import torch

from cropgen.models.base import Context, TrainingData
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.discriminative.tempcnn2 import TempCNN2
from cropgen.training.fit import fit_model

from .conftest import Make, Rows


def test_the_answer_is_the_normalised_mean_of_log_probabilities(make: Make, rows: Rows) -> None:
    model = make("tempcnn2").eval()
    assert isinstance(model, TempCNN2)
    batch = rows([0, 1, 2])
    one, two = (member.log_posterior(batch).exp() for member in model.members.values())
    product = (one * two).sqrt()
    assert torch.allclose(model.log_posterior(batch).exp(), product / product.sum(1, keepdim=True), atol=1e-6)
    assert not torch.allclose(one, two)


def test_members_learn_apart(make: Make, rows: Rows) -> None:
    """The gradient of a member is that of its own loss."""
    model, batch = make("tempcnn2", dropout=0.0, augment="none").eval(), rows([0, 1, 2, 0])
    assert isinstance(model, TempCNN2)
    loss = model.objective(batch, torch.Generator())
    loss.total.backward()
    assert set(loss.terms) == {"first.supervised", "second.supervised"}
    for name, member in model.members.items():
        alone = make("tempcnn", dropout=0.0, augment="none").eval()
        alone.load_state_dict(member.state_dict())
        own = alone.objective(batch, torch.Generator())
        own.total.backward()
        assert torch.allclose(own.total, loss.terms[f"{name}.supervised"])
        for ours, theirs in zip(member.parameters(), alone.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)


def test_members_are_augmented_differently_and_planned_alike(make: Make, rows: Rows) -> None:
    model = make("tempcnn2", dropout=0.0).eval()
    assert isinstance(model, TempCNN2)
    model.second.load_state_dict(model.first.state_dict())
    loss = model.objective(rows([0, 1, 2, 0]), torch.Generator().manual_seed(0))
    assert not torch.equal(loss.terms["first.supervised"], loss.terms["second.supervised"])
    model.prepare(TrainingData(rows([0, 1, 2, 0])), Context())
    assert [options.steps for _, options in model.learners()] == [450, 450]


def test_distilled_members_keep_no_twins_and_the_disk_keeps_them(make: Make, rows: Rows, tmp_path: Path) -> None:
    model, batch = make("tempcnn2", distil="01-27", steps=2), rows([0, 1, 2])
    result = fit_model("tempcnn2", {"distil": "01-27", "steps": 2}, model.spec, TrainingData(batch))
    assert result.model.state_dict().keys() == model.state_dict().keys()
    save_model(tmp_path / "model", result.model, "tempcnn2")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "model").log_posterior(batch), result.model.log_posterior(batch))
