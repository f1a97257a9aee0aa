"""Models of codes: exact start, exact sums against enumeration, bounds below them, missing dates, learning."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cropgen.models.base import Context
from cropgen.models.layers.vae import coded
from cropgen.models.layers.vae.bounds import log_mean_exp
from cropgen.models.layers.vae.coded import CodedModel
from cropgen.models.layers.vae.model import Rows
from cropgen.models.layers.vae.segments import Cut, segment_scores
from cropgen.models.vaes.hqa import HQA
from cropgen.models.vaes.vqvae import VQVAE
from cropgen.models.vaes.vqvae2 import VQVAE2
from tests.models.dvaes.crops import BANDS, CLASSES, DATA, SLOTS, SPEC, TEST, tied
from tests.models.vaes.six_steps import learnt_by

TINY: dict[str, Any] = {"hidden": 8, "latent": 2, "codes": 3, "segments": 3, "copies": 64}
CASES: list[tuple[type[CodedModel], dict[str, Any]]] = [
    (VQVAE, {}),
    (VQVAE, {"quantiser": "gumbel"}),
    (VQVAE, {"quantiser": "vimco"}),
    (VQVAE2, {"top_codes": 2}),
    (HQA, {}),
    (HQA, {"levels": 3}),
]
every_case = pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda v: getattr(v, "__name__", None))


def built(kind: type[CodedModel], **settings: Any) -> CodedModel:
    """A small model in double precision before its first step."""
    torch.manual_seed(0)
    model = kind(SPEC, kind.Settings.model_validate({**TINY, **settings})).double().eval()
    model.tied.load_state_dict(tied().state_dict())
    return model


def disturbed(kind: type[CodedModel], **settings: Any) -> CodedModel:
    """A model whose every weight is away from its start."""
    model = built(kind, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model


@every_case
def test_it_begins_exactly_at_the_tied_gaussian(kind: type[CodedModel], settings: dict[str, Any]) -> None:
    model = built(kind, **settings)
    x, mask = model.tied.grid(TEST)
    with torch.no_grad():
        assert torch.allclose(model.log_joint(TEST), model.tied.log_joint(x, mask), atol=1e-9, rtol=0)
        use = model.use_of_latents(TEST)
    assert use["kl_total"] == pytest.approx(0.0, abs=1e-9)
    assert use["active_units"] == 0


def all_codes(model: CodedModel) -> tuple[Tensor, Tensor]:
    """Every way to choose the codes (J, positions), and log p of each way (J, K), by the definition of the row."""
    positions = {VQVAE: 3, VQVAE2: 4, HQA: None}[type(model)] or sum(model.positions)  # type: ignore[arg-type]
    sizes = [3] * positions
    if isinstance(model, VQVAE2):
        sizes[0] = 2
    ways = torch.tensor(list(product(*(range(size) for size in sizes))))
    return ways, torch.stack([prior_of(model, way) for way in ways])


def prior_of(model: CodedModel, way: Tensor) -> Tensor:
    """(K,) log p(k | y), one factor after the other."""
    found, before = torch.zeros(CLASSES, dtype=torch.float64), 0
    if isinstance(model, VQVAE2):
        found = found + torch.log_softmax(model.top_prior, -1)[:, way[0]]
        for p, code in enumerate(way[1:].tolist()):
            logits = model.prior.of_class[:, p, 0] + model.prior.of_previous[before] + model.of_top[way[0], 0, 0, 0]
            found, before = found + torch.log_softmax(logits, -1)[:, code], code
        return found
    assert isinstance(model, VQVAE | HQA)
    chain = way if isinstance(model, VQVAE) else way[-model.positions[-1] :]
    for p, code in enumerate(chain.tolist()):
        logits = model.prior.of_class[:, p, 0] + model.prior.of_previous[before]
        found, before = found + torch.log_softmax(logits, -1)[:, code], code
    if isinstance(model, HQA):
        levels, book = list(way.split(model.positions)), model.codebook
        for number, level in enumerate(model._requantisers()):
            told = level.decoder(level.codebook.codes).unflatten(-1, (2, -1))
            for place, code in enumerate(levels[number]):
                away = told[levels[number + 1][place // 2], place % 2] - book.codes
                logits = -0.5 * away.square().sum(-1) / level.log_spread.exp() ** 2
                found = found + torch.log_softmax(logits, -1)[code]
            book = level.codebook
    return found


def decoded(model: CodedModel, ways: Tensor) -> Tensor:
    """(J, K, G, C) what the decoder says of every way."""
    if isinstance(model, VQVAE2):
        return model._decoded(model.codebook.codes[ways[:, 1:]], model.top_codebook.codes[ways[:, 0]])
    assert isinstance(model, VQVAE | HQA)
    if isinstance(model, VQVAE):
        return model._decoded(model.codebook.codes[ways])
    return model.cut.joined(model.decoder(model.codebook.codes[ways[:, : model.positions[0]]][:, None]))


def enumerated(model: CodedModel, rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Ways (J, …), log p(k | y) (J, K) and log p(e | k, y) (J, B, K)."""
    ways, log_prior = all_codes(model)
    return ways, log_prior, model.emitted(rows, decoded(model, ways)[:, None])


@every_case
def test_the_score_is_the_sum_over_all_codes(kind: type[CodedModel], settings: dict[str, Any]) -> None:
    model = disturbed(kind, **settings)
    rows = model.seen_rows(TEST)
    with torch.no_grad():
        _, log_prior, log_likelihood = enumerated(model, rows)
        joint = log_prior[:, None] + log_likelihood
        exact = torch.logsumexp(joint, 0)
        assert torch.allclose(log_prior.exp().sum(0), torch.ones(CLASSES, dtype=torch.float64))
        found = model.summed(rows)
        assert torch.allclose(found.log_sum, exact, atol=1e-9)
        posterior = (joint - exact).exp()
        assert torch.allclose(found.expected, (posterior * log_likelihood).sum(0), atol=1e-9)
        assert torch.allclose(found.divergence, (posterior * (joint - exact - log_prior[:, None])).sum(0), atol=1e-9)
        assert torch.allclose(log_mean_exp(model.scored(rows, model.noise).log_weight), exact, atol=1e-9)
    assert (exact.amax(1) - exact.amin(1) > 0.1).all()


@pytest.mark.parametrize(("kind", "levels"), [(VQVAE, 1), (VQVAE2, 2)])
def test_the_nearest_codes_are_one_term_of_the_sum(kind: type[CodedModel], levels: int) -> None:
    model = disturbed(kind, **({"top_codes": 2} if kind is VQVAE2 else {}))
    rows = model.seen_rows(TEST)
    with torch.no_grad():
        explained = model.explain(rows, model.noise)
        ways, log_prior, log_likelihood = enumerated(model, rows)
        index = [quantised for _, _, quantised in model._arrived]
    chosen = torch.cat([part.reshape(len(TEST), -1) for part in index], 1)
    place = (ways[None] == chosen[:, None]).all(-1).long().argmax(1)
    row = torch.arange(len(TEST))
    assert torch.allclose(explained.log_likelihood[0], log_likelihood[place, row], atol=1e-9)
    assert torch.allclose(explained.log_prior[0], log_prior[place], atol=1e-9)
    assert torch.allclose(explained.divergence.sum(-1), -explained.log_prior)
    assert explained.divergence.shape[-1] == levels
    assert (explained.divergence > 0).all()
    assert (model.bound(explained) < model.summed(rows).log_sum).all()


@pytest.mark.parametrize("settings", [{}, {"levels": 3}])
def test_the_bound_of_a_chain_of_quantisers_is_the_expectation_over_all_codes(settings: dict[str, Any]) -> None:
    """Σ_k q(k) [log p(e, k | y) − log q(k)], every level paying."""
    model = disturbed(HQA, **settings)
    assert isinstance(model, HQA)
    rows = model.rows(model.seen_rows(TEST).seasons.take(slice(2)), model.seen_rows(TEST).features[:2])
    with torch.no_grad():
        explained = model.explain(rows, model.noise)
        v, log_q = model._vectors(rows), [model.codebook.log_probs(model._vectors(rows))]
        for level in model._requantisers():
            v = level.read(v)
            log_q.append(level.codebook.log_probs(v))
        ways, log_prior, log_likelihood = enumerated(model, rows)
        each = torch.cat(log_q, 1)
        log_way = torch.stack([each[:, p, ways[:, p]] for p in range(ways.shape[1])]).sum(0).T[..., None]
        exact = (log_way.exp() * (log_prior[:, None] + log_likelihood - log_way)).sum(0)
    assert explained.divergence.shape[-1] == settings.get("levels", 2)
    assert torch.allclose(model.bound(explained), exact, atol=1e-9)
    assert (exact < model.summed(rows).log_sum).all()


def test_a_level_learns_from_the_one_below_and_leaves_it_alone() -> None:
    model = disturbed(HQA).train()
    rows = model.seen_rows(DATA.labelled)
    upper = model.explain(rows, model.noise).divergence[..., 0].sum()
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(upper, list(parameters.values()), allow_unused=True, retain_graph=True)
    own = dict(zip(parameters, found, strict=True))
    below = model._vectors(rows)
    entropy = torch.special.entr(model.codebook.log_probs(below).exp()).sum() * CLASSES
    alone = torch.autograd.grad(-entropy, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, alone, strict=True):
        if gradient is not None:
            assert torch.allclose(own[name], gradient, atol=1e-9), name
    assert own["upper.0.decoder.0.weight"] is not None
    assert float(own["upper.0.decoder.0.weight"].abs().sum()) > 0


def test_drawn_codes_estimate_the_sum_and_their_bound_lies_below() -> None:
    model = disturbed(VQVAE, quantiser="vimco")
    model.codebook.log_width.data.fill_(2.0)  # type: ignore[union-attr]
    rows = model.seen_rows(TEST)
    noise = torch.randn((4000, len(TEST), 1, model.noise_size), generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        exact = model.summed(rows).log_sum
        weight = model.explain(rows, noise).log_weight
        error = (weight - exact).exp().std(0) / len(noise) ** 0.5
        assert (((weight - exact).exp().mean(0) - 1).abs() < 4.5 * error + 1e-9).all()
        few = log_mean_exp(weight.unflatten(0, (4, 1000)))
    assert (few.mean(0) < exact + 1e-9).all()
    assert (weight.mean(0) < few.mean(0)).all()


def test_relaxed_codes_pay_the_exact_divergence() -> None:
    model = disturbed(VQVAE, quantiser="gumbel")
    rows = model.seen_rows(TEST)
    with torch.no_grad():
        explained = model.explain(rows, model.noise)
        log_q = model.codebook.log_probs(model._encoded(rows))  # type: ignore[union-attr, operator]
        ways, log_prior = all_codes(model)
        each = torch.stack([log_q[:, p, ways[:, p]] for p in range(ways.shape[1])]).sum(0).T[..., None]
        exact = (each.exp() * (each - log_prior[:, None])).sum(0)
    assert torch.allclose(explained.divergence[0, ..., 0], exact, atol=1e-9)


def test_segments_are_scored_as_gaussians_are() -> None:
    generator = torch.Generator().manual_seed(1)
    cut = Cut.into(7, 3)
    assert (cut.length, cut.count) == (3, 3)
    values = torch.randn(2, 7, 2, generator=generator).double()
    assert torch.equal(cut.joined(cut.apart(values)), values)
    mask = torch.rand(4, 7, generator=generator) > 0.3
    r = torch.randn(4, 2, 14, generator=generator).double() * mask.repeat_interleave(2, 1)[:, None]
    log_var, means = (
        torch.randn(14, generator=generator).double(),
        torch.randn(5, 2, 3, 3, 2, generator=generator).double(),
    )
    found = segment_scores(r, mask, log_var, means, cut)
    normal = torch.distributions.Normal(cut.joined(means).flatten(2), (0.5 * log_var).exp())
    each = normal.log_prob(r[:, None]) * mask.repeat_interleave(2, 1)[:, None, None]
    direct = cut.apart(each.unflatten(-1, (7, 2))).sum((-1, -2)).movedim(1, -1)
    assert torch.allclose(found, direct, atol=1e-12)


def test_codes_follow_the_vectors_while_learning_only() -> None:
    model = built(VQVAE)
    model.prepare(DATA, Context(seed=0))
    before = model.codebook.codes.clone()  # type: ignore[union-attr]
    batch = model.augmented(DATA.labelled, torch.Generator().manual_seed(0))
    model.objective(batch, torch.Generator().manual_seed(0))
    assert torch.equal(model.codebook.codes, before)  # type: ignore[arg-type]
    model.train().objective(batch, torch.Generator().manual_seed(0)).total.backward()
    assert not torch.equal(model.codebook.codes, before)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (VQVAE, {"quantiser": "gumbel"}),
        (VQVAE, {"quantiser": "vimco"}),
        (VQVAE, {"start": "none"}),
        (VQVAE2, {"start": "none"}),
        (HQA, {"start": "none", "levels": 1}),
        (HQA, {"levels": 3}),
    ],
)
def test_every_form_learns(kind: type[CodedModel], settings: dict[str, Any]) -> None:
    model = built(kind, **settings)
    assert learnt_by(model) == {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        assert torch.isfinite(model.log_joint(TEST)).all()


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="draws of at least 2"):
        VQVAE.Settings.model_validate({"quantiser": "vimco", "draws": 1})
    with pytest.raises(ValueError, match="no divergence to weigh"):
        VQVAE.Settings.model_validate({"quantiser": "vimco", "beta": 0.5})
    with pytest.raises(ValueError, match="gaussian"):
        HQA.Settings.model_validate({"likelihood": "student"})


@every_case
def test_drawn_seasons_follow_the_prior_of_the_codes(kind: type[CodedModel], settings: dict[str, Any]) -> None:
    """The mean of what the decoder says of draws is the mean over all codes under their prior."""
    model = disturbed(kind, **settings)
    with torch.no_grad():
        ways, log_prior = all_codes(model)
        said = decoded(model, ways)[:, 1]
        share = log_prior[:, 1].exp()[:, None, None]
        mean = (share * said).sum(0)
        spread = ((share * (said - mean) ** 2).sum(0) / 2000).sqrt()
        drawn = model.decode_prior(torch.ones(2000, dtype=torch.int64), torch.Generator().manual_seed(0), 1.0)
        assert ((drawn.mean(0) - mean).abs() < 4.5 * spread + 1e-12).all()
        likeliest = model.decode_prior(torch.tensor([1, 1]), torch.Generator().manual_seed(0), 0.0)
    assert torch.equal(likeliest[0], likeliest[1])
    assert drawn.shape == (2000, SLOTS, BANDS)


def test_rows_are_scored_alike_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = disturbed(VQVAE2, top_codes=2)
    with torch.no_grad():
        whole = model.log_joint(TEST)
        monkeypatch.setattr(coded, "_LARGEST_BLOCK", 2 * CLASSES * 3 * 9)
        assert torch.allclose(model.log_joint(TEST), whole, atol=1e-9)
