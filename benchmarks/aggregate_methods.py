"""Ways to the means of four bands over parcels, each timed in a process of its own.

Every method begins with the parcels as a GeoParquet file and the bands as files, both in the memory of the system, and
ends with a number per parcel, band and date: in memory for the others, in a series store on disk for cropgen. Imports
are not timed. `decode` reads the bands by GDAL, cell by cell on both cores, and throws the values away; cropgen reads
plain GeoTIFFs without GDAL, in less time, which `read` shows: its cells alone, likewise thrown away.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

SAMPLE = 300
"""Parcels that rasterstats is given: it needs as long for each of more."""
_WATCH_SECONDS = 0.05


def _files(scenes: Path) -> list[list[Path]]:
    return [sorted(date.glob("*.tif")) for date in sorted(scenes.iterdir())]


def decode(scenes: Path, parcels: Path) -> Callable[[], object]:
    """Read every cell of every band by GDAL."""
    import rasterio

    from cropgen.imagery.raster import ENVIRONMENT, RasterLayer, raster_window
    from cropgen.imagery.scene import Window

    def read(layer: RasterLayer, window: Window) -> int:
        with rasterio.Env(**ENVIRONMENT), rasterio.open(layer.path) as raster:
            return raster.read(1, window=raster_window(window)).size

    return _every_cell(scenes, read)


def read(scenes: Path, parcels: Path) -> Callable[[], object]:
    """Read every cell of every band as cropgen does."""
    return _every_cell(scenes, lambda layer, window: layer.read(window).size)


def _every_cell(scenes: Path, read: Callable[[Any, Any], int]) -> Callable[[], object]:
    from cropgen.core.progress import Silent
    from cropgen.imagery.pixels import CELL_ROWS
    from cropgen.imagery.scene import Window
    from cropgen.imagery.sources import open_scenes

    def run() -> int:
        source, jobs = open_scenes(scenes, Silent()), []
        for acquisition in source.acquisitions:
            for layer in acquisition.layers.values():
                rows, columns = layer.grid.shape
                tops = range(0, rows, CELL_ROWS)
                jobs += [(layer, Window(top, min(top + CELL_ROWS, rows), 0, columns)) for top in tops]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return sum(pool.map(lambda job: read(*job), jobs))

    return run


def cropgen(scenes: Path, parcels: Path) -> Callable[[], object]:
    """The series store, from the parcel file and the folder of dates."""
    from cropgen.core.progress import Silent
    from cropgen.imagery.aggregate import AggregateOptions, aggregate

    folder = tempfile.mkdtemp(dir=parcels.parent)
    options = AggregateOptions.model_validate({"buffer": 0, "clear": ()})
    return lambda: aggregate(scenes, parcels, Path(folder) / "series.zarr", options, Silent()).rows


def _exactextract(scenes: Path, parcels: Path, strategy: str) -> Callable[[], object]:
    import geopandas as gpd
    from exactextract import exact_extract

    def run() -> int:
        frame = gpd.read_parquet(parcels)
        for files in _files(scenes):
            found: Any = exact_extract([str(f) for f in files], frame, ["mean"], strategy=strategy, output="pandas")
        return len(found)

    return run


def exactextract_raster(scenes: Path, parcels: Path) -> Callable[[], object]:
    """exactextract, block by block of the raster."""
    return _exactextract(scenes, parcels, "raster-sequential")


def exactextract_feature(scenes: Path, parcels: Path) -> Callable[[], object]:
    """exactextract, parcel by parcel."""
    return _exactextract(scenes, parcels, "feature-sequential")


def xvec(scenes: Path, parcels: Path) -> Callable[[], object]:
    """xvec by exactextract: its own way, by rasterising, is not done with a tile in two minutes."""
    import geopandas as gpd
    import rioxarray
    import xarray as xr
    import xvec  # noqa: F401 (registers the accessor)

    def run() -> int:
        frame = gpd.read_parquet(parcels)
        for files in _files(scenes):
            bands = [rioxarray.open_rasterio(f, masked=False).squeeze("band", drop=True) for f in files]  # pyright: ignore
            cube = xr.concat(bands, dim="band")
            found = cube.xvec.zonal_stats(
                frame.geometry, x_coords="x", y_coords="y", stats="mean", method="exactextract"
            ).compute()
        return int(found.sizes["geometry"])

    return run


def rasterstats(scenes: Path, parcels: Path) -> Callable[[], object]:
    """rasterstats on the first parcels."""
    import geopandas as gpd
    from rasterstats import zonal_stats

    def run() -> int:
        frame = gpd.read_parquet(parcels).head(SAMPLE)
        for files in _files(scenes):
            for file in files:
                found = zonal_stats(frame.geometry, str(file), stats=["mean"])
        return len(found)

    return run


METHODS: dict[str, Callable[[Path, Path], Callable[[], object]]] = {
    "cropgen": cropgen, "decode": decode, "read": read, "exactextract-raster": exactextract_raster,
    "exactextract-feature": exactextract_feature, "xvec": xvec, "rasterstats": rasterstats,
}  # fmt: skip


def _memory_mb(kind: str) -> float:
    """A line of what the kernel says of the memory of this process, which does not count whoever started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith(kind)).split()[1]) / 1024


class _Watch(threading.Thread):
    """Looks now and then how much of the memory is the program's own: without pages of files, which can be had back."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0.0
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(_WATCH_SECONDS):
            self.most = max(self.most, _memory_mb("RssAnon"))

    def stop(self) -> float:
        """The most that was seen, in MB."""
        self._end.set()
        self.join()
        return self.most


def _processor(times: os.times_result) -> float:
    return times.user + times.system + times.children_user + times.children_system


def main() -> None:
    """Time one method and print what it took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("parcels", type=Path)
    chosen = parser.parse_args()
    run = METHODS[chosen.method](chosen.scenes, chosen.parcels)
    idle, watch = _memory_mb("VmHWM"), _Watch()
    watch.start()
    began, before = time.perf_counter(), os.times()
    run()
    seconds, busy = time.perf_counter() - began, _processor(os.times()) - _processor(before)
    facts = {"seconds": seconds, "processor_seconds": busy, "cores": busy / seconds}
    facts |= {"peak_mb": _memory_mb("VmHWM"), "own_mb": watch.stop(), "idle_mb": idle}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
