"""Parquet files of random schemas and bytes: read, refused in a few lines, never a traceback.

``SHARDSCRIBE_FUZZ=2000`` tries 500.
"""

import faulthandler
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_files import write_random_file

from pipeline.cli.main import main
from pipeline.engine.messages import SplitResult, WorkPlan
from pipeline.engine.worker.annotator import Annotator
from pipeline.errors import RowError, ShardscribeError
from pipeline.job import check
from pipeline.job.file import load_job
from pipeline.models.resolve import ModelInfo
from pipeline.models.torch.load import TorchModels
from pipeline.tasks import TASKS, Annotate, Annotated, Task
from pipeline.tasks.spans.ner import NerOptions

pytestmark = pytest.mark.unit

FILES = int(os.environ.get("SHARDSCRIBE_FUZZ", "400")) // 4
LINES = 5
SEEN: list[Any] = []


class Loud(Task[NerOptions]):
    """Makes texts loud, in the place of a model, and fails at what is bad."""

    Options = NerOptions

    def output_type(self) -> pa.DataType:
        return pa.struct([("text", pa.string())])

    def load(self, models: TorchModels) -> Annotate:
        return Louder()


class Louder:
    def annotate(self, texts: Sequence[str]) -> Annotated:
        failures = {row: RowError("no") for row, text in enumerate(texts) if "bad" in text}
        made = [None if row in failures else {"text": t.upper()} for row, t in enumerate(texts)]
        return Annotated(pa.array(made, pa.struct([("text", pa.string())])), failures)


def command(*arguments: str, codes: Sequence[int]) -> Result:
    """Runs a verb, which has to end as it should."""
    done = CliRunner().invoke(main, list(arguments))
    said = f"{arguments}: {done.output[-800:]}"
    assert done.exception is None or isinstance(done.exception, SystemExit), said
    assert done.exit_code in codes, said
    assert "not foreseen" not in done.output, said
    assert "Traceback" not in done.output, said
    assert len(done.stderr.splitlines()) <= LINES, said
    assert not set(done.output) & {"\x1b", "\u202e", "\x00"}, said
    return done


def annotate(here: Path, seed: int) -> None:
    """Goes with a random file through every verb, but for Ray."""
    (here / "in").mkdir()
    write_random_file(random.Random(seed), here / "in/a.parquet")
    job = {
        "name": "x",
        "input": {"path": str(here / "in")},
        "output": {"path": str(here / "out")},
        "tasks": {"loud": {"kind": "ner", "model": "none"}},
        "compute": {"device": "cpu", "cpus_per_worker": 1},
        "limits": {"bad_rows": 1_000},
    }
    (here / "job.yaml").write_text(yaml.safe_dump(job))
    name = str(here / "job.yaml")
    if command("validate", name, codes=[0, 2]).exit_code:
        return
    command("preview", name, "--json", codes=[0, 1])
    command("preview", name, codes=[0, 1])
    pinned = check.pin(check.check(load_job(name)))
    annotator = Annotator(WorkPlan.of(pinned, device="cpu", threads=1))
    (answer,) = annotator.annotate_all(pinned.splits())
    done = isinstance(answer, SplitResult)
    assert done or isinstance(answer, ShardscribeError), answer
    SEEN.append(done)
    command("verify", name, codes=[0] if done else [1])
    command("status", name, codes=[0])
    command("show", str(here / "out"), "--json", codes=[0] if done else [2])
    command("show", name, codes=[0] if done else [2])


@settings(
    max_examples=FILES,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(seed=st.integers(0, 2**32 - 1))
def test_any_parquet_is_annotated_or_refused_in_a_few_lines(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "ner", Loud)
        patch.setattr(check, "look_up", lambda name, **_: ModelInfo(name, {}, commit="c"))
        # Says where it stands, should it stand still.
        faulthandler.dump_traceback_later(120)
        annotate(tmp_path_factory.mktemp("lake"), seed)
        faulthandler.cancel_dump_traceback_later()


def test_many_of_those_files_were_annotated_and_some_failed() -> None:
    assert SEEN.count(True) > FILES // 5
    assert False in SEEN
