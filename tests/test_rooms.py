"""The house of CONTRIBUTING.md: imports only go down."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "equilip"

#: From the top to the bottom; those of one line may know each other.
ROOMS = [
    {"cli", "__main__"},
    {"compare", "paper", "estimators"},
    {"report"},
    {"train", "attack", "interop", "data"},
    {"certify"},
    {"nn"},
    {"solve"},
    {"form", "wiring", "contracting", "tiered", "chain", "links"},
    {"operators"},
    {"activations", "norms", "rounding"},
    {"errors"},
    {"checker"},
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def known(tree: ast.AST) -> Iterator[str]:
    """The rooms that a module imports when it runs."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module == "equilip":
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("equilip."):
            yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("equilip."))
        else:
            yield from known(node)


def test_every_room_has_a_place() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set(LEVEL)


def test_imports_only_go_down() -> None:
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if room == "__init__":
            continue
        for other in known(ast.parse(path.read_text())):
            assert LEVEL.get(other, len(ROOMS)) >= LEVEL[room], f"{path} knows {other}, which is above it"


def test_the_checker_stands_alone() -> None:
    for path in (SOURCE / "checker").glob("*.py"):
        assert set(known(ast.parse(path.read_text()))) <= {"checker"}, path
