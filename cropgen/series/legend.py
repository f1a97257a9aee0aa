"""The legend: which crops a set of parcels may carry, under which code, name and colour.

A container stores a label as the position of its class in the legend of that container (−1: unknown), so labels are
small, and codes stay text: national codes may have leading zeros, letters, or ten digits.
"""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cropgen.core.errors import SchemaError

UNKNOWN = -1


@dataclass(frozen=True)
class CropClass:
    """One entry of a legend.

    Arguments:
        code: the code as the source writes it, as text.
        name: what a reader calls it.
        colour: `#rrggbb`, used in maps and plots.
        hcat: the code in the Hierarchical Crop and Agriculture Taxonomy, when known.
    """

    code: str
    name: str
    colour: str
    hcat: str | None = None


@dataclass(frozen=True)
class Legend:
    """A named, ordered list of crop classes with unique codes."""

    name: str
    classes: tuple[CropClass, ...]

    def __post_init__(self) -> None:
        repeated = sorted(code for code, times in Counter(self.codes).items() if times > 1)
        if repeated:
            raise SchemaError(f"legend {self.name}: codes given twice: {', '.join(repeated)}", hint="make codes unique")

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def codes(self) -> tuple[str, ...]:
        return tuple(c.code for c in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def colours(self) -> tuple[str, ...]:
        return tuple(c.colour for c in self.classes)

    def encode(self, codes: Iterable[str | None]) -> np.ndarray:
        """Positions (N,) int32 of codes in this legend; None, empty and unlisted codes become −1."""
        position = {code: i for i, code in enumerate(self.codes)}
        return np.fromiter((UNKNOWN if c is None else position.get(c, UNKNOWN) for c in codes), dtype=np.int32)

    def subset(self, positions: Iterable[int]) -> Legend:
        """The legend of some of the classes, in the order given."""
        return Legend(self.name, tuple(self.classes[int(i)] for i in positions))

    def extended(self, other: Legend) -> Legend:
        """This legend followed by the classes of `other` whose codes are new."""
        known = set(self.codes)
        return Legend(self.name, self.classes + tuple(c for c in other.classes if c.code not in known))

    def translation(self, other: Legend) -> np.ndarray:
        """For each class of this legend its position (K,) int32 in `other`, −1 where `other` lacks the code."""
        return other.encode(self.codes)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "classes": [asdict(c) for c in self.classes]}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Legend:
        return cls(document["name"], tuple(CropClass(**c) for c in document["classes"]))

    @classmethod
    def from_codes(cls, name: str, codes: Iterable[str], names: dict[str, str] | None = None) -> Legend:
        """A legend of the distinct codes, sorted, with names where known and well-separated colours."""
        distinct = sorted(set(codes))
        names = names or {}
        return cls(
            name,
            tuple(CropClass(c, names.get(c, c), spread_colour(i)) for i, c in enumerate(distinct)),
        )


_PALETTE = (
    "#c9a227", "#3f7d4e", "#d0703c", "#4a78a8", "#8c5a98", "#8fb356", "#b4453f", "#58aaa4", "#7a5c40", "#d391ae",
    "#2f5d73", "#a39a3c", "#9db5d3", "#6a6a8e", "#dfa587", "#5f8f6a",
)  # fmt: skip


def spread_colour(index: int) -> str:
    """The `index`-th colour of an endless palette: sixteen muted ones for maps, then hues by the golden angle.

    Consecutive colours differ strongly, and equal indices always give the same colour.
    """
    if index < len(_PALETTE):
        return _PALETTE[index]
    hue = (0.11 + index * 0.618033988749895) % 1.0
    lightness = (0.42, 0.58, 0.50)[index % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.45)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"
