"""The command line: parse, one call of `cropgen.api`, render.

`main` turns what goes wrong into one line and an exit code (see `cropgen.core.errors`), and lets the global options
stand before or after the verb.
"""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cropgen import __version__
from cropgen.cli import (
    aggregate,
    bench,
    demo,
    doctor,
    evaluate,
    fetch,
    import_,
    info,
    models,
    predict,
    report,
    sample,
    train,
    transform,
)
from cropgen.cli.session import DOCUMENT_VERSION, Session
from cropgen.core.cores import share_out
from cropgen.core.errors import CropgenError, UsageError
from cropgen.core.paths import Workspace

EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
_FLAGS = {"--json", "-q", "--quiet", "-v", "--verbose"}

app = typer.Typer(
    name="cropgen",
    help="Tell which crop grows on every parcel from Sentinel-2 time series, with deep generative classifiers.",
    epilog="Global options stand before or after the verb. Start with: cropgen demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    demo, fetch, aggregate, import_, transform, train, predict, sample,
    evaluate, report, models, info, doctor, bench,
):  # fmt: skip
    module.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"cropgen {__version__}\n")
        raise typer.Exit


@app.callback()
def _globals(
    context: typer.Context,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            metavar="DIR",
            envvar="CROPGEN_WORKSPACE",
            help="Folder with data/, runs/, predictions/, reports/. Default: the current one.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    quiet: Annotated[int, typer.Option("--quiet", "-q", count=True, help="Say less.")] = 0,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="Say more.")] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    context.obj = Session(Workspace(workspace or Path.cwd()), as_json=as_json, quiet=quiet, verbose=verbose)


def hoist_globals(arguments: list[str]) -> list[str]:
    """Move the global options to the front, so that they may stand after the verb too; stops at `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments[:end])
    for word in waiting:
        stacked = len(word) > 2 and word[0] == "-" and set(word[1:]) <= {"v", "q"}
        if word in _FLAGS or stacked or word.startswith("--workspace="):
            front.append(word)
        elif word == "--workspace":
            front += [word, *([value] if (value := next(waiting, None)) is not None else [])]
        else:
            rest.append(word)
    return front + rest + arguments[end:]


def _fail(error: CropgenError, *, as_json: bool) -> int:
    if as_json:
        detail = {"message": error.message, "hint": error.hint, "kind": type(error).__name__, "exit": error.exit_code}
        sys.stdout.write(json.dumps({"cropgen": DOCUMENT_VERSION, "error": detail}, indent=1) + "\n")
    sys.stderr.write(f"error: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"hint: {error.hint}\n")
    return error.exit_code


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    as_json = "--json" in arguments
    try:
        outcome = app(hoist_globals(arguments), standalone_mode=False, prog_name="cropgen")
    except CropgenError as error:
        return _fail(error, as_json=as_json)
    except typer.Abort:
        outcome = EXIT_INTERRUPTED
    except typer.TyperException as error:
        said, context = error.format_message(), getattr(error, "ctx", None)
        hint = f"{context.command_path if context else 'cropgen'} --help"
        return _fail(UsageError(said, hint=hint), as_json=as_json) if said else UsageError.exit_code
    except KeyboardInterrupt:
        outcome = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE_CLOSED
    except MemoryError:
        hint = "close other programs, or do less at a time: fewer parcels, years, regions or jobs"
        return _fail(CropgenError("out of memory", hint=hint), as_json=as_json)
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        return _fail(
            CropgenError(f"{error.strerror or error}{where}", hint="check space and permissions"), as_json=as_json
        )
    if outcome == EXIT_INTERRUPTED:
        sys.stderr.write("interrupted; what was finished is kept\n")
    return outcome if isinstance(outcome, int) else 0


def main() -> None:
    """The console script."""
    share_out(os.environ)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
