"""Fixtures of the imagery tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.imagery.scene_files import write_date


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Path]:
    """Writes dates under one folder and returns it."""

    def write(dates: Mapping[str, Mapping[str, np.ndarray]], **options: object) -> Path:
        for date, bands in dates.items():
            write_date(tmp_path / "scenes" / date, bands, **options)
        return tmp_path / "scenes"

    return write
