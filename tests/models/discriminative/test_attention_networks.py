"""Attention by hand, against PyTorch, and blind to order, padding and clouds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from cropgen.models.discriminative.ltae import LightAttention, LTAETrunk
from cropgen.models.discriminative.network import NeuralClassifier
from cropgen.models.discriminative.transformer import EncoderLayer, TransformerTrunk
from cropgen.models.layers.attention import attend, encode_days

from .conftest import Make, Rows


def test_attention_over_two_dates_by_hand() -> None:
    """Scores 0 and ln 3 after scaling by √4: weights 1/4 and 3/4; the third date is missing."""
    query = torch.tensor([[[[2.0, 0, 0, 0]]]])
    key = torch.tensor([[[[0.0, 0, 0, 0], [math.log(3), 0, 0, 0], [9.0, 0, 0, 0]]]])
    value = torch.tensor([[[[4.0, 0], [8.0, 4], [99.0, 99]]]])
    answer, weight = attend(query, key, value, torch.tensor([[True, True, False]]))
    assert torch.allclose(weight[0, 0, 0], torch.tensor([0.25, 0.75, 0]))
    assert torch.allclose(answer[0, 0, 0], torch.tensor([7.0, 3.0]))


def test_attention_is_that_of_pytorch() -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(3, 2, 5, 4) for _ in range(3))
    mask = torch.rand(3, 5) > 0.4
    mask[:, 0] = True
    theirs = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None])
    assert torch.allclose(attend(query, key, value, mask)[0], theirs, atol=1e-6)


def test_a_row_without_dates_is_finite() -> None:
    x = torch.randn(2, 1, 3, 2, requires_grad=True)
    answer, weight = attend(x, x, x, torch.tensor([[False] * 3, [True] * 3]))
    answer.sum().backward()
    assert torch.isfinite(answer).all()
    assert torch.allclose(weight[0].sum(-1), torch.ones(1, 3))
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_days_are_told_by_sines_and_cosines() -> None:
    code = encode_days(torch.tensor([0.0, 90.0]), 4, 1000.0)
    slow = 90 / 1000**0.5
    expected = [[0, 1, 0, 1], [math.sin(90), math.cos(90), math.sin(slow), math.cos(slow)]]
    assert torch.allclose(code, torch.tensor(expected), atol=1e-4)


def test_an_encoder_layer_is_that_of_pytorch() -> None:
    """Independent implementation: `nn.TransformerEncoderLayer`, normalised first, with the same weights."""
    torch.manual_seed(0)
    ours = EncoderLayer(8, 2, 16, 0.0).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, "gelu", batch_first=True, norm_first=True).eval()
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": ours.project.weight, "self_attn.in_proj_bias": ours.project.bias,
            "self_attn.out_proj.weight": ours.join.weight, "self_attn.out_proj.bias": ours.join.bias,
            "linear1.weight": ours.hidden[0].weight, "linear1.bias": ours.hidden[0].bias,
            "linear2.weight": ours.hidden[3].weight, "linear2.bias": ours.hidden[3].bias,
            "norm1.weight": ours.first_norm.weight, "norm1.bias": ours.first_norm.bias,
            "norm2.weight": ours.second_norm.weight, "norm2.bias": ours.second_norm.bias,
        }
    )  # fmt: skip
    h, mask = torch.randn(3, 5, 8), torch.rand(3, 5) > 0.3
    mask[:, 2] = True
    expected = theirs(h, src_key_padding_mask=~mask)
    assert torch.allclose(ours(h, mask)[mask], expected[mask], atol=1e-5)


@pytest.mark.parametrize("name", ["transformer", "ltae"])
def test_dates_may_come_in_any_order_but_their_days_count(make: Make, rows: Rows, name: str) -> None:
    model = make(name).double().eval()
    assert isinstance(model, NeuralClassifier)
    x, mask, day = model.see(rows([0, 1, 2]).to(dtype=torch.float64))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        answer = model.trunk(x, mask, day)
        assert torch.allclose(model.trunk(x[:, order], mask[:, order], day[:, order]), answer)
        assert not torch.allclose(model.trunk(x[:, order], mask[:, order], day), answer, atol=1e-4)


def test_light_attention_by_hand() -> None:
    """Two heads of two channels and keys of one: each head sees its own channels and asks with its own query."""
    heads = LightAttention(4, 2, 1).double()
    with torch.no_grad():
        heads.query.copy_(torch.tensor([[1.0], [2.0]]))
        heads.to_key.copy_(torch.tensor([[[1.0], [0.0]], [[0.0], [1.0]]]))
    e = torch.tensor([[[0.0, 1, 2, 3], [0.5, 0, 1, 4]]]).double()
    day = torch.tensor([[0.0, math.pi]]).double()
    answer, weight = heads(e, torch.tensor([[True, True]]), day)
    seen = e[0] + torch.tensor([[0.0, 1, 0, 1], [0, -1, 0, -1]]).double()  # sin and cos of 0 and π, for each head
    first = torch.softmax(seen[:, 0] * 1.0, 0)
    second = torch.softmax(seen[:, 3] * 2.0, 0)
    assert torch.allclose(weight[0], torch.stack([first, second]))
    expected = torch.cat([first @ seen[:, :2], second @ seen[:, 2:]])
    assert torch.allclose(answer[0], expected)


def test_sizes_by_hand() -> None:
    """LTAE: embedding and its norm, query, keys and their bias per head, dense layer and its norm."""
    light = LTAETrunk(10, channels=256, heads=16, key=8, width=128, dropout=0.0)
    count = sum(p.numel() for p in light.parameters())
    assert count == 11 * 256 + 512 + 16 * 8 + 16 * 16 * 8 + 16 * 8 + 257 * 128 + 256
    full = TransformerTrunk(10, width=64, heads=4, layers=3, inner=256, dropout=0.0)
    layer = 4 * 64 + 64 * 192 + 192 + 64 * 64 + 64 + 64 * 256 + 256 + 256 * 64 + 64
    assert sum(p.numel() for p in full.parameters()) == 11 * 64 + 3 * layer + 128


@pytest.mark.parametrize(
    ("name", "options"), [("transformer", {"width": 30, "heads": 4}), ("ltae", {"channels": 48, "heads": 16})]
)
def test_heads_that_do_not_divide_are_refused(make: Make, name: str, options: dict[str, int]) -> None:
    from cropgen.core.errors import UsageError

    with pytest.raises(UsageError, match="multiple of"):
        make(name, **options)
