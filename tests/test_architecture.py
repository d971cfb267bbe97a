"""The rooms: a file imports only what docs/architecture.md lists above it, and the library imports no program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_stack

ROOT = Path(__file__).parents[1]
ROOMS = ("dvt_tf", "training", "app")


def listed() -> dict[str, int]:
    """Modules such as `training.cells` -> their places in the list; of a package in a room, as `dvt_tf.layers`, one."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("```")[1]
    places: dict[str, int] = {}
    room = ""
    for line in text.splitlines():
        if line and not line.startswith(" "):
            room = line.split("/")[0]
        for name in re.findall(r"(\w+)(?:\.py|/ )", line):
            places.setdefault(f"{room}.{name}", len(places))
    return places


def imports(path: Path) -> Iterator[str]:
    """What a file imports as it is imported itself, from the project."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ROOMS:
            if node.module in ROOMS:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_file_imports_only_what_is_listed_above_it(room: str) -> None:
    places = listed()
    for path in sorted((ROOT / room).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts[:2])
        if path.name in ("__init__.py", "__main__.py"):
            continue
        assert module in places, f"docs/architecture.md does not list {module}"
        for imported in imports(path):
            assert ROOMS.index(imported.split(".")[0]) <= ROOMS.index(room), f"{path} imports {imported}"
            other = ".".join(imported.split(".")[:2])
            if other != module and other in places:
                assert places[other] < places[module], f"docs/architecture.md lists {module} above {other}"
