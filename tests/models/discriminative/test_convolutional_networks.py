"""InceptionTime, the omni-scale and the multi-scale residual network: their sizes, reach and weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cropgen.models.discriminative.inceptiontime import InceptionModule, InceptionTrunk
from cropgen.models.discriminative.msresnet import MSResNetTrunk, ResidualBlock
from cropgen.models.discriminative.network import NeuralClassifier
from cropgen.models.discriminative.omniscale import OmniScaleTrunk, omni_scale, prime_widths

from .conftest import Make, Rows


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def reach(layers: nn.Module, channels: int, slots: int) -> int:
    """Number of slots that the middle of the answer depends on."""
    x = torch.randn(1, channels, slots, requires_grad=True)
    answer: Tensor = layers.eval()(x)
    answer[:, :, slots // 2].sum().backward()
    assert x.grad is not None
    return int((x.grad.abs().sum(1) > 0).sum())


def test_an_inception_module_by_hand() -> None:
    """Bottleneck 10·4, widths 39, 19, 9 on 4 channels, 10·4 behind the pooling, two weights per channel of the norm."""
    module = InceptionModule(10, 4, 39)
    assert [c.kernel_size for c in module.convolutions] == [(39,), (19,), (9,)]
    assert size(module) == 40 + 16 * (39 + 19 + 9) + 40 + 2 * 16
    assert module(torch.randn(2, 10, 6)).shape == (2, 16, 6)
    assert reach(module, 10, 81) == 39


def test_every_convolution_of_inceptiontime_is_registered() -> None:
    """6 modules of 4 filters on 2 bands, presence and 4 harmonics; shortcuts 7 → 16 and 16 → 16 with norms."""
    trunk = InceptionTrunk(2, filters=4, longest=8, modules=6, dropout=0.0)
    first, other = (c * 4 + 16 * (7 + 3 + 1) + c * 4 + 32 for c in (7, 16))
    assert size(trunk) == first + 5 * other + (7 * 16 + 32) + (16 * 16 + 32)


@pytest.mark.parametrize("longest", range(4, 20))
def test_inception_widths_are_odd_and_keep_the_slots(longest: int) -> None:
    module = InceptionModule(3, 2, longest)
    widths = [c.kernel_size[0] for c in module.convolutions]
    assert all(width % 2 for width in widths)
    assert widths[0] in (longest, longest - 1)
    assert module(torch.randn(1, 3, 5)).shape == (1, 8, 5)


def test_prime_widths_add_up_to_every_receptive_field() -> None:
    widths = prime_widths(23)
    assert widths == [1, 2, 3, 5, 7, 11, 13, 17, 19, 23]
    fields = {a + b + c - 2 for a in widths for b in widths for c in (1, 2)}
    assert fields == set(range(1, 43)) | {45, 46}


def test_the_reach_of_the_omni_scale_layers_is_twice_their_longest_width() -> None:
    layers, width = omni_scale(2, 7, 256, 4096)
    assert width == 2 * 5 * (256 // 18)
    assert reach(layers, 2, 41) == 7 + 7 + 2 - 2


def test_omni_scale_layers_are_those_of_the_published_code_on_one_channel() -> None:
    """Independent implementation: the package's network on a univariate series, with the same weights."""
    zoo = pytest.importorskip("breizhcrops.models", reason="the package breizhcrops is not installed")
    torch.manual_seed(0)
    theirs = zoo.OmniScaleCNN(input_dim=1, num_classes=3, sequencelength=36).eval()
    ours, width = omni_scale(1, 9, 8 * 128, 5 * 128 * 256 + 2 * 256 * 128)
    assert width == theirs.hidden.in_features
    weights = [value for key, value in theirs.state_dict().items() if not key.startswith("hidden")]
    assert len(weights) == len(ours.state_dict())
    ours.load_state_dict(dict(zip(ours.state_dict(), weights, strict=True)))
    x = torch.randn(4, 36, 1)
    with torch.no_grad():
        mean = ours.eval()(x.transpose(1, 2)).mean(2)
        assert torch.allclose(torch.log_softmax(theirs.hidden(mean), -1), theirs(x), atol=1e-5)


def test_the_omni_scale_network_stays_small_with_many_bands() -> None:
    """The first layer is as wide for ten bands as for one, so the second is not blown up to keep its budget."""
    sizes = [size(OmniScaleTrunk(bands, 9, 1024, 229_376, dropout=0.0)) for bands in (1, 10)]
    assert sizes[1] < 1.15 * sizes[0] < 600_000


def test_a_residual_block_by_hand() -> None:
    """All convolutions zero: what remains is the shortcut, and ReLU."""
    block = ResidualBlock(3, 3, 5, 1).eval()
    for convolution in (block.main[0], block.main[3]):
        nn.init.zeros_(convolution.weight)  # type: ignore[arg-type]
    x = torch.randn(2, 3, 7)
    assert torch.equal(block(x), torch.relu(x))
    wide = ResidualBlock(3, 4, 5, 2)
    assert wide(x).shape == (2, 4, 4)
    assert size(wide) == 3 * 4 * 5 + 8 + 4 * 4 * 5 + 8 + 3 * 4 + 8


def test_the_residual_branches_by_hand() -> None:
    h, inputs = 4, 2 + 5
    trunk = MSResNetTrunk(2, hidden=h, dropout=0.0)
    stem = inputs * h * 7 + 2 * h
    branches = 0
    for width in (3, 5, 7):
        branches += 2 * h * h * width + 4 * h
        for low, high in ((h, 2 * h), (2 * h, 4 * h)):
            branches += low * high * width + high * high * width + 4 * high + low * high + 2 * high
    assert size(trunk) == stem + branches
    assert trunk.width == 12 * h


@pytest.mark.parametrize("name", ["inceptiontime", "omniscale", "msresnet"])
@pytest.mark.parametrize("slots", [1, 2, 5])
def test_short_calendars_and_masked_values(make: Make, rows: Rows, name: str, slots: int) -> None:
    model, batch = make(name, slots=slots), rows([0, 1, 2, 0], slots=slots)
    assert isinstance(model, NeuralClassifier)
    model.objective(batch, torch.Generator()).total.backward()
    x, mask, day = model.eval().see(batch)
    garbage = torch.where(mask[..., None], x, 1e5)
    with torch.no_grad():
        assert torch.equal(model.trunk(garbage, mask, day), model.trunk(x, mask, day))
        alone = torch.cat([model.trunk(x[i : i + 1], mask[i : i + 1], day[i : i + 1]) for i in range(4)])
        assert torch.allclose(alone, model.trunk(x, mask, day), atol=1e-5)
