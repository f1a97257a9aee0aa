"""What a model, or a member of a pool, is given beside the bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cropgen.models.catalog import find


def reads_pixel_sets(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a model, or a member of a pool, looks at pixel sets.

    Raises:
        UsageError: there is no such model.
    """
    entry = find(name)
    members = [options[role] for role in ("generative", "discriminative") if role in options]
    return entry.pixel_sets or (entry.family == "pool" and any(reads_pixel_sets(str(m), {}) for m in members))


def reads_site(name: str, options: Mapping[str, Any]) -> bool:
    """Whether a model, or the generative member of a pool, takes site covariates.

    Raises:
        UsageError: there is no such model.
    """
    entry = find(name)
    if entry.family != "pool":
        return entry.family == "dvae"
    return "generative" in options and reads_site(str(options["generative"]), {})
