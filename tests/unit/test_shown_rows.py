"""`show` and `preview`: which rows, which columns, of what."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

from pipeline.cli.main import main
from pipeline.errors import RowError
from pipeline.lake.sink.footers import FOOTER_KEY
from pipeline.models.resolve import ModelInfo
from pipeline.models.torch.load import TorchModels
from pipeline.preview import Wanted, output_rows
from pipeline.tasks import TASKS, Annotate, Annotated, Task
from pipeline.tasks.spans.ner import NerOptions

pytestmark = pytest.mark.unit

ERROR = {"task": "loud", "code": "model_error", "message": "no"}
SEEN: list[str] = []


class Loud(Task[NerOptions]):
    """Makes texts loud, in the place of a model, and fails at what is bad."""

    Options = NerOptions

    def output_type(self) -> pa.DataType:
        return pa.struct([("text", pa.string()), ("size", pa.int64())])

    def load(self, models: TorchModels) -> Annotate:
        return Louder(self.output_type())


class Louder:
    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind

    def annotate(self, texts: Sequence[str]) -> Annotated:
        SEEN.extend(texts)
        failures = {row: RowError("no") for row, text in enumerate(texts) if "bad" in text}
        made = [
            None if row in failures else {"text": text.upper(), "size": len(text)}
            for row, text in enumerate(texts)
        ]
        return Annotated(pa.array(made, self.kind), failures)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A job over two files of 100 texts, of which each tenth is bad."""
    SEEN.clear()
    monkeypatch.setitem(TASKS, "ner", Loud)
    monkeypatch.setattr(
        "pipeline.job.check.look_up", lambda name, **_: ModelInfo(name, {}, commit="c")
    )
    lake = tmp_path / "lake"
    lake.mkdir()
    for file in range(2):
        ids = range(100 * file, 100 * file + 100)
        texts = [f"{'bad' if n % 10 == 9 else 'good'} text {n}" for n in ids]
        pq.write_table(pa.table({"id": ids, "text": texts}), lake / f"{file}.parquet")

    def made(**fields: Any) -> Path:
        content = {
            "name": "loud",
            "input": {"path": str(lake), **fields.pop("input", {})},
            "output": {"path": str(tmp_path / "out")},
            "tasks": {"loud": {"kind": "ner", "model": "none"}},
            "compute": {"cpus_per_worker": 1, "device": "cpu"},
            **fields,
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return made


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An output as a run leaves it, of three files, one without a bad row."""
    out = tmp_path / "out"
    for file in range(3):
        ids = range(10 * file, 10 * file + 10)
        bad = [n for n in ids if n % 4 == 3] if file else []
        table = pa.table(
            {
                "id": ids,
                "text": [f"text {n}" for n in ids],
                "loud": [None if n in bad else {"text": f"TEXT {n}", "size": n} for n in ids],
                "errors": pa.array(
                    [[ERROR] if n in bad else None for n in ids],
                    pa.list_(pa.struct([(name, pa.string()) for name in ERROR])),
                ),
            }
        )
        footer = {"fingerprint_parts": {"tasks": {"loud": {}}}, "rows": {"bad": len(bad)}}
        metadata = {FOOTER_KEY: json.dumps(footer).encode()}
        (out / f"day={file}").mkdir(parents=True)
        pq.write_table(table.replace_schema_metadata(metadata), out / f"day={file}/x.parquet")
    return out


def run(*arguments: object) -> Result:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done


def rows(*arguments: object) -> list[dict[str, Any]]:
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_show_takes_a_job_a_directory_or_a_file(job, out: Path) -> None:
    for where in (job(), out, f"{out}/"):
        assert [row["id"] for row in rows("show", where, "-n", 12)] == list(range(12))
    assert [row["id"] for row in rows("show", out / "day=1/x.parquet")] == [10, 11, 12, 13, 14]


def test_a_job_file_is_known_by_what_it_is_not_by_its_ending(job, out: Path) -> None:
    plain = job().rename(out.parent / "job")
    for verb in ("show", "status"):
        assert run(verb, plain).exit_code == 0
    assert "3 files" in run("status", out).stdout


def test_show_of_a_directory_shows_the_text_what_was_made_of_it_and_errors(out: Path) -> None:
    head = run("show", out, "-n", 1).stdout.splitlines()[1]
    assert [name.strip() for name in head.strip("┃").split("┃")] == ["text", "loud", "errors"]


def test_show_of_other_parquet_shows_all_columns(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "any/a.parquet")
    head = run("show", tmp_path / "any").stdout.splitlines()[1]
    assert [name.strip() for name in head.strip("┃").split("┃")] == ["a", "b"]


def test_show_finds_the_rows_that_a_condition_holds_for(out: Path) -> None:
    found = rows("show", out, "--where", "loud.size >= 8 AND id < 20")
    assert [row["id"] for row in found] == [8, 9, 10, 12, 13]
    assert rows("show", out, "--where", "id = 29") == rows("show", out, "-n", 100)[-1:]


def test_show_finds_bad_rows_wherever_they_are(out: Path) -> None:
    found = rows("show", out, "--bad")
    assert [row["id"] for row in found] == [11, 15, 19, 23, 27]
    assert all(row["errors"] == [ERROR] for row in found)
    assert [row["id"] for row in rows("show", out, "--bad", "--where", "id > 15")] == [19, 23, 27]


def test_columns_are_those_that_are_named_in_that_order(out: Path) -> None:
    found = rows("show", out, "--columns", "loud, id", "--columns", "id", "-n", 2)
    assert [list(row) for row in found] == [["loud", "id"]] * 2
    # What decides needs not be shown.
    assert rows("show", out, "--bad", "--columns", "id", "-n", 1) == [{"id": 11}]
    assert rows("show", out, "--where", "text = 'text 7'", "--columns", "id") == [{"id": 7}]
    table = run("show", out, "--columns", "id", "-n", 1).stdout
    assert "text" not in table


def test_fewer_rows_than_asked_for_are_counted(out: Path) -> None:
    done = run("show", out, "--where", "id > 28")
    assert done.stderr == "1 such rows among 30\n"
    done = run("show", out, "--where", "id > 99")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "0 such rows among 30\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--columns", "lout"], "--columns: there is no column `lout`; there are id, text, loud"),
        (["--columns", "lout"], "Name `loud`"),
        (["--where", "nosuch > 1"], "nosuch"),
        (["--where", "loud.nosuch > 1"], "nosuch"),
        (["--where", "id +"], "condition"),
        (["--where", "id"], "true or false"),
        (["--where", "id in (select 1)"], "condition"),
        (["--where", "x = '\ud800'"], "half a character"),
        (["--where", ""], "condition"),
    ],
)
def test_what_is_wrong_with_the_choice_of_rows_is_told_in_a_line(
    job, out: Path, options: list[str], said: str
) -> None:
    for verb, where in (("show", out), ("show", job()), ("preview", job())):
        done = run(verb, where, *options)
        assert done.exit_code == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not SEEN, "it is told before anything is annotated"


def test_bad_rows_of_parquet_without_errors_are_not_guessed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    done = run("show", tmp_path, "--bad")
    assert (done.exit_code, "there is no column `errors`" in done.stderr) == (2, True)


def test_show_reads_no_more_rows_than_it_shows(out: Path) -> None:
    assert output_rows(str(out), Wanted(rows=3)).looked_at == 3


def test_show_takes_a_pattern_and_a_directory_named_like_one(out: Path, tmp_path: Path) -> None:
    assert len(rows("show", out / "day=0/*.parquet", "-n", 3)) == 3
    shutil.copytree(out, tmp_path / "out [old]")
    assert len(rows("show", tmp_path / "out [old]", "-n", 3)) == 3


def test_a_broken_file_is_named(out: Path) -> None:
    (out / "day=0/x.parquet").write_bytes(b"PAR1 nothing PAR1")
    done = run("show", out)
    assert done.exit_code == 1
    assert "day=0/x.parquet is not a readable Parquet file" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("there", [True, False])
def test_an_output_without_files_is_told(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "none").mkdir()
    done = run("show", tmp_path / "none")
    assert (done.exit_code, "holds no annotated rows yet" in done.stderr) == (2, True)


def test_preview_annotates_as_many_rows_as_it_shows(job) -> None:
    assert [row["id"] for row in rows("preview", job(), "-n", 3)] == [0, 1, 2]
    assert [f"good text {n}" for n in range(3)] == SEEN


def test_preview_asks_a_condition_on_the_input_before_it_annotates(job) -> None:
    found = rows("preview", job(), "--where", "id >= 98 AND id <= 101")
    assert [row["id"] for row in found] == [98, 99, 100, 101]
    assert len(SEEN) == 4


def test_preview_looks_for_what_tasks_give(job) -> None:
    found = rows("preview", job(), "--where", "loud.text = 'GOOD TEXT 120'")
    assert [row["id"] for row in found] == [120]
    assert len(SEEN) == 200


def test_preview_finds_bad_rows(job) -> None:
    assert [row["id"] for row in rows("preview", job(), "--bad", "-n", 2)] == [9, 19]
    assert len(SEEN) == 32, "no more than it takes"


def test_preview_looks_at_a_thousand_rows_and_says_so(job, tmp_path: Path) -> None:
    texts = [f"text {n}" for n in range(3_000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "lake/0.parquet")
    (tmp_path / "lake/1.parquet").unlink()
    done = run("preview", job(), "--bad")
    assert (done.exit_code, done.stderr) == (0, "0 such rows among the first 1,024\n")


def test_preview_of_a_text_that_the_output_leaves_out_shows_the_rest(job) -> None:
    file = job(input={"columns": ["id"]})
    assert [list(row) for row in rows("preview", file, "-n", 1)] == [["id", "loud", "errors"]]
    head = run("preview", file, "-n", 1).stdout.splitlines()[1]
    assert [name.strip() for name in head.strip("┃").split("┃")] == ["id", "loud", "errors"]
    assert [row["id"] for row in rows("preview", file, "--where", "text = 'good text 5'")] == [5]


def test_preview_of_an_input_without_rows_says_so(job, tmp_path: Path) -> None:
    for file in range(2):
        pq.write_table(
            pa.table({"text": pa.array([], pa.string())}), tmp_path / f"lake/{file}.parquet"
        )
    done = run("preview", job())
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "0 such rows among 0\n")


def test_files_whose_columns_differ_are_shown_all_the_same(job, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "id": ["x"]}), tmp_path / "lake/0.parquet")
    assert [row["id"] for row in rows("preview", job(), "-n", 3)] == ["x", 100, 101]


def test_status_says_what_differs_when_the_output_is_of_another_job(job, out: Path) -> None:
    said = run("status", job(), "--set", "tasks.loud.aggregation=max").stdout
    (line,) = [line for line in said.splitlines() if line.startswith("other")]
    assert "3 of the files are of a job that gives other results" in line
    assert "tasks.loud.aggregation was not set, is max" in line
    assert "run --supersede" in line
    assert "other" not in run("status", out).stdout
