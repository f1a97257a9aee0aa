"""LSTM, GRU and StarRNN see observed dates only, in order."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from cropgen.models.discriminative.network import NeuralClassifier
from cropgen.models.discriminative.starrnn import StarLayer
from cropgen.models.layers.recurrent import Recurrence, compact, dated, last, reverse

from .conftest import Make, Rows


def test_observed_dates_move_to_the_front_and_back() -> None:
    x = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]])[..., None]
    mask = torch.tensor([[False, True, False, True], [True] * 4, [False] * 4])
    seen, count = compact(x, mask)
    assert seen[..., 0].tolist() == [[2, 4, 1, 3], [5, 6, 7, 8], [9, 10, 11, 12]]
    assert count.tolist() == [2, 4, 0]
    assert reverse(seen, count)[..., 0].tolist() == [[4, 2, 1, 3], [8, 7, 6, 5], [9, 10, 11, 12]]
    assert last(seen, count)[:, 0].tolist() == [4, 8, 0]


@pytest.mark.parametrize(("name", "kind"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_one_layer_is_that_of_pytorch_on_packed_sequences(make: Make, rows: Rows, name: str, kind: type) -> None:
    """PyTorch's own bidirectional layer with the same weights, given the observed dates packed."""
    model, batch = make(name, layers=1, hidden=5).eval(), rows([0, 1, 2, 0])
    assert isinstance(model, NeuralClassifier)
    x, mask, day = model.see(batch)
    theirs = kind(6, 5, bidirectional=True, batch_first=True)
    state = {}
    for suffix, stack in zip(("", "_reverse"), model.trunk.directions, strict=True):  # type: ignore[arg-type]
        assert isinstance(stack, Recurrence)
        state |= {key + suffix: value for key, value in stack.cells.state_dict().items()}
    theirs.load_state_dict(state)
    steps = [dated(x, mask, day)[i][mask[i]] for i in range(4)]
    padded = nn.utils.rnn.pad_sequence(steps, batch_first=True)
    packed = pack_padded_sequence(padded, mask.sum(1), batch_first=True, enforce_sorted=False)
    end = theirs(packed)[1]
    end = (end[0] if isinstance(end, tuple) else end).transpose(0, 1).flatten(1)
    assert torch.allclose(model.trunk(x, mask, day), model.trunk.close(end), atol=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["lstm", "gru", "starrnn"])
def test_without_the_backward_stack_only_the_past_decides_the_states(make: Make, name: str) -> None:
    model = make(name, bidirectional=False, hidden=4)
    assert isinstance(model, NeuralClassifier)
    stack = model.trunk.directions[0].eval()  # type: ignore[index]
    x = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[:, 3:] += 1
    one, two = stack(x), stack(changed)
    assert torch.equal(one[:, :3], two[:, :3])
    assert not torch.allclose(one[:, 3], two[:, 3])


def test_a_star_cell_by_hand() -> None:
    """One unit, weights 1, biases 0 and −1: the equations of the paper, step by step."""
    layer = StarLayer(1, 1).double()
    for linear in (layer.gate_input, layer.gate_state, layer.content):
        nn.init.ones_(linear.weight)
    state, expected = torch.zeros(()).double(), []
    for value in (0.5, -1.0, 2.0):
        gate = torch.sigmoid(torch.tensor(value).double() + state - 1)
        state = torch.tanh((1 - gate) * state + gate * torch.tanh(torch.tensor(value).double()))
        expected.append(state)
    answer = layer(torch.tensor([[[0.5], [-1.0], [2.0]]]).double())
    assert torch.allclose(answer[0, :, 0], torch.stack(expected))


def test_star_layers_are_light_and_have_weights_of_their_own(make: Make) -> None:
    """The paper: a cell of m units on n inputs has 2 n m + m² + 2 m weights, less than half of those of an LSTM."""
    features, units = 14, 128
    light = sum(p.numel() for p in StarLayer(features, units).parameters())
    assert light == 2 * features * units + units**2 + 2 * units
    assert light < 0.5 * sum(p.numel() for p in nn.LSTM(features, units).parameters())
    stack = make("starrnn", layers=3, hidden=8).trunk.directions[0]  # type: ignore[index, union-attr]
    layers = [layer for layer in stack if isinstance(layer, StarLayer)]
    assert len({id(p) for layer in layers for p in layer.parameters()}) == 3 * 5
