"""The house: imports go down only, heavy libraries are imported where they are used."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from helpers import HEAVY, loaded_by, loaded_by_verb

import pipeline

pytestmark = pytest.mark.unit

HOUSE = Path(pipeline.__file__).parent
# From the roof down. A module may import what is on a lower floor, or in its own part.
FLOORS = (
    ("__main__",),
    ("cli",),
    ("distil",),
    ("evaluate", "estimate", "next_rows", "compare"),
    ("annotated",),
    ("run", "preview", "inspect", "compact", "status", "watch", "schemas"),
    ("glossary",),
    ("readme",),
    ("learn",),
    ("planning",),
    ("verify",),
    ("engine",),
    ("job",),
    ("records",),
    ("tasks",),
    ("models",),
    ("starter",),
    ("lake",),
    ("conditions",),
    ("cache",),
    ("errors", "escape", "moves"),
    ("",),
)
FLOOR = {part: height for height, parts in enumerate(reversed(FLOORS)) for part in parts}
# Within a part, likewise: by what comes after its name. The rest of a part, where it is not named
# at all, stands on `*`.
STEPS = {
    "engine": (("driver",), ("worker",), ("messages", "last_words")),
    "records": (("writer", "reader"), ("outbox", "history"), ("schema",)),
    "tasks": (
        ("",),
        ("chain",),
        ("reading",),
        ("labels",),
        ("answers",),
        ("writing", "spans", "vectors"),
        ("contract", "ties"),
    ),
    "models": (("engines",), ("torch", "onnx"), ("*",)),
    "lake": (
        ("limit", "ingest"),
        ("plan",),
        ("sink",),
        ("source",),
        ("memory", "split", "delta", "iceberg", "at_once"),
        ("store",),
    ),
}
STEP = {
    (part, room): height
    for part, steps in STEPS.items()
    for height, rooms in enumerate(reversed(steps))
    for room in rooms
}
# Modules that are nothing without one of them; only their like imports them when it is imported.
ALLOWED = {
    "engine.driver.ray_actors": {"ray"},
    "engine.worker.actor": {"ray"},
    "learn.train_sentiment": {"torch"},
    "learn.low_rank": {"torch"},
    "learn.measure": {"torch"},
    "learn.train.trainer": {"torch", "transformers"},
    "models.torch.scratch": {"torch", "transformers"},
}
MODULES = {
    ".".join(path.relative_to(HOUSE).with_suffix("").parts).removesuffix("__init__").rstrip("."): (
        path
    )
    for path in sorted(HOUSE.rglob("*.py"))
}


def imports(tree: ast.AST) -> Iterator[str]:
    """Every absolute module name that a piece of code imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            module = node.module or ""
            yield module
            # `from pipeline.starter import catalog` names a module as well.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def at_import(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module is: not in functions, not for annotations alone."""
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(node)
        pending.extend(ast.iter_child_nodes(node))


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def own(names: Iterator[str]) -> set[str]:
    """The modules of ours among the imported names, without the package's own name."""
    ours = {
        name.removeprefix("pipeline").lstrip(".")
        for name in names
        if name.split(".")[0] == "pipeline"
    }
    return {name for name in ours if name in MODULES}


def part(name: str) -> str:
    return name.split(".")[0]


def test_every_part_of_the_house_has_a_floor() -> None:
    assert {part(name) for name in MODULES} <= set(FLOOR)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name: str) -> None:
    here = part(name)
    for other in own(imports(tree_of(name))):
        there = part(other)
        assert there == here or FLOOR[there] < FLOOR[here], f"{name} imports {other}"


def room(name: str) -> str:
    """What of its part a module is in, as `STEPS` has it."""
    inner = name.partition(".")[2].split(".")[0]
    return "*" if (part(name), "*") in STEP and (part(name), inner) not in STEP else inner


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) in STEPS])
def test_imports_go_down_within_a_part_too(name: str) -> None:
    here = room(name)
    if name in STEPS and (name, "") not in STEP:
        return  # an empty __init__
    for other in own(imports(tree_of(name))) - {part(name)}:
        there = room(other)
        if part(other) == part(name) and there != here:
            above, below = STEP[part(name), here], STEP[part(name), there]
            assert below < above, f"{name} imports {other}"


def test_no_module_imports_itself_in_a_circle() -> None:
    # Also what is imported in functions: a circle is one however late it closes.
    needs = {name: own(imports(tree_of(name))) - {name} for name in MODULES}
    # A package's own __init__ runs before its modules, which its table of tasks imports.
    for name in needs:
        needs[name] -= {parent for parent in needs if name.startswith(f"{parent}.")} | {""}
    while needs:
        free = [name for name, wanted in needs.items() if not wanted & needs.keys()]
        assert free, f"these import each other: {sorted(needs)}"
        for name in free:
            del needs[name]


@pytest.mark.parametrize("name", MODULES)
def test_heavy_libraries_are_imported_where_they_are_used(name: str) -> None:
    found = {item.split(".")[0] for item in at_import(tree_of(name))} & HEAVY
    assert found == ALLOWED.get(name, set())


@pytest.mark.parametrize("name", sorted(MODULES.keys() - ALLOWED.keys()))
def test_a_module_that_needs_a_heavy_library_is_imported_where_it_is_used(name: str) -> None:
    assert not own(at_import(tree_of(name))) & ALLOWED.keys()


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) == "tasks"])
def test_a_task_asks_heads_and_no_engine(name: str) -> None:
    named = set(imports(tree_of(name)))
    engines = {"torch", "transformers", "onnxruntime", "pipeline.models.torch"}
    assert not {e for e in engines for i in named if f"{i}.".startswith(f"{e}.")}
    assert "torch" not in MODULES[name].read_text(encoding="utf-8")


def test_an_engines_library_is_known_to_its_folder_alone() -> None:
    known: dict[str, set[str]] = {"torch": set(), "onnxruntime": set()}
    for name in MODULES:
        for item in imports(tree_of(name)):
            if item.split(".")[0] in known:
                known[item.split(".")[0]].add(name)
    assert {name for name in known["onnxruntime"] if not name.startswith("models.onnx.")} == set()
    others = {name for name in known["torch"] if not name.startswith("models.torch.")}
    # What a processor or a GPU can do is asked of torch; what learns is made with it.
    assert {name for name in others if part(name) != "learn"} == {"models.device"}


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) == "cli"])
def test_one_place_alone_writes_so_that_all_is_escaped(name: str) -> None:
    written = {
        ast.unparse(node.func)
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).endswith((".echo", ".secho", "print", ".write"))
    }
    # Tables of rich: their cells are escaped where they are made.
    allowed = {"Console().print", "console.print", "self._console.print"}
    assert written <= ({"click.echo"} if name == "cli.say" else allowed)


@pytest.mark.parametrize("name", MODULES)
def test_a_file_has_at_most_three_hundred_lines(name: str) -> None:
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 300


def test_help_loads_nothing_heavy_and_not_even_arrow() -> None:
    assert loaded_by_verb("--help") & {*HEAVY, "pyarrow", "numpy", "pydantic", "yaml"} == set()


@pytest.mark.parametrize(
    "code", ["import pipeline.job.job", "import pipeline.job.check", "import pipeline.tasks"]
)
def test_checks_load_nothing_heavy(code: str) -> None:
    # The last two only where a condition is read.
    assert loaded_by(code) & {*HEAVY, "polars", "sqlglot"} == set()


def test_what_looks_for_heavy_libraries_can_find_one() -> None:
    assert "torch" in loaded_by("import torch")
