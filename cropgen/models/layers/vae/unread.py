"""Options that a choice of other options leaves without a reader."""

from __future__ import annotations

from pydantic import BaseModel


def refuse_unread(options: BaseModel, where: str, *names: str) -> None:
    """Refuse options that are not at their defaults where nothing reads them.

    Arguments:
        where: what leaves them unread, such as "with latent_kind=none".
        names: of the options.

    Raises:
        ValueError: one of them was changed; pydantic turns it into the complaint of the whole document.
    """
    defaults = {name: type(options).model_fields[name].default for name in names}
    changed = {name: value for name, value in defaults.items() if getattr(options, name) != value}
    if changed:
        kept = ", ".join(f"{name}={value}" for name, value in changed.items())
        raise ValueError(f"{', '.join(changed)} would change nothing {where}: leave {kept}")
