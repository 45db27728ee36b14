"""The glossary in CONTRIBUTING.md: the classes that cross a room, in their own words."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.readme import made_anew

BEGIN = "<!-- glossary: made from docstrings by `python -m pipeline.schemas` -->"
END = "<!-- /glossary -->"
PACKAGE = "pipeline"


@dataclass(frozen=True, order=True)
class Word:
    """A public class.

    Attributes:
        room: The directory it stands in, relative to the package; the file, if that is the top.
        name: What it is called.
        meaning: The first line of its docstring.
        module: Where it is made, such as ``lake.store.base``.
    """

    room: str
    name: str
    meaning: str
    module: str


def words(house: Path) -> list[Word]:
    """All public classes of a package, from one room after the other."""
    return sorted(word for module, path in _modules(house).items() for word in _in(module, path))


def crossing(house: Path) -> list[Word]:
    """Those that another room imports, at its top or where it needs them."""
    known = {(word.module, word.name): word for word in words(house)}
    imported = {
        module: set(_imported(ast.parse(path.read_text(encoding="utf-8"))))
        for module, path in _modules(house).items()
    }
    # What a package itself imports may be imported from it.
    for package, names in imported.items():
        if package.endswith(".__init__"):
            for source, name in names:
                if (source, name) in known:
                    known[package.removesuffix(".__init__"), name] = known[source, name]
    found = {
        known[name]
        for module, names in imported.items()
        for name in names & known.keys()
        if _room(known[name].module) != _room(module)
    }
    return sorted(found)


def with_glossary(text: str, *, house: Path) -> str:
    """CONTRIBUTING.md with the glossary between its two marks made anew.

    Raises:
        ValueError: It has no such marks.
    """
    rows = [f"| `{word.name}` | `{word.room}` | {word.meaning} |" for word in crossing(house)]
    table = "\n".join(["| class | in | what it is |", "|---|---|---|", *rows])
    return made_anew(text, begin=BEGIN, end=END, middle=table)


def _modules(house: Path) -> Mapping[str, Path]:
    return {
        ".".join(path.relative_to(house).with_suffix("").parts): path
        for path in sorted(house.rglob("*.py"))
    }


def _room(module: str) -> str:
    """Top-level modules share a room."""
    return module.rpartition(".")[0].replace(".", "/")


def _in(module: str, path: Path) -> Iterator[Word]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            room = f"{_room(module)}/" if _room(module) else f"{module}.py"
            meaning = (ast.get_docstring(node) or "").partition("\n")[0].replace("``", "`")
            yield Word(room, node.name, meaning, module)


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Module and name of all that is imported from the package by name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            package, _, module = node.module.partition(".")
            if package == PACKAGE:
                yield from ((module, alias.name) for alias in node.names)
