"""What a user may decide about aggregation, and what is told afterwards."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from cropgen.core.progress import Reporter
from cropgen.core.recipe import Section
from cropgen.core.tally import Tally
from cropgen.imagery.masks import CLEAR, CloudMask
from cropgen.series.geometry import ParcelColumns


class AggregateOptions(Section):
    """How scenes become parcel series."""

    parcels: ParcelColumns = Field(ParcelColumns.model_validate({}), description="columns of the parcel layer")
    bands: tuple[str, ...] = Field((), description="bands read; empty: every 10 m and 20 m band the scenes have")
    statistics: tuple[str, ...] = Field(
        ("mean",), description="of a parcel's pixels: mean (always), std, median, count, p10, p90, …; each adds bands"
    )
    method: Literal["centre", "coverage"] = Field(
        "centre", description="pixels whose centre lies inside, or all pixels by the share that is covered"
    )
    clear: tuple[int, ...] = Field(CLEAR, description="clear classes of the SCL band; empty: it is not used")
    cloud_probability: float | None = Field(
        None, ge=0, le=100, description="largest cloud probability of a clear pixel, in percent; default: not used"
    )
    dilate: float = Field(0.0, ge=0, description="metres that clouds and cloud shadows of the masks are grown by")
    buffer: float = Field(5.0, ge=0, description="metres each parcel is shrunk by, so that borders stay out")
    min_pixels: int = Field(3, ge=1, description="clear pixels an observation needs; smaller parcels need all")
    min_share: float = Field(0.25, ge=0, le=1, description="share of a parcel's pixels that must be clear")
    season: tuple[str, str] = Field(
        ("01-01", "12-31"), description="first and last day, MM-DD; a first day after the last lies in the year before"
    )
    scale: float | None = Field(None, gt=0, description="reflectance per stored unit; default: what the files say")
    offset: float | None = Field(None, description="reflectance at stored 0; default: what the files say")
    nodata: float | None = Field(None, description="stored value that means missing, besides what the files say")
    pixels: int = Field(
        0, ge=0, le=4096, description="pixels of each parcel kept at every date as its pixel set; 0: none are kept"
    )
    legend: str | None = Field(None, description="name of the legend; default: that of the first parcel file")
    shard: int = Field(20_000, ge=1, description="parcels handled at a time: decides memory and the order of rows")

    @property
    def mask(self) -> CloudMask:
        """Which pixels are clear."""
        return CloudMask(self.clear, self.cloud_probability, self.dilate)


@dataclass
class AggregateReport:
    """What `aggregate` did.

    Arguments:
        rows: parcel seasons written.
        years, bands: what they cover.
        dates: acquisition days within the season, by year.
        clear_dates: mean clear observations per row.
        never_clear: ids of rows without any clear observation.
        coarse: ids of parcels that hold no pixel centre of some grid after the buffer.
        repaired: ids of invalid polygons that were repaired.
        overlaps: (id, id, share of the smaller) of parcels that cover the same ground.
        dropped: reason → ids left out.
    """

    rows: int = 0
    years: tuple[int, ...] = ()
    bands: tuple[str, ...] = ()
    dates: dict[int, int] = field(default_factory=dict)
    clear_dates: float = 0.0
    never_clear: Tally[str] = field(default_factory=Tally[str])
    coarse: Tally[str] = field(default_factory=Tally[str])
    repaired: Tally[str] = field(default_factory=Tally[str])
    overlaps: Tally[tuple[str, str, float]] = field(default_factory=Tally[tuple[str, str, float]])
    dropped: dict[str, Tally[str]] = field(default_factory=dict)

    def leave_out(self, ids: list[str], count: int | None = None) -> None:
        """Note parcels that no scene holds, as `Tally.add` does; nothing when there are none."""
        if ids:
            self.dropped.setdefault("outside the scenes", Tally()).add(ids, count)

    def warn(self, report: Reporter) -> None:
        """Say what a user must not miss."""
        for reason, ids in self.dropped.items():
            report.warn(f"{len(ids)} parcels left out: {reason} ({ids.told()})")
        if self.repaired:
            report.warn(f"{len(self.repaired)} invalid polygons repaired ({self.repaired.told()})")
        if self.overlaps:
            pairs = self.overlaps.told(lambda pair: f"{pair[0]}+{pair[1]} {pair[2]:.0%}")
            report.warn(f"{len(self.overlaps)} pairs of parcels overlap; shared pixels count in both ({pairs})")
        if self.coarse:
            report.info(f"{len(self.coarse)} parcels are too narrow for some band's pixels ({self.coarse.told()})")
        if self.never_clear:
            report.warn(f"{len(self.never_clear)} parcels have no clear date ({self.never_clear.told()})")
