"""TimeSen2Crop: a million Sentinel-2 pixel series of 15 tiles of Austria, one tile in a second season.

Files, in `TimeSen2Crop.zip` or unpacked from it:

    TimeSen2Crop/<tile>/dates.csv          acquisition_date, then YYYYMMDD, oldest first
    TimeSen2Crop/<tile>/<class>/<n>.csv    B1,…,B9,Flag and one line per date; classes 0 to 15

`<tile>` is the name of a tile for the season of harvest 2018, and `2019_33UVP` for that of 2019. The headers B1 to B9
are numbers, not band names: they mean B02, B03, B04, B05, B06, B07, B8A, B11 and B12, reflectance × 10,000. `Flag` is 0
where the pixel is clear, 1 cloud, 2 shadow, 3 snow; what is not clear is masked. Pixels have no coordinates.

Reference: TimeSen2Crop: A Million Labeled Samples Dataset of Sentinel 2 Image Time Series for Crop-Type Classification,
G. Weikmann, C. Paris, L. Bruzzone, 2021.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.recipe import Section
from cropgen.datasets.members import FolderMembers, Members, ZipMembers
from cropgen.datasets.reader import NoOptions, Prepared, Request, Shard, StoreSpec, fill_store
from cropgen.series.legend import CropClass, Legend
from cropgen.series.schema import ParcelSeries

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
HEADER = (*(f"B{number}" for number in range(1, 10)), "Flag")
CLEAR = 0
ARCHIVE = "TimeSen2Crop.zip"
_REFLECTANCE = np.float32(1e-4)
_FIRST_YEAR = 2018
_ROWS = 4096
_AGAIN = "fetch the data set again"

LEGEND = Legend(
    "timesen2crop",
    (
        CropClass("0", "legumes (Leguminosen)", "#4a78a8", "3301020000"),
        CropClass("1", "grassland (Grünland)", "#3f7d4e", "3302000000"),
        CropClass("2", "maize (Mais)", "#e58606", "3301010600"),
        CropClass("3", "potato (Kartoffel)", "#7a5c40", "3301030000"),
        CropClass("4", "sunflower (Sonnenblume)", "#b45f06", "3301060500"),
        CropClass("5", "soy (Soja)", "#8fb356", "3301160000"),
        CropClass("6", "winter barley (Wintergerste)", "#d8b365", "3301010401"),
        CropClass("7", "winter caraway (Winterkümmel)", "#8c5a98", "3301061211"),
        CropClass("8", "rye (Roggen)", "#dfa587", "3301010300"),
        CropClass("9", "rapeseed (Raps)", "#f2e205", "3301060400"),
        CropClass("10", "beet (Rübe)", "#b4453f", "3301290000"),
        CropClass("11", "spring cereals (Sommergetreide)", "#d391ae", "3301010000"),
        CropClass("12", "winter wheat (Winterweizen)", "#e0c03c", "3301010101"),
        CropClass("13", "winter triticale (Wintertriticale)", "#a39a3c", "3301010801"),
        CropClass("14", "permanent plantation (Dauerkultur)", "#58aaa4", "3303000000"),
        CropClass("15", "other crops (sonstige)", "#8a8a8a", None),
    ),
)


class TimeSen2CropReader:
    """Reads TimeSen2Crop in its published layout."""

    Options: ClassVar[type[Section]] = NoOptions

    def prepare(self, request: Request) -> Prepared:
        """See `cropgen.datasets.reader.Reader`."""
        with _members(request.files) as members:
            tiles = _tiles(members.names)
            wanted = list(_wanted(request, tiles))
            spec = StoreSpec(
                bands=BANDS,
                legend=LEGEND,
                source={"level": "L2A", "reflectance": "surface", "clear": f"Flag {CLEAR}", "unit": "pixel"},
                rows=sum(len(tile.position) for tile in wanted),
            )
            return fill_store(request, spec, lambda begin: _shards(members, wanted, begin))


class _Tile(NamedTuple):
    """One folder of the archive: its name, the member with its dates, and class, number and member of each pixel."""

    name: str
    dates: int
    label: np.ndarray
    number: np.ndarray
    position: np.ndarray

    @property
    def year(self) -> int:
        return int(self.name.split("_")[0]) if "_" in self.name else _FIRST_YEAR

    @property
    def region(self) -> str:
        return self.name.split("_")[-1]

    @property
    def shards(self) -> int:
        return -(-len(self.position) // _ROWS)


def _members(files: Path) -> Members:
    """The archive, or the folder it unpacks to, or that folder's inside.

    Raises:
        MissingInputError: there is none of them.
    """
    archive, unpacked = files / ARCHIVE, files / "TimeSen2Crop"
    if archive.is_file():
        return ZipMembers(archive)
    if unpacked.is_dir():
        return FolderMembers(unpacked)
    if any(files.glob("*/dates.csv")):
        return FolderMembers(files)
    raise MissingInputError(f"neither {ARCHIVE} nor the folder TimeSen2Crop is in {files}", hint=_AGAIN)


def _tiles(names: Sequence[str]) -> dict[str, _Tile]:
    """Every tile of an archive, its pixels by class and number."""
    dates: dict[str, int] = {}
    pixels: dict[str, list[tuple[int, int, int]]] = {}
    for position, name in enumerate(names):
        *folders, file = name.split("/")
        stem = file.removesuffix(".csv")
        if file == "dates.csv" and folders:
            dates[folders[-1]] = position
        elif len(folders) >= 2 and stem.isdigit() and folders[-1].isdigit():
            pixels.setdefault(folders[-2], []).append((int(folders[-1]), int(stem), position))
    found = {}
    for tile, listed in pixels.items():
        if tile in dates:
            label, number, position = np.asarray(sorted(listed), np.int64).T
            found[tile] = _Tile(tile, dates[tile], label.astype(np.int32), number, position)
    return found


def _wanted(request: Request, tiles: dict[str, _Tile]) -> Iterator[_Tile]:
    """The tiles of a selection, first season first; only tile 33UVP was published for two.

    Raises:
        DataError: no tile of the selection was published for its years.
        MissingInputError: a tile is not in the archive.
        SchemaError: a class is none of the legend.
    """
    published = {*request.manifest.regions, "2019_33UVP"}
    years, regions = request.selection.years, request.selection.regions
    names = [region if year == _FIRST_YEAR else f"{year}_{region}" for year in years for region in regions]
    wanted = [name for name in names if name in published]
    if not wanted:
        raise DataError(
            f"{request.files}: no series of {', '.join(regions)} in {', '.join(map(str, years))}",
            hint="of 2019 only tile 33UVP was; choose another year or that tile",
        )
    for name in wanted:
        if name not in tiles:
            raise MissingInputError(
                f"{request.files}: no pixel of {name} with its dates.csv; there are: {', '.join(tiles) or 'none'}",
                hint=_AGAIN,
            )
        if (highest := int(tiles[name].label.max())) >= len(LEGEND):
            raise SchemaError(f"{request.files}: class {highest} of {name} is not in the legend", hint=_AGAIN)
        yield tiles[name]


def _shards(members: Members, tiles: list[_Tile], begin: int) -> Iterator[Shard]:
    first = 0
    for tile in tiles:
        numbers = range(max(begin - first, 0), tile.shards)
        first += tile.shards
        if not numbers:
            continue
        days = _days(members.read(tile.dates), members.names[tile.dates])
        for number in numbers:
            yield Shard(_series(members, tile, days, slice(number * _ROWS, (number + 1) * _ROWS)))


def _days(content: bytes, name: str) -> np.ndarray:
    """Days since 1970-01-01 (T,) of a `dates.csv`.

    Raises:
        SchemaError: it is not a column of dates in ascending order.
    """
    lines = content.decode("utf-8", "replace").split()
    stamps = [line for line in lines if line[:1].isdigit()]
    try:
        days = np.asarray([f"{s[:4]}-{s[4:6]}-{s[6:8]}" for s in stamps], "datetime64[D]").astype(np.int32)
    except ValueError as error:
        raise SchemaError(f"{name}: expected dates as YYYYMMDD: {error}", hint=_AGAIN) from error
    if not len(days) or (np.diff(days) < 0).any():
        raise SchemaError(f"{name}: expected ascending dates as YYYYMMDD", hint=_AGAIN)
    return days


def _series(members: Members, tile: _Tile, days: np.ndarray, rows: slice) -> ParcelSeries:
    table = _Block(members, tile.position[rows], len(days)).table()
    label, number = tile.label[rows], tile.number[rows]
    return ParcelSeries.build(
        bands=BANDS,
        values=table[..., :-1].astype(np.float32) * _REFLECTANCE,
        mask=table[..., -1] == CLEAR,
        day=np.tile(days, (len(label), 1)),
        parcel_id=[f"{tile.name}/{k}/{n}" for k, n in zip(label.tolist(), number.tolist(), strict=True)],
        year=tile.year,
        region=tile.region,
        label=label,
    )


@dataclass(frozen=True)
class _Block:
    """Some pixels of one tile, parsed at once.

    Arguments:
        positions: of the members.
        dates: lines that each must have.
    """

    members: Members
    positions: np.ndarray
    dates: int

    def table(self) -> np.ndarray:
        """(N, T, 10) float64: bands and flag.

        Raises:
            SchemaError: a file has another header or number of lines.
            CorruptInputError: one is damaged or holds something else than numbers.
        """
        text = b"".join(self._body(position) for position in self.positions.tolist())
        names = list(HEADER)
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(text),
                read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
                convert_options=pa_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.float64())),
            )
        except pa.ArrowInvalid as error:
            where = self.members.names[int(self.positions[0])]
            raise CorruptInputError(f"{where} or one of the files after it: {error}", hint=_AGAIN) from error
        columns = [table[name].to_numpy() for name in names]
        return np.column_stack(columns).reshape(len(self.positions), self.dates, len(names))

    def _body(self, position: int) -> bytes:
        """The lines behind the header, each ended."""
        name = self.members.names[position]
        header, _, body = self.members.read(position).replace(b"\r", b"").partition(b"\n")
        if tuple(header.decode("utf-8", "replace").split(",")) != HEADER:
            raise SchemaError(f"{name}: expected the header {','.join(HEADER)}, got {header[:80]!r}", hint=_AGAIN)
        body = body.strip(b"\n") + b"\n"
        if (lines := body.count(b"\n")) != self.dates:
            raise SchemaError(
                f"{name}: expected {self.dates} lines, one per date of its tile, got {lines}", hint=_AGAIN
            )
        return body
