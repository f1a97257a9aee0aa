"""Which of the package's source files decide a result, and their fingerprint.

A module reaches every module of the package that it imports, at its top or inside a function, and what those reach.
What is chosen by name at run time (a model of the catalogue) is not seen: whoever asks names it as a further root.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import cropgen

_ROOT = Path(cropgen.__file__).parent


def code_fingerprint(roots: Iterable[str], *, without: Iterable[str] = ()) -> str:
    """Hex SHA-256 over source files as Python reads them: comments, docstrings and layout do not count.

    Arguments:
        roots: dotted names of modules; what they reach counts.
        without: modules that decide nothing, such as a table of names; they are left out, with what only they reach.
    """
    return _digest(reached(roots, without=without), lambda source: _statements(source.read_text(encoding="utf-8")))


def package_digest() -> str:
    """Hex SHA-256 over every source file of the package as it lies there."""
    return _digest(all_modules(), lambda source: source.read_text(encoding="utf-8"))


def _digest(names: Iterable[str], content: Callable[[Path], str]) -> str:
    digest = hashlib.sha256()
    for source in sorted(map(_file_of, names)):
        digest.update(source.relative_to(_ROOT).as_posix().encode())
        digest.update(content(source).encode())
    return digest.hexdigest()


def all_modules() -> list[str]:
    """Dotted names of every module of the package."""
    return [_name_of(path) for path in sorted(_ROOT.rglob("*.py"))]


def reached(roots: Iterable[str], *, without: Iterable[str] = ()) -> set[str]:
    """The roots and every module of the package that they reach.

    Raises:
        FileNotFoundError: a root is not a module of the package.
    """
    left_out, found = set(without), set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in found or name in left_out:
            continue
        found.add(name)
        waiting += _imports(name)
    return found


@functools.lru_cache(maxsize=1024)
def _statements(text: str) -> str:
    """A source text without comments, docstrings and layout."""
    tree = ast.parse(text)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


@functools.cache
def _imports(name: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_named(ast.parse(_file_of(name).read_text(encoding="utf-8")))))


def _named(tree: ast.Module) -> Iterator[str]:
    """Modules of the package named by the imports of a syntax tree; the packages above them hold no code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            candidates = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (c for c in candidates if c.split(".")[0] == _ROOT.name and _file_of(c).is_file())


def _name_of(path: Path) -> str:
    parts = (_ROOT.name, *path.relative_to(_ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _file_of(name: str) -> Path:
    stem = _ROOT.joinpath(*name.split(".")[1:])
    return stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
