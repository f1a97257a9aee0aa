"""How data sets, their files and their verification look on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from cropgen.cli.render import count, facts_table, path_line, plain_table

if TYPE_CHECKING:
    from cropgen import api


def datasets_table(listing: list[api.DatasetListing]) -> Table:
    """The data sets and their state in the workspace."""
    table = plain_table("data set", "years", "parcels", "crops", "size", "licence", "here", numeric=frozenset({2, 3}))
    for column in table.columns[:5]:
        column.no_wrap = True
    table.columns[5].overflow = "fold"
    table.columns[6].min_width = 10
    for item in listing:
        table.add_row(
            item.name, _span(item.years), count(item.parcels), str(item.classes), item.size, item.licence, item.state
        )
    return table


def _span(years: tuple[int, ...]) -> str:
    whole = len(years) == max(years) - min(years) + 1
    return f"{min(years)}–{max(years)}" if len(years) > 1 and whole else ", ".join(str(y) for y in years)


def fetch_summary(result: api.FetchResult) -> list[RenderableType]:
    """What was fetched, or would be, and what to do next."""
    lines: list[RenderableType] = [facts_table({key: str(value) for key, value in result.facts.items()})]
    if result.dry_run:
        return [*lines, files_table(result.files)] if result.files else lines
    if result.scenes is not None:
        lines += [path_line("scenes", result.scenes), *(path_line("parcels", p) for p in result.parcels)]
        lines.append(Text(f"next: cropgen aggregate {result.scenes} {' '.join(str(p) for p in result.parcels)}", "dim"))
    elif result.series is not None:
        lines += [facts_table({"parcel seasons": count(result.rows)}), *_dropped(result)]
        lines += [path_line("series", result.series), Text("next: cropgen train --labels 10%", "dim")]
    elif result.parcels:
        lines += [facts_table({"parcels": count(result.rows)}), *_dropped(result)]
        lines += [path_line("parcels", p) for p in result.parcels]
        lines.append(Text(f"next: cropgen aggregate SCENES {result.parcels[0]}", "dim"))
    else:
        lines.append(path_line("files", result.folder))
    return lines


def _dropped(result: api.FetchResult) -> list[Text]:
    return [Text(f"{reason}: {parcels.told()}", "yellow") for reason, parcels in result.dropped.items()]


def files_table(files: tuple[api.FetchedFile, ...]) -> Table:
    """The files of a selection: published sizes, rounded ones with a tilde, and what is here."""
    table = plain_table("file", "download", "on disk, bytes", "vouched by", "here", numeric=frozenset({1, 2}))
    for file in files:
        state = "yes" if file.here else f"{count(file.kept)} bytes" if file.kept else "no"
        table.add_row(file.path, _size(file.download_bytes, file.exact), _disk(file), file.vouched, state)
    return table


def _size(size: int | None, exact: bool) -> str:
    if size is None:
        return "unpublished"
    return f"{size:,}" if exact else f"~{size / 1e6:,.0f} MB"


def _disk(file: api.FetchedFile) -> str:
    if file.disk_bytes is not None and file.disk_bytes == file.download_bytes:
        return _size(file.disk_bytes, file.exact)
    return _size(file.disk_bytes, exact=True)


def verify_table(result: api.VerifyResult) -> Table:
    """What is sound and what is not."""
    table = plain_table("data set", "file", "state", "SHA-256 expected", "got")
    for file in result.files:
        table.add_row(file["dataset"], file["path"], file["state"], file["expected"][:16], file["got"][:16])
    return table
