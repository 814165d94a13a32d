"""What the library raises on purpose is of its own types, with a sentence in it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import equilip
from equilip import errors

ROOT = Path(equilip.__file__).parent

#: What may be raised besides, and where: Python's own protocols, the checker's own types, and helpers that make errors.
ELSEWHERE = {
    "AttributeError": "__init__.py",  # what a module's __getattr__ has to raise
    "ArgumentTypeError": "cli",  # what argparse turns into an error of its own
    "Refused": "checker recall.py",
    "Unreadable": "checker",
    "malformed": "checker",
    "ValueError": "rounding.py barrier.py results.py",  # caught by the library itself, never a user's to see
}
MAKERS = {"refuse", "_failure", "explained"}


def own_types() -> set[str]:
    """The types of errors.py, and those that a room derives from them."""
    own = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id in own for b in node.bases):
                own.add(node.name)
    return own


def raised() -> Iterator[tuple[str, int, str, ast.Call]]:
    """File, line, name and call of every ``raise NAME(...)``."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                function = node.exc.func
                name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                yield str(path.relative_to(ROOT)), node.lineno, name, node.exc


def test_every_type_is_one_root_and_explains_itself() -> None:
    for kind in vars(errors).values():
        if inspect.isclass(kind):
            assert issubclass(kind, errors.EquilipError)
            assert kind.__doc__
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.ToleranceError, errors.ConvergenceError)


def test_every_error_is_typed_and_says_something() -> None:
    own, found = own_types(), list(raised())
    assert len(found) > 200
    for file, line, name, call in found:
        where = f"{file}:{line} raises {name}"
        if name in ELSEWHERE:
            assert any(part in file for part in ELSEWHERE[name].split()), where
        elif name == "OSError":
            assert file == "form.py", where  # the same error again, with the file's name in it
        else:
            assert name in own | MAKERS, where
        assert call.args, f"{where} without a message"


def test_a_convergence_error_carries_what_was_reached() -> None:
    with pytest.raises(errors.EquilipError) as caught:
        raise errors.ToleranceError("no further", None)
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.solution is None
