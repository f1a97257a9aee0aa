"""kill −9 while a store is prepared: the next start goes on to the same store as one that was not killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cropgen.datasets.catalog import find_dataset
from cropgen.series.store import SeriesStore
from tests.data.manifests import local_manifest
from tests.data.server import serve
from tests.data.timesen2crop import make as timesen2crop

from .conftest import call, command, environment


def shards_done(ledger: Path) -> int:
    """Shards that the ledger of a preparation knows to be in the store; 0 before there is one."""
    if not ledger.is_file():
        return 0
    entries = json.loads(ledger.read_text())["done"].get("store", [])
    return entries[0]["shards"] if entries else 0


@pytest.mark.slow
def test_a_preparation_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    tiles = timesen2crop.make(1, (*find_dataset("timesen2crop").regions, "2019_33UVP"), per_class=2)
    timesen2crop.write_zip(tmp_path / "served", tiles)
    with serve(tmp_path / "served") as server:
        manifests = local_manifest("timesen2crop", server, tmp_path / "manifests")
        words = ("fetch", "timesen2crop", "--manifests", manifests, "--workspace")
        whole = call(*words, tmp_path / "whole")
        assert whole.code == 0, whole.err
        killed = tmp_path / "killed"
        process = subprocess.Popen(command(*words, killed), stderr=subprocess.DEVNULL, env=environment())
        ledger = killed / "data" / "timesen2crop" / "preparing" / "ledger.json"
        while shards_done(ledger) < 2 and process.poll() is None:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done = shards_done(ledger)
        assert done >= 2
        assert not (killed / "data" / "timesen2crop" / "series.zarr").exists()
        resumed = call(*words, killed, "--offline")
    assert resumed.code == 0, resumed.err
    assert "parcels prepared earlier" in resumed.err
    stores = [SeriesStore.open(root / "data/timesen2crop/series.zarr") for root in (tmp_path / "whole", killed)]
    assert stores[0].fingerprint() == stores[1].fingerprint()
    assert len(stores[0]) == sum(len(tile.pixels) for tile in tiles)
    assert len(server.requests) == 2
