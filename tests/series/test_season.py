from __future__ import annotations

import numpy as np
import pytest

from cropgen.core.errors import UsageError
from cropgen.series.season import SeasonEnd


def last(text: str, *years: int) -> list[str]:
    return SeasonEnd.parse(text).last_day(np.array(years)).astype("datetime64[D]").astype(str).tolist()


def test_days_of_the_year_and_days_after_its_first():
    assert last("06-30", 2020, 2021) == ["2020-06-30", "2021-06-30"]
    assert last("02-29", 2020, 2021) == ["2020-02-29", "2021-03-01"]
    assert last("0", 2021) == ["2021-01-01"]
    assert last("59", 2020, 2021) == ["2020-02-29", "2021-03-01"]
    assert last("-31", 2021) == ["2020-12-01"]


@pytest.mark.parametrize("text", ["060", "1.5", "June", "", "--3", "13-01"])
def test_what_is_neither_is_refused(text):
    with pytest.raises(UsageError, match="expected a day as MM-DD or days after 1 January"):
        SeasonEnd.parse(text)
