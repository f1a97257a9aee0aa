"""The pixel-set encoder sees what lies inside a parcel: order and number of pixels do not count, their spread does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch

from cropgen.core.errors import SchemaError, UsageError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.models.discriminative.pse_ltae import PSELTAE, DateRow, PSELTAETrunk, _draw, pooled
from cropgen.models.inputs import reads_pixel_sets
from cropgen.series.augment import AMPLITUDES
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.pixel_sets import SHAPE
from cropgen.training.fit import fit_model

BANDS, DATES, PIXELS = ("B04", "B08", "temperature"), 4, 6
SMALL: dict[str, Any] = {
    "channels": 32, "heads": 4, "pixel_width": 8, "pixel_channels": 8, "date_channels": 16, "width": 16, "pixels": 4,
}  # fmt: skip


def spec(pixel_bands: tuple[str, ...] = ("B04", "B08")) -> InputSpec:
    return InputSpec(BANDS, Calendar("dekad", 0, DATES), Legend.from_codes("l", ["0", "1"]), pixel_bands)


def patchy(y: list[int], seed: int = 0) -> Batch:
    """Parcels alike on average; those of class 1 are of two kinds of pixels, those of class 0 of one."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.tensor(y)
    half = torch.where(torch.arange(PIXELS) % 2 == 0, 1500, -1500)
    pixels = 3000 + (classes.clamp(min=0)[:, None] * half)[:, None, :, None].expand(-1, DATES, -1, 2)
    pixels = pixels + torch.randint(-200, 201, pixels.shape, generator=generator)
    values = torch.cat([pixels.double().mean(2) * 1e-4, torch.full((len(y), DATES, 1), 15.0)], -1).float()
    mask = torch.ones(len(y), DATES, dtype=torch.bool)
    slot = torch.arange(DATES).expand(len(y), -1)
    return Batch(
        values, mask, 10.0 * slot + 2, slot, classes, pixels=pixels.to(torch.int16),
        pixel_mask=torch.ones(len(y), DATES, PIXELS, dtype=torch.bool), shape=torch.ones(len(y), len(SHAPE)),
    )  # fmt: skip


def model(**options: Any) -> PSELTAE:
    return cast(PSELTAE, build_model("pse-ltae", SMALL | options, spec(), seed=1).eval())


def test_pooling_is_mean_and_deviation_of_those_present() -> None:
    embedding = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [99.0, 99.0]], [[5.0, 6.0], [0.0, 0.0], [0.0, 0.0]]])
    mean, deviation = pooled(embedding, torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert mean.tolist() == [[2, 2], [5, 6]]
    torch.testing.assert_close(deviation, torch.tensor([[1.0, 0.001], [0.001, 0.001]]), atol=1e-6, rtol=0)
    nothing = pooled(embedding, torch.zeros(2, 3))
    assert nothing[0].abs().sum() == 0


def test_rows_of_dates_come_apart_as_they_were_put_together() -> None:
    row, generator = DateRow(2, 3), torch.Generator().manual_seed(0)
    parts = [torch.randn(4, 5, *size, generator=generator) for size in ((6, 2), (6,), (3,))]
    for part, again in zip(parts, row.unpack(row.pack(*parts)), strict=True):
        assert torch.equal(part, again)


def test_order_repetition_and_absent_places_of_pixels_do_not_count() -> None:
    network, batch = model().double(), patchy([0, 1, 1]).to(dtype=torch.float64)
    said = network.log_posterior(batch)
    order = torch.randperm(PIXELS, generator=torch.Generator().manual_seed(0))
    shuffled = replace(batch, pixels=batch.pixels[:, :, order])
    torch.testing.assert_close(network.log_posterior(shuffled), said)
    twice = replace(
        batch, pixels=batch.pixels.repeat(1, 1, 2, 1), pixel_mask=batch.pixel_mask.repeat(1, 1, 2)
    )  # fmt: skip
    torch.testing.assert_close(network.log_posterior(twice), said)
    absent = torch.zeros_like(batch.pixel_mask)
    wider = replace(
        batch, pixels=torch.cat([batch.pixels, batch.pixels * 0 + 77], 2),
        pixel_mask=torch.cat([batch.pixel_mask, absent], 2),
    )  # fmt: skip
    torch.testing.assert_close(network.log_posterior(wider), said)


def test_a_date_without_clear_pixels_is_no_date() -> None:
    network, batch = model().double(), patchy([0, 1]).to(dtype=torch.float64)
    clear = batch.pixel_mask.clone()
    clear[:, 2] = False
    hidden = replace(batch, pixel_mask=clear)
    masked = replace(batch, mask=batch.mask & (torch.arange(DATES) != 2))
    torch.testing.assert_close(network.log_posterior(hidden), network.log_posterior(masked))
    assert not torch.allclose(network.log_posterior(hidden), network.log_posterior(batch))


def test_bands_without_pixels_and_outlines_are_seen_too() -> None:
    network, batch = model(), patchy([0, 1])
    warmer = replace(batch, values=batch.values + torch.tensor([0, 0, 3.0]))
    assert not torch.allclose(network.log_posterior(warmer), network.log_posterior(batch))
    larger = replace(batch, shape=2 * batch.shape)
    assert not torch.allclose(network.log_posterior(larger), network.log_posterior(batch))
    assert torch.equal(model(outline=False).log_posterior(larger), model(outline=False).log_posterior(batch))
    untold = replace(batch, shape=torch.full_like(batch.shape, torch.nan))
    assert network.log_posterior(untold).isfinite().all()


def test_drawn_pixels_are_those_there_and_no_two_alike() -> None:
    presence = torch.zeros(50, DATES, PIXELS)
    presence[:, 1, [0, 3, 5]] = 1
    generator = torch.Generator().manual_seed(0)
    for count, expected in ((3, {0, 3, 5}), (5, {0, 3, 5})):
        drawn = _draw(presence, count, generator)
        assert drawn.shape == (50, count)
        assert all(len(set(row)) == count and set(row[:3]) == expected for row in drawn.tolist())
    two = {tuple(sorted(row)) for row in _draw(presence, 2, generator).tolist()}
    assert two == {(0, 3), (0, 5), (3, 5)}


def test_a_step_draws_pixels_anew_the_same_at_all_dates() -> None:
    network, batch = model(), patchy([0, 1, 1])
    batch = replace(batch, pixels=(1000 * torch.arange(PIXELS)[:, None]).expand_as(batch.pixels).to(torch.int16))
    season = network.see(batch)
    row = cast(PSELTAETrunk, network.trunk).row
    views = [network._augmented(season, AMPLITUDES["none"], torch.Generator().manual_seed(s)) for s in range(2)]
    first, second = (row.unpack(view[0])[0] for view in views)
    assert first.shape == (3, DATES, 4, 2)
    assert torch.equal(first, first[:, :1].expand_as(first))
    assert not torch.equal(first, second)
    assert set(first.unique().tolist()) <= set(row.unpack(season[0])[0].unique().tolist())


def test_augmentation_scales_all_pixels_of_a_parcel_alike() -> None:
    network, batch = model(), patchy([0, 1])
    batch = replace(batch, pixels=torch.full_like(batch.pixels, 4000))
    row = cast(PSELTAETrunk, network.trunk).row
    amplitudes = replace(AMPLITUDES["none"], gain=0.2)
    pixels = row.unpack(network._augmented(network.see(batch), amplitudes, torch.Generator().manual_seed(0))[0])[0]
    assert torch.equal(pixels, pixels[:, :1, :1].expand_as(pixels))
    assert len(pixels.unique()) == 4


def test_it_tells_apart_what_differs_only_inside_parcels() -> None:
    labelled, test = patchy([0, 1] * 20, 1), patchy([0, 1] * 20, 2)
    settings = SMALL | {"steps": 30, "labelled_batch": 16, "dropout": 0.0}
    data = TrainingData(labelled)
    inside = fit_model("pse-ltae", settings, spec(), data, seed=0).model
    assert (inside.log_posterior(test).argmax(1) == test.y).float().mean() == 1
    means = fit_model("ltae", {"steps": 15, "channels": 32, "heads": 4}, spec(), data, seed=0).model
    assert (means.log_posterior(test).argmax(1) == test.y).float().mean() < 0.8


def test_what_it_cannot_do_it_says() -> None:
    with pytest.raises(SchemaError, match="no pixel sets") as caught:
        build_model("pse-ltae", {}, spec(()))
    assert "--pixels" in str(caught.value.hint)
    bare = patchy([0, 1])
    bare = Batch(bare.values, bare.mask, bare.day, bare.slot, bare.y)
    with pytest.raises(SchemaError, match="expected pixel sets of 2 bands, got 0"):
        model().log_posterior(bare)
    for wrong in ({"axis": "grid"}, {"resampling": 0.2}, {"mixup": 0.2}):
        with pytest.raises(UsageError):
            build_model("pse-ltae", wrong, spec())


def test_a_pool_of_it_reads_pixel_sets_and_a_batch_without_dates_needs_none() -> None:
    assert reads_pixel_sets("pse-ltae", {})
    assert reads_pixel_sets("pool", {"discriminative": "pse-ltae"})
    assert not reads_pixel_sets("pool", {})
    assert not reads_pixel_sets("ltae", {})
    network = model()
    network.prepare(TrainingData(patchy([0, 1, 1, 1])), Context())
    never = Batch(torch.zeros(1, 1, 3), torch.zeros(1, 1, dtype=torch.bool), *3 * [torch.zeros(1, 1).long()])
    never = replace(never, y=torch.tensor([-1]))
    torch.testing.assert_close(network.log_posterior(never).exp(), torch.tensor([[0.25, 0.75]]))
