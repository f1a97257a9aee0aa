"""Fits for the tests of engines; a module of its own because other processes import it."""

from __future__ import annotations

import os
import signal

from cropgen.core.errors import DataError
from cropgen.training.fit import fit_model


def deadly(name, settings, spec, data, **how):
    """As `fit_model`, but 7 trees end the process and 8 trees fail."""
    if settings.get("trees") == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    if settings.get("trees") == 8:
        raise DataError("8 trees are too many", hint="plant fewer")
    return fit_model(name, settings, spec, data, **how)
