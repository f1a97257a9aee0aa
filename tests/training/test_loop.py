"""The loop follows its schedule, and a killed training continues to the same weights."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from cropgen.core.errors import CorruptInputError, CropgenError, UsageError
from cropgen.models.base import Classifier, Context, GradientOptions, InputSpec, Objective, TrainingData
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.ledger import Ledger
from cropgen.training.loop import CHECKPOINT_EVERY, Cycle, Learner, MiniBatches, learn

CPU = torch.device("cpu")


class Noisy(Classifier):
    """Logistic regression on the mean of a row with all that resuming must keep: dropout, noise, a running buffer."""

    Settings = GradientOptions
    learns_by_gradient = True
    uses_unlabelled = True

    def __init__(self, spec: InputSpec, options: GradientOptions) -> None:
        super().__init__(spec, options)
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.BatchNorm1d(1), nn.Dropout(0.3), nn.Linear(1, spec.classes))
        self.fail_at = -1
        self.pause = 0.0
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def log_posterior(self, batch: Batch) -> Tensor:
        return torch.log_softmax(self.layers(batch.values.mean(1)), -1)

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        self.calls += 1
        time.sleep(self.pause)
        noise = 0.01 * torch.randn(batch.values.shape, generator=generator)
        logits = self.layers((batch.values + noise).mean(1))
        loss = nn.functional.cross_entropy(logits[batch.y_mask], batch.y[batch.y_mask])
        rest = logits[~batch.y_mask].square().mean() if (~batch.y_mask).any() else loss * 0
        if int(self.calls) == self.fail_at:
            rest = rest * math.nan
        return Objective(loss + 0.01 * rest, {"supervised": loss, "rest": rest})


def rows(count: int, dates: int, seed: int, *, known: bool) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    values = torch.randn(count, dates, 1, generator=generator) + 3 * y[:, None, None]
    slot = torch.arange(dates).expand(count, dates)
    return Batch(values, torch.ones(count, dates, dtype=torch.bool), slot.float(), slot, y if known else y * 0 - 1)


DATA = TrainingData(rows(20, 3, 0, known=True), rows(30, 5, 1, known=False))
SPEC = InputSpec(("a",), Calendar("dekad", 0, 5), Legend.from_codes("l", ["x", "y"]))


def fresh(steps: int = 120, **options: float) -> Noisy:
    return Noisy(SPEC, GradientOptions.model_validate({"steps": steps, "labelled_batch": 8, **options}))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("steps", [7, 20, 450])
def test_the_schedule_is_that_of_torch(steps: int) -> None:
    optimiser = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=2e-3, total_steps=steps)
    for step in range(steps):
        share, momentum = Cycle(steps).at(step)
        assert 2e-3 * share == pytest.approx(optimiser.param_groups[0]["lr"], rel=1e-9)
        assert momentum == pytest.approx(optimiser.param_groups[0]["betas"][0], rel=1e-12)
        optimiser.step()
        if step + 1 < steps:
            theirs.step()


@given(st.integers(1, 50), st.integers(0, 49))
def test_the_schedule_stays_in_bounds(steps: int, step: int) -> None:
    share, momentum = Cycle(steps).at(min(step, steps - 1))
    assert 0 < share <= 1
    assert 0.85 <= momentum <= 0.95


def test_mini_batches_are_padded_labelled_first_and_continue_where_they_stopped() -> None:
    learners = [Learner([], GradientOptions(labelled_batch=3, unlabelled_batch=4))]
    whole = MiniBatches(fresh(), DATA, learners, Context(1), skip=0)
    drawn = [whole.draw() for _ in range(12)]
    assert drawn[0].y_mask.tolist() == [True] * 3 + [False] * 4
    assert drawn[0].values.shape == (7, 5, 1)
    assert not drawn[0].mask[:3, 3:].any()
    rest = MiniBatches(fresh(), DATA, learners, Context(1), skip=9)
    assert torch.equal(rest.draw().values, drawn[9].values)


def test_learning_lowers_the_loss_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    model = fresh(steps=200, learning_rate=0.05)
    state = torch.get_rng_state()
    after = learn(model, DATA, Context(3), device=CPU, ledger=Ledger(metrics=tmp_path / "m.jsonl"))
    assert torch.equal(torch.get_rng_state(), state)
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(10, 201, 10))
    assert set(lines[0]) == {"step", "loss", "supervised", "rest", "gradient", "rate", "seconds"}
    assert lines[-1]["supervised"] < lines[0]["supervised"]
    assert lines[0]["loss"] == pytest.approx(lines[0]["supervised"] + 0.01 * lines[0]["rest"], rel=1e-5)
    assert after.steps == 200


def test_two_trainings_are_equal_and_another_seed_differs() -> None:
    one, two, other = fresh(), fresh(), fresh()
    for model, seed in ((one, 5), (two, 5), (other, 6)):
        learn(model, DATA, Context(seed), device=CPU, ledger=Ledger())
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


def test_gradients_are_clipped_and_weights_decay_per_learner() -> None:
    class Frozen(Noisy):
        def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
            total = sum(parameter.sum() * 0 for parameter in self.parameters())
            return Objective(torch.as_tensor(total), {})

    model = Frozen(SPEC, GradientOptions(steps=1, learning_rate=0.5, weight_decay=0.2))
    before = weights(model)
    learn(model, DATA, Context(), device=CPU, ledger=Ledger())
    share, _ = Cycle(1).at(0)
    assert torch.allclose(model.layers[2].weight, before["layers.2.weight"] * (1 - 0.5 * share * 0.2))


def test_divergence_names_step_and_terms() -> None:
    model = fresh()
    model.fail_at = 17
    with pytest.raises(CropgenError, match=r"step 17: loss nan, rest nan, gradient nan") as caught:
        learn(model, DATA, Context(), device=CPU, ledger=Ledger())
    assert "learning_rate" in (caught.value.hint or "")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())


def test_an_interrupted_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole = fresh()
    learn(whole, DATA, Context(2), device=CPU, ledger=Ledger("id", tmp_path / "a", metrics=tmp_path / "a.jsonl"))

    class Interrupted(Noisy):
        def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
            if int(self.calls) == CHECKPOINT_EVERY + 22:
                raise KeyboardInterrupt
            return super().objective(batch, generator)

    broken = Interrupted(SPEC, fresh().options)
    ledger = Ledger("id", tmp_path / "b", resume=True, metrics=tmp_path / "b.jsonl")
    with pytest.raises(KeyboardInterrupt):
        learn(broken, DATA, Context(2), device=CPU, ledger=ledger)
    assert json.loads((tmp_path / "b.jsonl").read_text().splitlines()[-1])["step"] == 70
    resumed = fresh()
    assert learn(resumed, DATA, Context(2), device=CPU, ledger=ledger).steps == 120
    assert same(weights(whole), weights(resumed))
    plain = [
        [{**json.loads(line), "seconds": 0} for line in (tmp_path / name).read_text().splitlines()]
        for name in ("a.jsonl", "b.jsonl")
    ]
    assert plain[0] == plain[1]


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_loop import CPU, DATA, Context, Ledger, fresh, learn
model = fresh()
model.pause = 0.01
learn(model, DATA, Context(2), device=CPU, ledger=Ledger("id", Path(sys.argv[2]), metrics=Path(sys.argv[3])))
"""


def test_a_killed_process_resumes_bit_for_bit(tmp_path: Path) -> None:
    folder, metrics = tmp_path / "checkpoint", tmp_path / "metrics.jsonl"
    arguments = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder), str(metrics)]
    child = subprocess.Popen(arguments)
    deadline = time.monotonic() + 60
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 7) and time.monotonic() < deadline:
        assert child.poll() is None
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 0 < metrics.read_text().count("\n") < 12
    resumed, whole = fresh(), fresh()
    learn(resumed, DATA, Context(2), device=CPU, ledger=Ledger("id", folder, resume=True, metrics=metrics))
    learn(whole, DATA, Context(2), device=CPU, ledger=Ledger())
    assert int(resumed.calls) == 120
    assert same(weights(whole), weights(resumed))
    assert metrics.read_text().count("\n") == 12


def test_without_a_checkpoint_resuming_begins(tmp_path: Path) -> None:
    whole, begun = fresh(), fresh()
    learn(whole, DATA, Context(2), device=CPU, ledger=Ledger())
    learn(begun, DATA, Context(2), device=CPU, ledger=Ledger("id", tmp_path, resume=True))
    assert same(weights(whole), weights(begun))


def test_foreign_and_truncated_checkpoints_are_refused(tmp_path: Path) -> None:
    learn(fresh(), DATA, Context(), device=CPU, ledger=Ledger("one", tmp_path))
    wider = Noisy(replace(SPEC, legend=Legend.from_codes("l", ["x", "y", "z"])), fresh().options)
    with pytest.raises(UsageError, match="of another version"):
        learn(wider, DATA, Context(), device=CPU, ledger=Ledger("one", tmp_path, resume=True))
    state = tmp_path / "state.safetensors"
    assert {key.split(".")[0] for key in load_file(state)} == {"model", "optimiser"}
    with pytest.raises(UsageError, match="other data, options or seed"):
        learn(fresh(), DATA, Context(), device=CPU, ledger=Ledger("two", tmp_path, resume=True))
    state.write_bytes(state.read_bytes()[:-9])
    with pytest.raises(CorruptInputError, match="cannot be read"):
        learn(fresh(), DATA, Context(), device=CPU, ledger=Ledger("one", tmp_path, resume=True))


def test_a_full_disk_is_said_and_the_last_state_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn(fresh(steps=50), DATA, Context(), device=CPU, ledger=Ledger("one", tmp_path))
    before = (tmp_path / "state.safetensors").read_bytes()

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(CropgenError, match="No space left"):
        learn(fresh(steps=60), DATA, Context(), device=CPU, ledger=Ledger("one", tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
    assert (tmp_path / "state.safetensors").read_bytes() == before
