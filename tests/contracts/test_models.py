"""What every model of the catalogue promises; a new row of the catalogue is tested by being there."""

from __future__ import annotations

import copy
import functools
import importlib.util
import json
import tomllib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from torch import Tensor

from cropgen.models.base import Classifier, Context, GenerativeModel, InputSpec, TrainingData
from cropgen.models.catalog import ALIASES, CATALOG, Entry, find, load
from cropgen.models.checkpoint import build_model, load_model, save_model
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.pixel_sets import SHAPE, UNIT
from cropgen.training import loop, stopping
from cropgen.training.fit import FitResult, fit_model

SLOTS, BANDS, DATES = 6, 2, 9
COUNTS = (20, 12, 8)
NAMES = ("B04", "B08")
SPEC = InputSpec(NAMES, Calendar("dekad", 9, SLOTS), Legend.from_codes("crops", ["10", "20", "30"]), pixel_bands=NAMES)
PIXELS = 5


# One row of each family, on which tests that fit anew run by default; on the others they are slow.
LEADING = ("rf", "tgem", "tempcnn", "realnvp", "ssvae", "srnn", "pool")


def over(entries: Iterable[Entry], *, fits: bool = False) -> pytest.MarkDecorator:
    """A test for each row; one whose package is not installed is skipped and says so."""

    def case(entry: Entry) -> Any:
        absent = bool(entry.needs) and importlib.util.find_spec(entry.needs) is None
        marks = [pytest.mark.skipif(absent, reason=f"no {entry.needs} here")]
        if fits and entry.name not in LEADING:
            marks.append(pytest.mark.slow)
        return pytest.param(entry, id=entry.name, marks=marks)

    return pytest.mark.parametrize("entry", [case(entry) for entry in entries])


EVERY = over(CATALOG)
EVERY_FIT = over(CATALOG, fits=True)
GRADIENT_FIT = over((e for e in CATALOG if e.gradient), fits=True)
GENERATIVE = over(e for e in CATALOG if e.generative)


def seasons(counts: tuple[int, ...], seed: int, *, known: bool = True) -> Batch:
    """Rows of irregular dates, two of them sometimes in one slot, a quarter of them missing; with pixel sets, of which
    one in five is missing, and a single pixel in every seventh parcel."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.cat([torch.full((count,), k) for k, count in enumerate(counts)])
    day = torch.sort(90 + 60 * torch.rand(len(y), DATES, generator=generator), 1).values
    slot = ((day - 90) / 10).long().clamp(max=SLOTS - 1)
    mask = torch.rand(len(y), DATES, generator=generator) > 0.25
    mask[:, 4] = True
    peak = torch.exp(-(((day - 105 - 15 * y[:, None]) / 15) ** 2))[..., None]
    values = 0.2 + 0.3 * peak * torch.tensor([-0.4, 1.0])
    values = (values + 0.02 * torch.randn(values.shape, generator=generator)) * mask[..., None]
    clear = (torch.rand(len(y), DATES, PIXELS, generator=generator) > 0.2) & mask[..., None]
    clear[::7, :, 1:] = False
    clear[..., 0] = mask
    noise = 0.02 * torch.randn(len(y), DATES, PIXELS, BANDS, generator=generator)
    pixels = ((values[:, :, None] + noise) * clear[..., None] / UNIT).round().to(torch.int16)
    shape = 0.5 + torch.rand(len(y), len(SHAPE), generator=generator)
    y = y if known else y * 0 - 1
    return Batch(values, mask, day, slot, y, pixels=pixels, pixel_mask=clear, shape=shape)


DATA = TrainingData(seasons(COUNTS, 0), seasons((15, 15, 15), 1, known=False))
TEST = seasons((4, 4, 4), 2)


# Short settings of rows whose options differ from those of their family.
TINY: dict[str, dict[str, Any]] = {
    "ssvae": {"steps": 4},
    "vae-rnn": {"steps": 4, "copies": 64, "hidden": 8, "latent": 3, "samples": 2},
    "sdn-vae": {"steps": 4, "copies": 64, "hidden": 8, "latent": 2, "samples": 2},
    "tampered-vae": {"steps": 4, "copies": 64, "hidden": 16, "latent": 4, "samples": 3, "width": 16},
}


def few_steps(entry: Entry) -> dict[str, Any]:
    """Settings that make a fit short."""
    if entry.name in TINY:
        return dict(TINY[entry.name])
    if entry.family == "vae":
        return {"steps": 4, "copies": 64, "hidden": 16, "latent": 4, "samples": 3}
    if entry.family == "pool":
        flow = {"steps": 4, "copies": 64, "labelled_batch": 16, "unlabelled_batch": 16}
        return {"generative_options": flow, "discriminative_options": {"steps": 4}}
    if entry.family == "dvae":
        return {"steps": 4, "hidden": 8, "latent": 3, "smoothing": 6, "copies": 64}
    if entry.family == "flow":
        return {"steps": 4, "copies": 64, "labelled_batch": 16, "unlabelled_batch": 16}
    if entry.gradient:
        return {"steps": 4, "labelled_batch": 16} if entry.needs else {"steps": 4}
    return {"rf": {"trees": 30}, "hgb": {"iterations": 15}}.get(entry.name, {})


@functools.cache
def fitted(name: str) -> FitResult:
    return fit_model(name, few_steps(find(name)), SPEC, DATA, seed=1)


def answer(model: Classifier, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.log_posterior(batch)


def doubled(name: str) -> tuple[Classifier, Batch]:
    """A fitted model and the test rows in double precision."""
    return copy.deepcopy(fitted(name).model).double(), TEST.to(dtype=torch.float64)


@EVERY
def test_the_catalogue_tells_the_truth(entry: Entry) -> None:
    kind = load(entry)
    assert issubclass(kind, GenerativeModel) == entry.generative
    assert kind.learns_by_gradient == entry.gradient
    assert kind.uses_unlabelled == entry.semi_supervised
    assert entry.summary.strip()
    assert any(part.strip().isdigit() for part in entry.reference.replace(";", ",").split(","))
    assert (kind.__doc__ or "").strip()


def test_names_are_unique_and_aliases_lead_somewhere() -> None:
    names = [entry.name for entry in CATALOG]
    assert len(set(names)) == len(names)
    assert not set(names) & set(ALIASES)
    assert {find(alias).name for alias in ALIASES} <= set(names)


@EVERY
def test_default_options_round_trip_toml(entry: Entry) -> None:
    settings = load(entry).Settings
    text = tomli_w.dumps(settings().model_dump(mode="json", exclude_none=True))
    assert settings.model_validate(tomllib.loads(text)) == settings()
    assert [name for name, field in settings.model_fields.items() if not field.description] == []


@GRADIENT_FIT
def test_every_parameter_learns(entry: Entry) -> None:
    model = build_model(entry.name, few_steps(entry), SPEC)
    context = Context()
    model.prepare(DATA, context)
    generator = context.generator("test")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    silent = {name for name, _ in model.named_parameters()}
    rows = torch.cat([torch.arange(0, 40, 2), torch.arange(40, 80, 2)])
    both = Batch(**{f: torch.cat([getattr(DATA.labelled, f), getattr(DATA.unlabelled, f)]) for f in vars(TEST)})
    model.train()
    for _ in range(6):
        optimiser.zero_grad()
        loss = model.objective(model.augmented(both.take(rows), generator), generator)
        assert loss.total.shape == ()
        assert all(term.shape == () for term in loss.terms.values())
        loss.total.backward()
        silent -= {n for n, p in model.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)}
        optimiser.step()
    assert silent == set()


@EVERY_FIT
def test_a_fit_is_repeatable_and_its_facts_are_json(entry: Entry) -> None:
    again = fit_model(entry.name, few_steps(entry), SPEC, DATA, seed=1)
    state = fitted(entry.name).model.state_dict()
    other = again.model.state_dict()
    assert state.keys() == other.keys()
    assert [key for key in state if not torch.equal(state[key], other[key])] == []
    assert json.loads(json.dumps(again.facts)) == json.loads(json.dumps(fitted(entry.name).facts))


@GRADIENT_FIT
def test_an_interrupted_fit_resumes_bit_for_bit(entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step, calls = loop._step, []

    def interrupted(*arguments: Any, **named: Any) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(loop, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(loop, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_model(entry.name, few_steps(entry), SPEC, DATA, seed=1, checkpoint=tmp_path)
    resumed = fit_model(entry.name, few_steps(entry), SPEC, DATA, seed=1, checkpoint=tmp_path, resume=True)
    assert len(calls) == 4 + 2
    state = fitted(entry.name).model.state_dict()
    assert [key for key, value in resumed.model.state_dict().items() if not torch.equal(state[key], value)] == []


@GRADIENT_FIT
def test_validation_rows_may_end_a_fit(entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "JUDGE_EVERY", 2)
    settings = few_steps(entry)
    learner = settings["discriminative_options"] if entry.family == "pool" else settings
    learner["patience"] = 1
    judged = replace(DATA, validation=seasons((4, 4, 4), 3))
    result = fit_model(entry.name, settings, SPEC, judged, seed=1)
    assert result.facts["early_stopping"]["step"] in (2, 4)
    assert torch.isfinite(answer(result.model, TEST)).all()


@EVERY
def test_posteriors_are_normalised_and_deterministic(entry: Entry) -> None:
    model = fitted(entry.name).model
    assert not model.training
    one = answer(model, TEST)
    torch.manual_seed(99)
    assert torch.equal(answer(model, TEST), one)
    assert one.shape == (len(TEST), SPEC.classes)
    assert torch.isfinite(one).all()
    assert torch.allclose(one.exp().sum(1), torch.ones(len(TEST)), atol=1e-5)


@EVERY
def test_padding_and_batch_order_change_nothing(entry: Entry) -> None:
    model, batch = doubled(entry.name)
    whole = answer(model, batch)
    assert torch.allclose(answer(model, batch.padded(DATES + 4)), whole, atol=1e-6)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(answer(model, batch.take(order)), whole[order], atol=1e-6)
    assert torch.allclose(answer(model, batch.take(torch.tensor([7]))), whole[7:8], atol=1e-6)
    assert torch.allclose(answer(model, batch.take(torch.tensor([7, 7, 2]))), whole[[7, 7, 2]], atol=1e-6)


@EVERY
def test_a_masked_date_changes_nothing(entry: Entry) -> None:
    model, batch = doubled(entry.name)
    garbage = torch.where(batch.mask[..., None], batch.values, 1e4)
    days = torch.where(batch.mask, batch.day, -7e3)
    dirty = replace(
        batch, values=garbage, day=days, slot=torch.where(batch.mask, batch.slot, 0),
        pixels=torch.where(batch.pixel_mask[..., None], batch.pixels, 9999),
        pixel_mask=batch.pixel_mask | ~batch.mask[..., None],
    )  # fmt: skip
    assert torch.allclose(answer(model, dirty), answer(model, batch), atol=1e-6)
    if isinstance(model, GenerativeModel):
        assert torch.allclose(model.log_joint(dirty), model.log_joint(batch), atol=1e-6)


@EVERY
def test_labels_change_nothing(entry: Entry) -> None:
    model = fitted(entry.name).model
    assert torch.equal(answer(model, TEST.without_labels()), answer(model, TEST))


@EVERY
def test_saved_and_loaded_it_answers_the_same(entry: Entry, tmp_path: Path) -> None:
    model = fitted(entry.name).model
    save_model(tmp_path, model, entry.name)
    loaded = load_model(tmp_path)
    assert loaded.options == model.options
    assert torch.equal(answer(loaded, TEST), answer(model, TEST))
    if isinstance(model, GenerativeModel):
        assert torch.equal(loaded.log_joint(TEST), model.log_joint(TEST))


@EVERY
def test_double_precision(entry: Entry) -> None:
    model, batch = doubled(entry.name)
    precise = answer(model, batch)
    assert precise.dtype == torch.float64
    assert torch.allclose(precise.exp(), answer(fitted(entry.name).model, TEST).double().exp(), atol=1e-3)


@EVERY
def test_a_cloudy_parcel_gets_the_class_prior(entry: Entry) -> None:
    model = fitted(entry.name).model
    cloudy = replace(TEST, mask=torch.zeros_like(TEST.mask), values=torch.zeros_like(TEST.values))
    prior = torch.tensor(COUNTS) / sum(COUNTS)
    assert torch.allclose(answer(model, cloudy).exp(), prior.expand(len(TEST), -1), atol=0.02)
    if isinstance(model, GenerativeModel):
        assert torch.allclose(model.log_likelihood(cloudy), torch.zeros(len(TEST)), atol=1e-4)


@EVERY_FIT
def test_one_label_of_a_class_and_no_unlabelled_rows(entry: Entry) -> None:
    rows = torch.cat([torch.arange(6), torch.arange(20, 25), torch.tensor([33])])
    model = fit_model(entry.name, few_steps(entry), SPEC, TrainingData(DATA.labelled.take(rows))).model
    assert torch.isfinite(answer(model, TEST)).all()


@GENERATIVE
def test_densities_are_finite_and_posteriors_follow_from_samples(entry: Entry) -> None:
    model = fitted(entry.name).model
    assert isinstance(model, GenerativeModel)
    joint = model.log_joint(TEST)
    assert joint.shape == (len(TEST), SPEC.classes)
    assert torch.isfinite(joint).all()
    assert torch.allclose(model.log_likelihood(TEST), joint.logsumexp(1), atol=1e-4)
    y = torch.tensor([0, 1, 2, 2])
    draw = model.sample(y, torch.Generator().manual_seed(3))
    assert draw.shape == (4, SLOTS, BANDS)
    assert torch.isfinite(draw).all()
    assert torch.equal(draw, model.sample(y, torch.Generator().manual_seed(3)))
    assert not torch.equal(draw, model.sample(y, torch.Generator().manual_seed(4)))
    assert not torch.equal(draw[2], draw[3])


@GENERATIVE
def test_samples_look_like_their_class(entry: Entry) -> None:
    model = fitted(entry.name).model
    assert isinstance(model, GenerativeModel)
    y = torch.arange(3).repeat(30)
    draw = model.sample(y, torch.Generator().manual_seed(0))
    slot = torch.arange(SLOTS).expand(len(y), SLOTS)
    middle = 10 * slot + 95.0
    batch = Batch(draw.float(), torch.ones(len(y), SLOTS, dtype=torch.bool), middle, slot, y)
    assert (answer(model, batch).argmax(1) == y).float().mean() > 0.8
