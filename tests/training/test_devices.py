"""Every model of the catalogue that learns by gradient can do so on a device that is not the processor."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from cropgen.core.errors import DeviceError
from cropgen.kernels import dispatch
from cropgen.kernels.recurrence import hoisted
from cropgen.kernels.recurrence.reference import Chain
from cropgen.models.base import Classifier, Context, InputSpec, TrainingData
from cropgen.models.catalog import CATALOG, find, load
from cropgen.models.checkpoint import build_model, load_model, save_model
from cropgen.models.layers.residual import ResidualModel
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.pixel_sets import SHAPE
from cropgen.training import loop
from cropgen.training.fit import fit_model
from cropgen.training.ledger import Ledger
from cropgen.training.loop import learn
from tests.training.apart import APART, ApartTensor, DeviceApart

# what stands in for the device passes for one without numbers, of which PyTorch warns
pytestmark = pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")

NAMES = ("B04", "B08")
SPEC = InputSpec(NAMES, Calendar("dekad", 9, 5), Legend.from_codes("crops", ["1", "2", "3"]), pixel_bands=NAMES)
TINY = {"hidden": 6, "copies": 8, "tied": {"em": "off"}, "steps": 2, "patience": 1, "labelled_batch": 4}
GRADIENT = {entry.name: entry for entry in CATALOG if entry.gradient}
LEADING = ("tempcnn", "realnvp", "ssvae", "srnn", "kvae", "storn", "pool")
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("pool", {"generative": "srnn"}),
    ("pool", {"generative": "ssvae", "discriminative": "transformer"}),
    ("srnn", {"input_dropout": 0.2, "overshooting": 2, "warm_up": 3, "free_bits": 0.1, "learn_initial": False}),
    ("srnn", {"kernel": "reference", "variance_floor": 0.1}),
    ("vrnn", {"overshooting": 2, "input_dropout": 0.3, "dynamic_dropout": True}),
    ("tempcnn", {"semi": "pseudo", "distil": "05-15", "class_weight": "effective", "resampling": 0.2}),
    ("tempcnn", {"mixup": 0.2}),
    ("transformer", {"axis": "dates", "semi": "fixmatch", "augment": "strong", "resampling": 0.2}),
]


def seasons(count: int, seed: int, *, known: bool) -> Batch:
    """Rows of three crops with gaps, and with pixel sets."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    mask = torch.rand(count, 5, generator=generator) > 0.2
    mask[:, 0] = True
    values = (0.1 * torch.randn(count, 5, 2, generator=generator) + 0.2 * y[:, None, None]) * mask[..., None]
    slot = torch.arange(5).expand(count, 5)
    seen = mask[..., None].expand(-1, -1, 4)
    pixels = (1e4 * values[:, :, None].expand(-1, -1, 4, -1)).to(torch.int16)
    return Batch(
        values, mask, slot * 10.0 + 95, slot, y if known else y * 0 - 1, year=torch.full((count,), 2021),
        pixels=pixels, pixel_mask=seen, shape=torch.rand(count, len(SHAPE), generator=generator),
    )  # fmt: skip


DATA = TrainingData(seasons(12, 0, known=True), seasons(18, 1, known=False), seasons(9, 2, known=True))


def tiny(name: str, **more: Any) -> dict[str, Any]:
    """Options of a model that are quick to learn with."""
    known = load(find(name)).Settings.model_fields
    chosen = {key: value for key, value in TINY.items() if key in known} | more
    if name == "pool":
        members = {"generative": "realnvp", "discriminative": "tempcnn"} | more
        chosen |= {f"{role}_options": tiny(member) for role, member in members.items()}
    elif find(name).semi_supervised:
        chosen["unlabelled_batch"] = 4
    return chosen


def prepared(name: str, **more: Any) -> tuple[Classifier, Context]:
    model, context = build_model(name, tiny(name, **more), SPEC, seed=1), Context(seed=0)
    model.prepare(DATA, context)
    return model, context


def cases() -> list[Any]:
    """Every model, and variants whose objective takes another way; all but the leading ones are slow."""
    found = []
    for name, entry in GRADIENT.items():
        absent = bool(entry.needs) and importlib.util.find_spec(entry.needs) is None
        marks = [pytest.mark.skipif(absent, reason=f"no {entry.needs} here")]
        found.append(pytest.param(name, {}, id=name, marks=marks + [pytest.mark.slow] * (name not in LEADING)))
    for name, more in VARIANTS:
        which = " ".join([name, *more])
        found.append(pytest.param(name, more, id=which, marks=[pytest.mark.slow] * (name not in LEADING)))
    return found


@pytest.mark.parametrize(("name", "more"), cases())
def test_learns_is_judged_and_finishes_away_from_main_memory(name: str, more: dict[str, Any]) -> None:
    model, context = prepared(name, **more)
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    with DeviceApart():
        learn(model, DATA, context, device=APART, ledger=Ledger())
        assert all(isinstance(value, ApartTensor) for value in model.state_dict().values())
    model.cpu().eval()
    model.finish(DATA, context)
    assert context.facts["early_stopping"]["steps"] == 2
    after = dict(model.named_parameters())
    assert any(not torch.equal(after[key], value) for key, value in before.items() if key in after)
    assert DATA.validation is not None
    assert torch.isfinite(model.log_posterior(DATA.validation)).all()


@pytest.mark.parametrize("name", ["srnn", "pool"])
def test_a_training_away_from_main_memory_resumes_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 1)
    model, context = prepared(name)
    with DeviceApart():
        learn(model, DATA, context, device=APART, ledger=Ledger(checkpoint=tmp_path))
        whole = {key: value.cpu() for key, value in model.state_dict().items()}
        model, context = prepared(name)
        with monkeypatch.context() as stopped:
            stopped.setattr(loop.MiniBatches, "draw", _until_the_second(loop.MiniBatches.draw))
            with pytest.raises(KeyboardInterrupt):
                learn(model, DATA, context, device=APART, ledger=Ledger(checkpoint=tmp_path))
        model, context = prepared(name)
        done = learn(model, DATA, context, device=APART, ledger=Ledger(checkpoint=tmp_path, resume=True))
        again = {key: value.cpu() for key, value in model.state_dict().items()}
    assert done.steps == 2
    assert all(torch.equal(again[key], value) for key, value in whole.items())


def _until_the_second(draw: Any) -> Any:
    calls = []

    def drawn(batches: loop.MiniBatches) -> Batch:
        calls.append(batches)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return draw(batches)

    return drawn


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The device stands for a GPU on which the fused kernel runs; it lists the kernels that ran."""
    ran: list[str] = []

    def resolved(name: str, device: torch.device, chain: Chain | None = None) -> str:
        return dispatch.resolve_kernel(name, "cuda" if torch.device(device) == APART else device, chain)

    def selected(name: str) -> dispatch.RunChain:
        ran.append(name)
        return hoisted.run_chain

    monkeypatch.setattr(dispatch.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr("cropgen.kernels.recurrence.triton.why_not", lambda chain, device=None: None)
    monkeypatch.setattr("cropgen.models.layers.chained.resolve_kernel", resolved)
    monkeypatch.setattr("cropgen.models.layers.chained.select_kernel", selected)
    monkeypatch.setattr("cropgen.training.fit.find_device", lambda name: APART)
    return ran


@pytest.mark.parametrize("kernel", ["auto", "triton"])
def test_the_kernel_that_learnt_is_kept_and_the_processor_has_its_own(
    kernel: str, fused: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DeviceApart():
        result = fit_model("srnn", tiny("srnn", kernel=kernel, patience=0), SPEC, DATA)
        assert fused[:2] == ["triton", "triton"]
        assert set(fused[2:]) <= {"hoisted"}
        again = fit_model("srnn", tiny("srnn", kernel="reference", patience=0), SPEC, DATA)
    assert (result.facts["kernel"], again.facts["kernel"]) == ("triton", "reference")
    save_model(tmp_path, result.model, "srnn")
    monkeypatch.undo()
    answer = load_model(tmp_path).log_posterior(DATA.labelled)
    assert torch.equal(answer, result.model.log_posterior(DATA.labelled))


@pytest.mark.parametrize("kernel", ["auto", "triton"])
def test_the_kernel_that_learnt_is_kept_where_no_step_was_left(
    kernel: str, fused: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny("srnn", kernel=kernel, patience=0)
    with DeviceApart():
        fit_model("srnn", settings, SPEC, DATA, checkpoint=tmp_path)
        fused.clear()
        result = fit_model("srnn", settings, SPEC, DATA, checkpoint=tmp_path, resume=True)
    assert result.facts["kernel"] == "triton"
    assert set(fused) <= {"hoisted"}


@pytest.mark.parametrize(("name", "more"), [
    ("srnn", {"kernel": "triton"}), ("pool", {"generative": "srnn", "generative_options": {"kernel": "triton"}}),
])  # fmt: skip
def test_a_named_kernel_that_cannot_run_is_refused_before_anything_is_fitted(
    name: str, more: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ResidualModel, "prepare", lambda *_: pytest.fail("the model is fitted"))
    with pytest.raises(DeviceError, match="kernel 'triton' needs a CUDA device, the model is on cpu"):
        fit_model(name, more, SPEC, DATA)


def test_the_device_is_apart() -> None:
    with DeviceApart():
        there = torch.ones(2, device=APART)
        assert float((there + torch.tensor(1.0)).sum()) == 4.0
        with pytest.raises(RuntimeError, match="two devices"):
            _ = there + torch.ones(2)
        with pytest.raises(RuntimeError, match="two devices"):
            torch.stack([there.sum(), torch.tensor(1.0)])
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, device=APART, generator=torch.Generator())
        assert torch.equal((there.cpu() + torch.ones(2)), torch.full((2,), 2.0))
    assert isinstance(there, ApartTensor)
