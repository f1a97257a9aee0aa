"""The published networks: their sizes, their faults, and dates drawn as they draw them."""

from __future__ import annotations

import copy
import importlib.util
import sys
from typing import Any

import pytest
import torch
from torch import nn

from cropgen.core.errors import MissingDependencyError
from cropgen.core.run import new_run_name
from cropgen.models.catalog import CATALOG
from cropgen.models.discriminative.breizhcrops import DATES, even_places, random_places, take_dates

from .conftest import Make, Rows

ZOO = [entry.name for entry in CATALOG if entry.needs == "breizhcrops"]
installed = pytest.mark.skipif(
    importlib.util.find_spec("breizhcrops") is None, reason="the package breizhcrops is not installed"
)
PUBLISHED = {
    "tempcnn": 3_197_449, "omniscalecnn": 2_738_053, "lstm": 1_335_331, "msresnet": 535_785, "transformer": 168_969,
    "starrnn": 71_587, "inceptiontime": 1_161,
}  # fmt: skip


@installed
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_sizes_are_the_published_ones(name: str, make: Make) -> None:
    """13 bands and 9 classes."""
    from cropgen.models.base import InputSpec
    from cropgen.models.checkpoint import build_model
    from cropgen.series.calendar import Calendar
    from cropgen.series.legend import Legend

    bands = tuple(f"B{i}" for i in range(13))
    spec = InputSpec(bands, Calendar("dekad", 0, 36), Legend.from_codes("l", [str(i) for i in range(9)]))
    model = build_model(f"breizhcrops:{name}", {}, spec)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name]


def test_the_table_holds_all_of_them() -> None:
    assert {name.partition(":")[2] for name in ZOO} == set(PUBLISHED)
    assert all("as published" in entry.summary for entry in CATALOG if entry.name in ZOO)


def test_even_places_spread_over_the_season() -> None:
    places = even_places(torch.tensor([3, DATES, 90, 0]))
    assert places[0].tolist() == [0] * 15 + [1] * 15 + [2] * 15
    assert places[1].tolist() == list(range(DATES))
    assert places[2].tolist() == list(range(1, 90, 2))
    assert places[3].tolist() == [0] * DATES


def test_random_places_repeat_a_date_only_where_there_are_too_few() -> None:
    count = torch.tensor([3, DATES, 90])
    places = random_places(count, torch.Generator().manual_seed(0))
    assert (places.diff(dim=1) >= 0).all()
    assert (places < count[:, None]).all()
    assert set(places[0].tolist()) == {0, 1, 2}
    assert places[1].tolist() == list(range(DATES))
    assert len(set(places[2].tolist())) == DATES
    assert torch.equal(places, random_places(count, torch.Generator().manual_seed(0)))
    many = random_places(torch.full((4000,), 90), torch.Generator().manual_seed(1))
    share = torch.bincount(many.flatten(), minlength=90) / 4000
    assert torch.allclose(share, torch.full((90,), 0.5), atol=0.05)


def test_dates_are_taken_whole() -> None:
    seen = torch.arange(12.0).view(1, 4, 3)
    assert take_dates(seen, torch.tensor([[0, 2, 2]]))[0].tolist() == [[0, 1, 2], [6, 7, 8], [6, 7, 8]]


@installed
def test_the_published_network_sees_the_clear_dates_and_nothing_else(make: Make, rows: Rows) -> None:
    model, batch = make("breizhcrops:lstm").eval(), rows([0, 1])
    clear = [batch.values[i][batch.mask[i]] for i in range(2)]
    x = torch.stack([dates[[int((j + 0.5) / DATES * len(dates)) for j in range(DATES)]] for dates in clear])
    network: Any = model.network
    with torch.no_grad():
        assert torch.equal(model.log_posterior(batch), network(x))


@installed
def test_the_random_convolutions_of_inceptiontime_are_saved_but_do_not_learn(make: Make, rows: Rows) -> None:
    model = make("breizhcrops:inceptiontime")
    assert {name for name, _ in model.named_parameters()} == {"network.outlinear.weight", "network.outlinear.bias"}
    held = {key for key in model.state_dict() if "unlearnt" in key}
    assert len([key for key in held if key.endswith("conv.weight") or ".widths." in key]) >= 18
    other = make("breizhcrops:inceptiontime")
    for buffer in other.buffers():
        buffer.zero_() if buffer.is_floating_point() else None
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.eval().log_posterior(rows([0])), model.eval().log_posterior(rows([0])))


@installed
def test_the_upper_layers_of_starrnn_are_one(make: Make) -> None:
    network: Any = make("breizhcrops:starrnn").network
    assert network.block[1] is network.block[2]
    assert isinstance(copy.deepcopy(network), nn.Module)


def test_the_name_of_a_run_is_a_folder_name_everywhere() -> None:
    assert ":" not in new_run_name("breizhcrops:lstm", "10%")


def test_a_missing_package_says_what_to_install(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "breizhcrops", None)
    monkeypatch.delitem(sys.modules, "breizhcrops.models", raising=False)
    with pytest.raises(MissingDependencyError, match="breizhcrops:lstm needs the package") as caught:
        make("breizhcrops:lstm")
    assert caught.value.exit_code == 5
    assert "cropgen[zoo]" in (caught.value.hint or "")
