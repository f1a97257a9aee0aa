"""Networks that give every entry of a season the parameters of its map, each seeing only what it may see."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from zuko.nn import MaskedLinear

from cropgen.models.layers.flows.layer import Seen
from cropgen.models.layers.flows.univariate import Univariate


class Answer(nn.Module):
    """The last layer of a conditioner, so begun that the map it steers is the identity.

    Its weights begin at zero. Where components that begin equal would stay equal, the weights are random and every
    output is multiplied by a gate that begins at zero.

    Arguments:
        linear: the last layer.
        univariate: what the outputs steer.
        at_identity: False leaves the layer as it is.
    """

    gate: nn.Parameter | None

    def __init__(self, linear: nn.Linear, univariate: Univariate, *, at_identity: bool) -> None:
        super().__init__()
        self.linear = linear
        gated = at_identity and univariate.alike
        self.register_parameter("gate", nn.Parameter(torch.zeros(linear.out_features)) if gated else None)
        if at_identity and univariate.starts_at_identity and not gated:
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        raw = self.linear(hidden)
        return raw if self.gate is None else raw * self.gate


class Perceptron(nn.Module):
    """Two hidden layers, (…, inputs) → (…, entries, parameters).

    In memory the first parameter of all entries comes before the second, so that each is read in one run.

    Arguments:
        inputs: size.
        entries: number of entries that are steered.
        hidden: width of the two hidden layers.
        univariate: what is steered.
        at_identity: begin with the identity.
    """

    def __init__(self, inputs: int, entries: int, hidden: int, univariate: Univariate, *, at_identity: bool) -> None:
        super().__init__()
        self.total = univariate.total
        self.hidden = nn.Sequential(
            nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, hidden), nn.ReLU(inplace=True)
        )
        self.answer = Answer(nn.Linear(hidden, entries * self.total), univariate, at_identity=at_identity)

    def forward(self, values: Tensor) -> Tensor:
        return self.answer(self.hidden(values)).unflatten(-1, (self.total, -1)).transpose(-1, -2)


class MaskedPerceptron(nn.Module):
    """A perceptron whose outputs see only inputs that come before them in an order.

    An input of degree a reaches hidden units of degree ≥ a; those reach outputs of degree > theirs. The hidden degrees
    run evenly over the degrees of the entries.

    Arguments:
        inputs: (I,) degree of each input; 0 is seen by all outputs, k + 1 by those after the k-th entry.
        outputs: (N,) degree of each output, k + 1 for the k-th entry.
        hidden: width of each hidden layer.
        univariate: what the outputs steer.
        at_identity: begin with the identity.

    Reference:
        MADE: Masked Autoencoder for Distribution Estimation, Germain, Gregor, Murray and Larochelle, 2015.
    """

    def __init__(
        self, inputs: Tensor, outputs: Tensor, hidden: tuple[int, ...], univariate: Univariate, *, at_identity: bool
    ) -> None:
        super().__init__()
        self.total = univariate.total
        lowest, highest = int(inputs.min()), int(outputs.max()) - 1
        degrees, layers = inputs, list[nn.Module]()
        for width in hidden:
            following = _spread(width, lowest, max(highest, lowest))
            layers += [_masked(following[:, None] >= degrees), nn.ReLU()]
            degrees = following
        last = _masked((outputs[:, None] > degrees).repeat_interleave(self.total, 0))
        self.hidden = nn.Sequential(*layers)
        self.answer = Answer(last, univariate, at_identity=at_identity)

    def forward(self, values: Tensor) -> Tensor:
        """(…, I) → (…, N, parameters)."""
        return self.answer(self.hidden(values)).unflatten(-1, (-1, self.total))


def _masked(adjacency: Tensor) -> MaskedLinear:
    return MaskedLinear(cast(torch.BoolTensor, adjacency))


def _spread(width: int, lowest: int, highest: int) -> Tensor:
    """Degrees of hidden units: each in turn where there are enough units, else evenly spaced."""
    count = highest - lowest + 1
    if width >= count:
        return lowest + torch.arange(width) % count
    return torch.linspace(lowest, highest, width).round().long()


def _over_bands(
    bands: int, told: int, hidden: int, univariate: Univariate, *, backwards: bool, at_identity: bool
) -> MaskedPerceptron:
    """A masked perceptron over the bands of a date, which all see `told` values besides."""
    order = torch.arange(bands).flip(0) if backwards else torch.arange(bands)
    inputs = torch.cat([order + 1, torch.zeros(told, dtype=torch.long)])
    return MaskedPerceptron(inputs, order + 1, (hidden,), univariate, at_identity=at_identity)


class DenseOrder(nn.Module):
    """Every entry sees all entries before it in an order, and the presence of their dates.

    Arguments:
        order: (D,) place of each entry in the order.
        slots: G; the entries are time-major.
        context: H, seen by all.
        hidden, univariate, at_identity: of the masked perceptron.
    """

    def __init__(
        self,
        order: Tensor,
        slots: int,
        context: int,
        hidden: tuple[int, ...],
        univariate: Univariate,
        *,
        at_identity: bool,
    ) -> None:
        super().__init__()
        first_of_date = order.unflatten(0, (slots, -1)).amin(1)
        inputs = torch.cat([order + 1, first_of_date + 1, torch.zeros(context, dtype=torch.long)])
        self.network = MaskedPerceptron(inputs, order + 1, hidden, univariate, at_identity=at_identity)

    def forward(self, v: Tensor, seen: Seen) -> Tensor:
        """(B, D, parameters)."""
        return self.network(torch.cat([v, seen.told], -1))


class CausalConvolution(nn.Module):
    """Every date is steered by earlier dates through gated causal convolutions, its bands by earlier bands too.

    Layer i of the stack reaches 2ⁱ dates back, so n layers see 2ⁿ dates before their own. The parameters of a date
    come from one masked perceptron over its bands, told the summary of the past, the same for all dates.

    Arguments:
        slots, bands: G and C.
        context: H, seen by all.
        hidden: channels of the convolutions and width of the perceptron.
        backwards: the bands of a date in descending order.
        univariate, at_identity: of the masked perceptron.

    Reference:
        WaveNet: A Generative Model for Raw Audio, van den Oord et al., 2016.
    """

    def __init__(
        self,
        slots: int,
        bands: int,
        context: int,
        hidden: int,
        univariate: Univariate,
        *,
        backwards: bool,
        at_identity: bool,
    ) -> None:
        super().__init__()
        self.bands = bands
        self.enter = nn.Linear(bands + 1 + context, hidden)
        depth = max(1, (slots - 1).bit_length())
        self.layers = nn.ModuleList(nn.Conv1d(hidden, 2 * hidden, 2, dilation=2**i) for i in range(depth))
        self.place = nn.Parameter(0.1 * torch.randn(slots, hidden))
        self.network = _over_bands(bands, hidden, hidden, univariate, backwards=backwards, at_identity=at_identity)

    def forward(self, v: Tensor, seen: Seen) -> Tensor:
        """(B, D, parameters)."""
        dates = v.unflatten(-1, (-1, self.bands))
        seen_there = [dates, seen.mask[..., None]]
        if seen.context is not None:
            seen_there.append(seen.context[:, None].expand(-1, dates.shape[1], -1))
        now = self.enter(torch.cat(seen_there, -1))
        past = functional.pad(now, (0, 0, 1, 0))[:, :-1].transpose(1, 2)
        for layer in self.layers:
            reach = cast(nn.Conv1d, layer).dilation[0]
            value, gate = layer(functional.pad(past, (reach, 0))).chunk(2, 1)
            past = past + torch.tanh(value) * torch.sigmoid(gate)
        summary = past.transpose(1, 2) + self.place
        return self.network(torch.cat([dates, summary], -1)).flatten(1, 2)


class RecurrentPast(nn.Module):
    """Every observed date is steered by the observed dates before it, whole missing dates skipped.

    The observed dates are moved to the front, a gated recurrent unit runs over them with their places in the calendar
    and the gaps between them, and its states are moved back; so a missing date is no step at all.

    Arguments:
        slots, bands: G and C.
        context: H, seen by all.
        hidden: units of the recurrence and width of the perceptron.
        backwards: the bands of a date in descending order.
        univariate, at_identity: of the masked perceptron over the bands of a date.

    Reference:
        Multivariate Probabilistic Time Series Forecasting via Conditioned Normalizing Flows, Rasul, Sheikh, Schuster,
        Bergmann and Vollgraf, 2021.
    """

    def __init__(
        self,
        slots: int,
        bands: int,
        context: int,
        hidden: int,
        univariate: Univariate,
        *,
        backwards: bool,
        at_identity: bool,
    ) -> None:
        super().__init__()
        self.bands, self.slots = bands, slots
        self.memory = nn.GRU(bands + 2 + context, hidden, batch_first=True)
        told = hidden + 2 + context
        self.network = _over_bands(bands, told, hidden, univariate, backwards=backwards, at_identity=at_identity)

    def forward(self, v: Tensor, seen: Seen) -> Tensor:
        """(B, D, parameters)."""
        dates = v.unflatten(-1, (-1, self.bands))
        front = torch.argsort(1 - seen.mask, dim=1, stable=True)
        place = (front.to(v.dtype) + 1) / self.slots
        gap = place - functional.pad(place, (1, 0))[:, :-1]
        time = torch.stack([place, gap], -1)
        if seen.context is not None:
            time = torch.cat([time, seen.context[:, None].expand(-1, self.slots, -1)], -1)
        values = dates.gather(1, front[..., None].expand_as(dates))
        states, _ = self.memory(torch.cat([values, time], -1))
        before = functional.pad(states, (0, 0, 1, 0))[:, :-1]
        parameters = self.network(torch.cat([values, before, time], -1)).flatten(2)
        back = torch.argsort(front, dim=1)
        restored = parameters.gather(1, back[..., None].expand_as(parameters))
        return restored.unflatten(-1, (self.bands, -1)).flatten(1, 2)
