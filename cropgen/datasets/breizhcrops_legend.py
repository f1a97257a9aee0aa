"""The legends of BreizhCrops: codes of the French parcel register (RPG), grouped as the publisher does, or as they are.

`isprs` has the nine classes of the published tables, `workshop` the thirteen of the first version; both are read from
the mapping that comes with the files. `register` keeps every code of the register as a class of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.series.hcat import with_hcat
from cropgen.series.legend import CropClass, Legend, spread_colour

Grouping = Literal["isprs", "workshop", "register"]

FILES: dict[Grouping, str] = {
    "isprs": "classmapping.csv", "workshop": "classmapping_icml.csv", "register": "codes.csv",
}  # fmt: skip
_ISPRS = (
    ("barley", "ORH ORP"), ("wheat", "BTH BTP"), ("rapeseed", "CZH CZP"), ("corn", "MID MIE MIS"), ("sunflower", "TRN"),
    ("orchards", "VRG PWT PFR AGR"), ("nuts", "CAB CTG NOS NOX PIS"), ("permanent meadows", "PPH PRL"),
    ("temporary meadows", "PTR RGA"),
)  # fmt: skip
_KNOWN = {
    "barley": ("orge", "#d8b365", "3301010400"),
    "wheat": ("blé tendre", "#e0c03c", "3301010100"),
    "rapeseed": ("colza", "#f2e205", "3301060400"),
    "corn": ("maïs", "#e58606", "3301010600"),
    "sunflower": ("tournesol", "#b45f06", "3301060500"),
    "orchards": ("vergers", "#8c5a98", "3303010000"),
    "nuts": ("fruits à coque", "#7a5c40", "3303030000"),
    "permanent meadows": ("prairies permanentes", "#3f7d4e", "3302000000"),
    "temporary meadows": ("prairies temporaires", "#8fb356", "3301090100"),
    "cereals": ("autres céréales", "#c9a227", "3301010000"),
    "fodder": ("fourrage", "#58aaa4", "3301090000"),
    "fallow": ("gel", "#b8a58a", None),
    "miscellaneous": ("divers", "#8a8a8a", None),
    "protein crops": ("protéagineux", "#4a78a8", "3301020000"),
    "vegetables": ("légumes ou fleurs", "#d391ae", "3301070000"),
}
_SHORT = {"misc": "miscellaneous", "perm. meadows": "permanent meadows", "temp. meadows": "temporary meadows"}


def read_legend(files: Path, grouping: Grouping) -> tuple[Legend, dict[str, int]]:
    """A legend, and the position in it of every code of the register that it covers.

    Arguments:
        files: folder with the mappings; the nine classes are known without their file.

    Raises:
        MissingInputError: the file of the grouping is not there.
        CorruptInputError, SchemaError: it cannot be read, or lacks a column.
    """
    path = files / FILES[grouping]
    if grouping == "register":
        table = _read(path, ";", ("Code Culture", "Libellé Culture"))
        names = dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))
        legend = with_hcat(Legend.from_codes("breizhcrops-register", names, names))
        return legend, {code: i for i, code in enumerate(legend.codes)}
    if grouping == "isprs" and not path.exists():
        pairs = [(name, code) for name, codes in _ISPRS for code in codes.split()]
    else:
        table = _read(path, ",", ("id", "classname", "code"))
        table = table.assign(id=table["id"].astype(int)).sort_values("id", kind="stable")
        pairs = list(zip(table["classname"], table["code"], strict=True))
    classes = list(dict.fromkeys(name for name, _ in pairs))
    legend = Legend(f"breizhcrops-{grouping}", tuple(_class(name, i) for i, name in enumerate(classes)))
    return legend, {code: classes.index(name) for name, code in pairs}


def _class(name: str, position: int) -> CropClass:
    plain = _SHORT.get(name.strip().rstrip(".").lower(), name.strip().lower())
    if plain not in _KNOWN:
        return CropClass(name, name, spread_colour(position))
    french, colour, hcat = _KNOWN[plain]
    return CropClass(name, f"{plain} ({french})", colour, hcat)


def _read(path: Path, separator: str, columns: tuple[str, ...]) -> pd.DataFrame:
    """The named columns of a mapping, as text."""
    try:
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise MissingInputError(f"class mapping not found: {path}", hint="fetch the data set again") from error
    except (ValueError, OSError) as error:
        raise CorruptInputError(f"{path} cannot be read: {error}", hint="fetch it again") from error
    if missing := [c for c in columns if c not in table]:
        raise SchemaError(
            f"{path}: column {missing[0]} missing; it has {', '.join(table.columns)}", hint="fetch it again"
        )
    return table.loc[:, list(columns)]
