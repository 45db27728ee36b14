"""What `shardscribe tasks` tells, of each kind that there is."""

import pytest
from click.testing import CliRunner, Result
from helpers import HEAVY, loaded_by_verb

from pipeline.cli.main import main
from pipeline.tasks import TASKS

pytestmark = pytest.mark.unit


def told(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["tasks", *arguments])


def test_every_kind_is_listed_with_a_line() -> None:
    done = told()
    assert done.exit_code == 0
    lines = {line.split()[0]: line for line in done.output.splitlines()}
    assert TASKS.keys() <= lines.keys()
    assert all(len(lines[kind]) < 100 for kind in TASKS)


@pytest.mark.parametrize("kind", TASKS)
def test_a_kind_is_told_with_all_its_options(kind: str) -> None:
    done = told(kind)
    assert done.exit_code == 0
    for name in TASKS[kind].Options.model_fields:
        assert name == "kind" or f"\n  {name}: " in done.output
    assert TASKS[kind].needs in done.output
    assert max(map(len, done.output.splitlines())) < 140


def test_a_kind_that_is_not_there_is_answered_with_the_likely_one() -> None:
    done = told("keyword")
    assert done.exit_code == 2
    assert "Name `keywords`" in done.output


def test_nothing_heavy_is_loaded_for_it() -> None:
    assert loaded_by_verb("tasks", "classify") & HEAVY == set()
