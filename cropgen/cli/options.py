"""Options that several verbs share, and how their values are read."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from cropgen.core.errors import UsageError

GLOBAL_NOTE = "Global options, before or after the verb: --workspace DIR, --json, -q, -v."

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
Series = Annotated[
    Path | None,
    typer.Option("--data", metavar="STORE", help="Series store. Default: the newest of the workspace."),
]
Years = Annotated[str | None, typer.Option("--years", metavar="Y,Y", help="Years, comma-separated. Default: all.")]
Regions = Annotated[str | None, typer.Option("--regions", metavar="R,R", help="Regions. Default: all.")]
Standardise = Annotated[
    str, typer.Option("--standardise", help="none or region-year: one level and spread for all regions and years.")
]
Site = Annotated[
    str | None,
    typer.Option("--site", metavar="NAME,…", help="Covariates of the place for dynamical models: lon, lat, elevation."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A model option, repeatable; see `cropgen models NAME`."),
]
StoreOutput = Annotated[Path | None, typer.Option("--output", "-o", help="The store itself, instead of --name.")]
IdColumn = Annotated[str | None, typer.Option("--id-column", help="Parcel id. Default: recognised.")]
LabelColumn = Annotated[str | None, typer.Option("--label-column", help="Crop code. Default: recognised.")]
NameColumn = Annotated[str | None, typer.Option("--name-column", help="Crop name. Default: recognised.")]
RegionColumn = Annotated[str | None, typer.Option("--region-column", help="Region. Default: recognised.")]
CropCodes = Annotated[
    Path | None,
    typer.Option(
        "--crop-codes", metavar="TABLE", help="csv of crop codes with HCAT codes; for layers also a folder by country."
    ),
]
To = Annotated[str | None, typer.Option("--to", metavar="source|hcat", help="Codes kept. Default: source.")]
YearOrColumn = Annotated[str | None, typer.Option("--year", help="Harvest year, or its column.")]
Merge = Annotated[
    list[str] | None,
    typer.Option("--merge", metavar="PATTERN=CODE", help="Crop codes made one, repeatable: 'wheat*=wheat'."),
]
Run = Annotated[
    Path | None, typer.Option("--run", help="Run folder, or its name. Default: the newest of the workspace.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Every random number derives from it.")]


def split_list(text: str | None) -> tuple[str, ...]:
    """The parts of a comma-separated value; none for None."""
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else ()


def split_numbers(text: str | None, flag: str) -> tuple[int, ...]:
    """Comma-separated whole numbers.

    Raises:
        UsageError: a part is not a whole number.
    """
    parts = split_list(text)
    wrong = [p for p in parts if not re.fullmatch(r"-?[0-9]+", p)]
    if wrong:
        raise UsageError(f"{flag}: expected whole numbers, got {wrong[0]!r}", hint=f"for example {flag} 2021,2022")
    return tuple(int(p) for p in parts)


def year_or_column(text: str | None) -> int | str | None:
    """A year where the text is a number, the name of a column otherwise."""
    return int(text) if text and text.isascii() and text.isdigit() else text


def parse_merge(pairs: list[str] | None) -> dict[str, str] | None:
    """`pattern=code` pairs as a mapping; None for none.

    Raises:
        UsageError: a pair lacks one of both.
    """
    if not pairs:
        return None
    split = [pair.rpartition("=") for pair in pairs]
    wrong = [pair for pair, (pattern, _, code) in zip(pairs, split, strict=True) if not pattern or not code]
    if wrong:
        raise UsageError(f"--merge {wrong[0]!r}: expected PATTERN=CODE", hint="for example --merge 'wheat*=wheat'")
    return {pattern: code for pattern, _, code in split}


def parse_settings(pairs: list[str] | None) -> dict[str, Any]:
    """`key=value` pairs as a nested document; dots in a key open tables, values are TOML or else text.

    Raises:
        UsageError: a pair has no `=` or no key, or a key is given both a value and a table.
    """
    document: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {pair!r}: expected key=value", hint="for example --set steps=800")
        *tables, last = key.strip().split(".")
        place = document
        for table in tables:
            place = place.setdefault(table, {})
            if not isinstance(place, dict):
                break
        if not isinstance(place, dict) or isinstance(place.get(last), dict):
            raise UsageError(f"--set {pair!r}: part of it is set before to something else", hint="set each option once")
        place[last] = _toml_value(text)
    return document


def parse_vary(pairs: list[str] | None) -> dict[str, tuple[Any, ...]]:
    """`key=a,b,c` pairs as values by key; values are TOML or else text, a TOML array gives values with commas in them.

    Raises:
        UsageError: a pair has no `=` or no key, or a key is given twice.
    """
    found: dict[str, tuple[Any, ...]] = {}
    for pair in pairs or []:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"--vary {pair!r}: expected key=a,b,c", hint="for example --vary steps=200,400")
        if key in found:
            raise UsageError(f"--vary {key} is given twice", hint=f"name all values once: --vary {key}=a,b,c")
        listed = _toml_value(text)
        values = listed if isinstance(listed, list) else [_toml_value(part) for part in split_list(text)]
        found[key] = tuple(values)
    return found


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
