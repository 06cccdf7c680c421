"""Which files of this package a module needs to be imported somewhere else, as they are."""

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "serengeti_etl"
ROOT = Path(__file__).parents[2]
"""Folder that the package lies in."""


def needed_files(module: str) -> dict[str, Path]:
    """Every file that importing ``module`` reads, by its name in a zip; and nothing else.

    Imports inside functions are not followed: what is imported only when it is used is not needed
    by those who do not use it.

    Args:
        module: such as ``serengeti_etl.submit.runtime``.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file_of(name)
        key = path.relative_to(ROOT).as_posix()
        if key not in found:
            found[key] = path
            waiting += imported(path)
            waiting += [name.rpartition(".")[0]] * ("." in name)
    return dict(sorted(found.items()))


def imported(path: Path) -> list[str]:
    """The modules of this package that a file imports when it is imported itself."""
    names = []
    for node in _executed(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.append(node.module)
            # What is taken from a package may be one of its modules.
            names += [
                one for alias in node.names if _is_module(one := f"{node.module}.{alias.name}")
            ]
    return [name for name in names if name.partition(".")[0] == PACKAGE]


def _executed(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run on import, but for those of classes, which import nothing here."""
    for node in body:
        yield node
        if isinstance(node, ast.If) and ast.unparse(node.test) != "TYPE_CHECKING":
            yield from _executed([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handled = [one for handler in node.handlers for one in handler.body]
            yield from _executed([*node.body, *handled, *node.orelse, *node.finalbody])


def _is_module(name: str) -> bool:
    return _file_of(name).is_file()


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
