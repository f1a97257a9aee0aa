"""A decoder of dates: every date answers for itself, all classes at once, and the latent can be kept in use."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.layers.temporal_conv import date_harmonics
from cropgen.models.layers.vae.decoders import DateDecoder
from cropgen.models.layers.vae.likelihoods import Gaussian

DTYPE = torch.float64


def decoder(**options: object) -> DateDecoder:
    torch.manual_seed(0)
    made = DateDecoder(3, 4, 5, **{"hidden": 16, **options}).double()
    with torch.no_grad():
        made.of_class.normal_()
    return made


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    day = torch.tensor([[10, 100, 200], [30, 31, 360]], dtype=torch.int32)
    return torch.randn((2, 1, 3), dtype=DTYPE, generator=generator), day


def test_all_classes_at_once_are_one_hot_classes_one_by_one() -> None:
    made, (z, day) = decoder(), inputs()
    found = made(z, day)
    assert found.shape == (2, 4, 3, 5)
    first = torch.cat([made.of_latent.weight, made.of_class.T, made.of_day.weight], 1)
    for label in range(4):
        one_hot = torch.eye(4, dtype=DTYPE)[label].expand(2, 3, 4)
        told = torch.cat([z.expand(2, 3, 3), one_hot, date_harmonics(day.double())], -1)
        h = torch.relu(nn.functional.linear(told, first, made.of_day.bias))
        assert torch.allclose(made.answer(torch.relu(made.layers[0](h))), found[:, label])


def test_a_date_answers_the_same_among_any_others_and_on_any_day() -> None:
    made, (z, day) = decoder(skip=True), inputs()
    alone = made(z, day[:, 1:2])
    assert torch.allclose(alone, made(z, day)[:, :, 1:2])
    assert not torch.allclose(alone, made(z, day[:, 1:2] + 40))


def test_draws_and_classes_broadcast() -> None:
    made, (z, day) = decoder(), inputs()
    own = z.expand(2, 4, 3) + torch.arange(4, dtype=DTYPE)[:, None]
    many = torch.stack([own, 2 * own])
    assert torch.allclose(made(many, day)[0], made(own, day))
    assert torch.allclose(made(own[:, 2:3], day)[:, 2], made(own, day)[:, 2])


def test_skips_keep_the_latent_in_use_where_layers_forget_it() -> None:
    z, day = inputs()
    for skip in (False, True):
        made = decoder(skip=skip, depth=3)
        with torch.no_grad():
            for parameter in made.layers.parameters():
                parameter.zero_()
            for parameter in made.skips.parameters():
                assert not parameter.any(), "nothing is added before something was learnt"
                parameter.fill_(0.1)
        assert torch.equal(made(z, day), made(z + 1, day)) is not skip


def test_begins_at_zero_when_asked_and_serves_a_likelihood() -> None:
    z, day = inputs()
    likelihood = Gaussian(2)
    made = DateDecoder(3, 4, likelihood.outputs, start_at_zero=True).double()
    raw = made(z, day)
    assert bool((raw == 0).all())
    x, mask = torch.rand(2, 1, 3, 2, dtype=DTYPE), torch.tensor([[True, False, True], [False, False, True]])
    scores = likelihood.log_prob(x, raw, mask[:, None])
    assert scores.shape == (2, 4)
    assert torch.allclose(scores, scores[:, :1].expand(2, 4))
