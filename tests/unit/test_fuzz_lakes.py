"""Parquet files of random schemas and bytes: read, refused in a few lines, never a traceback.

``SHARDSCRIBE_FUZZ=2000`` tries five times as many as the suite.
"""

import faulthandler
import os
import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline import check
from pipeline.cli.main import main
from pipeline.engine.annotator import Annotator
from pipeline.engine.work import Receipt
from pipeline.errors import RowError, ShardscribeError
from pipeline.job_file import load_job
from pipeline.models.load import Models
from pipeline.models.resolve import ModelInfo
from pipeline.tasks import TASKS, Annotate, Annotated, Task
from pipeline.tasks.ner import NerOptions

pytestmark = pytest.mark.unit

FILES = int(os.environ.get("SHARDSCRIBE_FUZZ", "400")) // 4
LINES = 5
NAMES = (
    "text", "id", "name", "n", "a b", "", "日本", "\x1b[2J", "x" * 300, "text.a", "_id",
    "TEXT", "a\nb", "\u202e", "__index_level_0__", "element", "list",
)  # fmt: skip
TEXTS = (
    "", " ", "x", "good text", "bad text", "日本 🎬", "a\x00b", "\x1b[2J", "\u202e",
    "long " * 2_000, "\n", "\ufeff", "e\u0301" * 20,
)  # fmt: skip
MOMENTS = (datetime(1, 1, 1), datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))
SIMPLE: tuple[tuple[pa.DataType, Sequence[Any]], ...] = (
    (pa.string(), TEXTS),
    (pa.large_string(), TEXTS),
    (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    (pa.binary(), (b"", b"x", b"\xff\xfe", b"a\x00")),
    (pa.binary(3), (b"abc", b"\xff\xff\xff")),
    (pa.int64(), (0, -1, 2**63 - 1, -(2**63))),
    (pa.uint64(), (0, 2**64 - 1)),
    (pa.int8(), (0, 127, -128)),
    (pa.float64(), (0.0, -0.0, 1.5, float("nan"), float("inf"), 5e-324)),
    (pa.float16(), (0.0, 1.5)),
    (pa.bool_(), (True, False)),
    (pa.null(), (None,)),
    (pa.date32(), (date(1, 1, 1), date(9999, 12, 31))),
    (pa.timestamp("us"), MOMENTS),
    (pa.timestamp("s", tz="UTC"), (datetime(2024, 1, 1, tzinfo=UTC), 2**40)),
    (pa.timestamp("ns"), (0, 1, 2**62)),
    (pa.time64("us"), (0, 1)),
    (pa.duration("s"), (timedelta(0), timedelta(days=10**6))),
    (pa.decimal128(38, 2), (Decimal("0.01"), Decimal("-999999999.99"))),
)
SEEN: list[Any] = []


class Loud(Task[NerOptions]):
    """Makes texts loud, in the place of a model, and fails at what is bad."""

    Options = NerOptions

    def output_type(self) -> pa.DataType:
        return pa.struct([("text", pa.string())])

    def load(self, models: Models) -> Annotate:
        return Louder()


class Louder:
    def annotate(self, texts: Sequence[str]) -> Annotated:
        failures = {row: RowError("no") for row, text in enumerate(texts) if "bad" in text}
        made = [None if row in failures else {"text": t.upper()} for row, t in enumerate(texts)]
        return Annotated(pa.array(made, pa.struct([("text", pa.string())])), failures)


def column(draw: random.Random, rows: int, depth: int = 0) -> pa.Array:
    """A column of any type, with nulls."""
    nulls = draw.choice([0.0, 0.3, 1.0])
    kind = draw.randrange(12) if depth < 3 else 9
    if kind == 0:
        lengths = [draw.randrange(4) for _ in range(rows)]
        inner = column(draw, sum(lengths), depth + 1)
        ends = [sum(lengths[:at]) for at in range(rows + 1)]
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), inner)
    if kind == 1:
        names = draw.sample(NAMES, draw.randrange(1, 4))
        return pa.StructArray.from_arrays([column(draw, rows, depth + 1) for _ in names], names)
    if kind == 2:
        words = [[(draw.choice(TEXTS), draw.randrange(9))] for _ in range(rows)]
        return pa.array(words, pa.map_(pa.string(), pa.int64()))
    if kind == 3:  # text that is none
        raw = [draw.choice([b"ok", b"\xff", b"bad \x80", "é".encode()]) for _ in range(rows)]
        return pa.array(raw, pa.binary()).view(pa.string())
    dtype, values = draw.choice(SIMPLE[:3] if kind > 8 else SIMPLE)
    picked = [None if draw.random() < nulls else draw.choice(values) for _ in range(rows)]
    return pa.array(picked, dtype)


def file_bytes(draw: random.Random, path: Path) -> None:
    """A Parquet file, of which bytes may be wrong."""
    rows = draw.choice([0, 1, 2, 7, 30])
    names = ["text", *draw.choices(NAMES, k=draw.randrange(5))]
    if draw.random() < 0.1:
        names = names[1:]
    if draw.random() < 0.1:
        names.append(draw.choice(["errors", "loud"]))
    if draw.random() < 0.9:
        names = list(dict.fromkeys(names))
    draw.shuffle(names)
    columns = [
        column(draw, rows, 3 if name == "text" and draw.random() < 0.8 else 0) for name in names
    ]
    table = pa.Table.from_arrays(columns, names)
    pq.write_table(
        table,
        path,
        row_group_size=draw.choice([1, 3, 1_000]),
        compression=draw.choice(["none", "snappy", "zstd", "gzip"]),
        use_dictionary=draw.choice([True, False]),
        data_page_version=draw.choice(["1.0", "2.0"]),
        version="2.6",
        store_schema=draw.choice([True, True, False]),
    )
    raw = bytearray(path.read_bytes())
    match draw.randrange(12):
        case 0:
            del raw[draw.randrange(len(raw)) :]
        case 1 | 2:
            for _ in range(draw.choice([1, 3, 20])):
                raw[draw.randrange(len(raw))] = draw.randrange(256)
        case 3:
            at = draw.randrange(len(raw))
            raw[at:at] = draw.randbytes(draw.choice([1, 100]))
        case 4:
            raw = bytearray(draw.choice([b"", b"PAR1", b"PAR1PAR1", draw.randbytes(50)]))
    path.write_bytes(raw)


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
    file_bytes(random.Random(seed), here / "in/a.parquet")
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
    annotator = Annotator(pinned.work(device="cpu", threads=1))
    (answer,) = annotator.annotate_all(pinned.splits())
    done = isinstance(answer, Receipt)
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
        patch.setattr(check, "look_up", lambda name: ModelInfo(name, {}, commit="c"))
        # Says where it stands, should it stand still.
        faulthandler.dump_traceback_later(120)
        annotate(tmp_path_factory.mktemp("lake"), seed)
        faulthandler.cancel_dump_traceback_later()


def test_many_of_those_files_were_annotated_and_some_failed() -> None:
    assert SEEN.count(True) > FILES // 5
    assert False in SEEN
