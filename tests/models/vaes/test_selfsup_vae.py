"""A season in levels: the five operations, the plain auto-encoder it contains, and what each level may read."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal

from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.vaes.selfsup_vae import SelfSupervisedVAE
from cropgen.series.batches import Batch
from tests.models.dvaes.crops import SLOTS, TEST, seasons
from tests.models.vaes.rows import built, disturbed

WHOLE = seasons(6, 3, gaps=0.0).to(dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen_again(model: SelfSupervisedVAE, reflectance: Tensor, like: Batch) -> Tensor:
    """(B, G, C) seasons of the calendar in the view of the model."""
    again = replace(like, values=reflectance, mask=torch.ones_like(like.mask))
    rows = model.seen_rows(again)
    return model.parts(rows.seasons.e, rows.seasons.mask).e


@pytest.mark.parametrize(("levels", "view"), [(1, "haar"), (2, "haar"), (2, "select")])
def test_conditional_operations_keep_the_view_they_are_given(levels: int, view: str) -> None:
    model = cast(SelfSupervisedVAE, disturbed("selfsup-vae", levels=levels, view=view))
    rows = model.seen_rows(WHOLE)
    parts = model.parts(rows.seasons.e, rows.seasons.mask)
    coarse = (parts.level < levels)[..., None].expand_as(parts.e)
    for operation in (model.conditional_generate, model.conditional_reconstruct):
        drawn = seen_again(model, operation(WHOLE, WHOLE.y, generator()), WHOLE)
        assert torch.allclose(drawn[coarse], parts.e[coarse], atol=1e-6)
        assert not torch.allclose(drawn[~coarse], parts.e[~coarse], atol=1e-2)
    told = seen_again(model, model.reconstruct(WHOLE, WHOLE.y, generator()), WHOLE)
    assert not torch.allclose(told[coarse], parts.e[coarse], atol=1e-2)


def test_operations_read_no_more_than_they_say() -> None:
    """RS1 reads the view y_1 alone, conditional generation y_K alone; z_K ~ q(z_K | x) needs the whole season."""
    model = cast(SelfSupervisedVAE, disturbed("selfsup-vae", view="select"))
    other = replace(WHOLE, values=WHOLE.values + 0.1)
    e = [model.parts(rows.seasons.e, rows.seasons.mask) for rows in map(model.seen_rows, (WHOLE, other))]
    mixed = torch.where((e[0].level == 0)[..., None], e[0].e, e[1].e)

    def drawn(season: Tensor, given: int, encoded: range) -> Tensor:
        return model._drawn(replace(e[0], e=season), WHOLE.y, generator(), 1.0, given=given, encoded=encoded)[1]

    for given, encoded, alike in ((0, range(1), True), (1, range(1), True), (0, range(2), False), (1, range(2), False)):
        one, two = (drawn(season, given, encoded) for season in (e[0].e, mixed))
        assert torch.allclose(one, two, atol=1e-12) == alike


def test_every_operation_is_a_draw_of_the_tied_gaussian_at_the_start() -> None:
    """Nothing is learnt yet: what is not given is drawn from p(x | y), so many draws have its moments."""
    model = cast(SelfSupervisedVAE, built("selfsup-vae"))
    many = WHOLE.take(torch.zeros(4000, dtype=torch.int64))
    with torch.no_grad():
        drawn = model.reconstruct(many, many.y, generator(), latents=2)
        direct = model.tied.sample(many.y, generator(1))
    assert torch.allclose(drawn.mean(0), direct.mean(0), atol=0.01)
    assert torch.allclose(drawn.flatten(1).T.cov(), direct.flatten(1).T.cov(), atol=1e-3)


def test_the_more_an_operation_reads_the_less_it_errs() -> None:
    """Both latents copy the first band of their level, set by hand; RS1, RS2 and the conditional reconstruction differ
    from the season by what they do not read."""
    model = cast(SelfSupervisedVAE, built("selfsup-vae", view="select", latent=SLOTS, hidden=2 * SLOTS))
    with torch.no_grad():
        model.tied.means.copy_(model.tied.overall_mean.expand_as(model.tied.means).clone())
        for number in (0, 1):
            copy_first_band(model, number)
    rows = model.seen_rows(WHOLE)
    parts = model.parts(rows.seasons.e, rows.seasons.mask)
    coarse, first = parts.level == 0, torch.tensor([True, False])
    unread = [~(coarse[..., None] & first), ~first.expand_as(parts.e), ~coarse[..., None] & ~first]
    for operation, missing in zip(
        (
            lambda: model.reconstruct(WHOLE, WHOLE.y, generator(), 0.0),
            lambda: model.reconstruct(WHOLE, WHOLE.y, generator(), 0.0, latents=2),
            lambda: model.conditional_reconstruct(WHOLE, WHOLE.y, generator(), 0.0),
        ),
        unread,
        strict=True,
    ):
        expected = torch.where(missing, 0, parts.e)
        assert torch.allclose(seen_again(model, operation(), WHOLE), expected, atol=1e-6)


def copy_first_band(model: SelfSupervisedVAE, number: int) -> None:
    """q's mean is the first band of the slots it reads, and the decoder gives it back, as relu(v) − relu(−v)."""
    slots = torch.arange(SLOTS)
    read, tell = (cast(ClasswiseMLP, part[number]) for part in (model.readers, model.decoders))
    first = tell.embed.in_features - SLOTS
    for network, source, target in ((read, 2 * slots, slots), (tell, first + slots, 2 * slots)):
        for parameter in network.parameters():
            parameter.zero_()
        network.embed.weight[slots, source] = 1.0
        network.embed.weight[SLOTS + slots, source] = -1.0
        network.answer.weight[target, slots] = 1.0
        network.answer.weight[target, SLOTS + slots] = -1.0


def test_with_a_view_that_holds_all_it_is_a_plain_auto_encoder() -> None:
    """One observed date: nothing is left to the second level, whose latent costs what its prior says, on average 0."""
    model = cast(SelfSupervisedVAE, disturbed("selfsup-vae", prior="standard"))
    one = replace(TEST, mask=TEST.mask & (torch.arange(SLOTS) == 2))
    rows = model.seen_rows(one)
    with torch.no_grad():
        found = model.explain(rows, model.noise)
        mean, log_std = model.encode(0, model.parts(rows.seasons.e, rows.seasons.mask))
        z = mean + log_std.exp() * model.noise[..., :2]
        spread = Normal(0.0, (0.5 * model.log_var).exp().view(SLOTS, -1)[2])
        raw = model.decoders[0](z).unflatten(-1, (SLOTS, -1))[..., 2, :]
        expected = spread.log_prob(rows.surprise.unflatten(-1, (SLOTS, -1))[..., 2, :] - raw).sum(-1)
    there = one.mask.any(1)
    assert torch.allclose(found.log_likelihood[:, there], expected[:, there], atol=1e-9)
    assert not bool(found.log_likelihood[:, ~there].any())
