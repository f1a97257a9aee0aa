"""What is asked of several verbs, checked before anything is read."""

from __future__ import annotations

from pathlib import PurePath

from cropgen.core.errors import UsageError
from cropgen.series.season import SeasonEnd

_YEARS = range(1000, 10_000)
_MOST_DAYS = 3660


def require_year(year: object) -> None:
    """Refuse a number that is no harvest year; None and names of columns pass.

    Raises:
        UsageError: it has not four digits.
    """
    if isinstance(year, int) and year not in _YEARS:
        raise UsageError(f"--year: expected a year of four digits, got {year}", hint="for example --year 2024")


def require_name(name: str | None) -> None:
    """Refuse a name of a run or data set that is a path: it would lie where nothing looks for it.

    Raises:
        UsageError: it has several parts, or is a dot or two.
    """
    if name is not None and (PurePath(name).name != name or name == ".."):
        raise UsageError(
            f"--name: expected a name without folders, got {name!r}", hint="for example --name region-2024"
        )


def require_until(text: str) -> None:
    """Refuse what is no end of a season.

    Raises:
        UsageError: it is neither `MM-DD` nor a number of days after 1 January, or years away from it.
    """
    if abs(SeasonEnd.parse(text).later) > _MOST_DAYS:
        raise UsageError(
            f"--until: expected MM-DD or at most {_MOST_DAYS} days after 1 January, got {text}",
            hint="for example --until 06-30",
        )
