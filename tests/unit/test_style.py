"""Lint, types and what tests may not do are part of the tests."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]],
    ids=["lint", "format", "types"],
)
def test_the_code_is_clean(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# What another machine, or a busy one, does in another time.
CLOCKS = re.compile(r"\b(perf_counter|monotonic|process_time|getrusage|timeit)\(")
SHORT = re.compile(r"timeout=\d|\.(wait|join)\(\d")
# It waits for what should happen, and gives up on what hangs.
WAITS = {"helpers.py"}


@pytest.mark.parametrize("pattern", [CLOCKS, SHORT], ids=["clock", "deadline"])
def test_no_test_judges_a_time_or_gives_up_on_a_slow_machine(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / "tests").rglob("*.py"))
        if path.name not in WAITS and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == [], "use helpers.wait_for and helpers.PATIENCE; times are for benchmarks/"
