"""The main job, from Parquet to annotated Parquet, on real models and a real Ray cluster."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import CLASSIFY, GIST, NER, own, rows_of

from pipeline.job.file import load_job
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.store.open import open_store
from pipeline.planning import Choices
from pipeline.records.reader import read_events, read_history
from pipeline.run import run_job

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]


def write(path, rows, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": list(range(len(rows))), "text": rows, **columns}), path)


def test_every_row_is_annotated_once_and_the_numbers_add_up(reviews, make_job, display, tmp_path):
    job = make_job(reviews, tasks={"sentiment": CLASSIFY, "pii": NER, "gist": GIST})
    summary = run_job(job, display=display)
    assert (summary.state, summary.exit_code) == ("done", 0)
    assert summary.splits.model_dump() == {
        "total": 4, "done_before": 0, "done": 4, "failed": 0, "left": 0,
    }  # fmt: skip
    rows = summary.rows
    assert rows.rows == 120 == rows.annotated + rows.bad + rows.skipped
    assert summary.tokens > 0
    assert 0 < summary.device_share <= 1
    assert 0 <= summary.padding_share < 0.5  # 30 rows of all lengths: little to choose from
    assert display.shares == sorted(display.shares)

    given, found = rows_of(reviews), rows_of(tmp_path / "annotated")
    carried = [{key: row[key] for key in given[0]} for row in found]
    assert carried == given
    for row in found:
        assert row["sentiment"]["label"] in ("negative", "positive")
        assert abs(sum(s["score"] for s in row["sentiment"]["scores"]) - 1) < 1e-5
        assert row["gist"]["text"]
        assert row["errors"] is None
        for entity in row["pii"]:
            assert row["text"][entity["start"] : entity["end"]] == entity["text"]


def test_the_output_has_the_declared_types_and_says_what_made_it(reviews, make_job, display):
    job = make_job(reviews, tasks={"sentiment": CLASSIFY, "pii": NER, "gist": GIST})
    summary = run_job(job, display=display)
    store = open_store(job.output.path)
    entries = list(store.entries())
    assert len(entries) == 4
    for entry in entries:
        with pq.ParquetFile(store.open(entry.path)) as file:
            schema = file.schema_arrow
        for name, task in job.configured.items():
            assert schema.field(name).type == task.output_type()
        footer = read_footer(store, entry.path)
        assert footer["fingerprint"] == summary.fingerprint
        assert footer["models"] == summary.models
        assert footer["rows"]["rows"] == 30


def test_the_record_holds_the_job_the_events_and_the_summary(reviews, make_job, display):
    job = make_job(reviews)
    summary = run_job(job, display=display)
    directory = own(job.output.path) / "runs" / summary.run
    assert json.loads((directory / "summary.json").read_text()) == summary.model_dump(mode="json")
    ran = load_job(directory / "job.yaml")
    assert (ran.tasks, ran.input.path, ran.compute.dtype) == (job.tasks, str(reviews), "float32")
    store = open_store(job.output.path).own
    lines = (directory / "events-00001.jsonl").read_text().splitlines()
    events = list(read_events(store, summary.run))
    assert len(events) == len(lines), "each follows the schema"
    assert sorted(e.path for e in events if e.event == "done") == [
        f"part-{i:05d}.parquet" for i in range(4)
    ]
    history = list(read_history(store, summary.run))
    assert [line.progress.phase for line in history[:2]] == ["starting Ray", "starting workers"]
    last = history[-1].progress
    assert (last.rows, last.splits_done, last.fraction) == (summary.rows.rows, 4, 1.0)


def test_a_second_run_does_nothing_and_starts_no_worker(reviews, make_job, display):
    job = make_job(reviews)
    run_job(job, display=display)
    base = open_store(job.output.path).base
    before = {p: p.stat().st_mtime_ns for p in base.rglob("*") if p.is_file()}
    display.phases.clear()
    summary = run_job(job, display=display)
    assert (summary.state, summary.exit_code, summary.workers) == ("nothing to do", 0, 0)
    assert summary.splits.done_before == 4
    assert display.phases == []
    after = {p: p.stat().st_mtime_ns for p in base.rglob("*") if p.is_file()}
    assert after == before


def test_new_and_changed_files_are_annotated_and_replace_their_old_output(
    reviews, make_job, display, tmp_path
):
    lake = tmp_path / "lake"
    shutil.copytree(reviews, lake)
    job = make_job(lake)
    run_job(job, display=display)
    write(lake / "part-00000.parquet", ["a dull film", "a great film"])
    write(lake / "part-00009.parquet", ["a fine film"])
    summary = run_job(job, display=display)
    assert (summary.splits.done, summary.splits.done_before) == (2, 3)
    outputs = sorted(p.name for p in (tmp_path / "annotated").glob("*.parquet"))
    assert len(outputs) == 5
    assert sum(name.startswith("part-00000-all-") for name in outputs) == 1
    changed = next(p for p in (tmp_path / "annotated").glob("part-00000-all-*.parquet"))
    assert pq.read_table(changed)["text"].to_pylist() == ["a dull film", "a great film"]


def test_partitions_keep_their_directories(make_job, display, tmp_path):
    for language in ("en", "fr"):
        write(tmp_path / "lake" / f"lang={language}" / "a.parquet", ["a fine film"])
    write(tmp_path / "lake" / "_tmp" / "hidden.parquet", ["never read"])
    summary = run_job(make_job(tmp_path / "lake"), display=display)
    assert summary.rows.rows == 2
    found = sorted(p.parent.name for p in (tmp_path / "annotated").glob("lang=*/*.parquet"))
    assert found == ["lang=en", "lang=fr"]


def test_null_and_blank_texts_keep_their_row_without_annotation(make_job, display, tmp_path):
    write(tmp_path / "lake/a.parquet", [None, "", "  \n\t", "a fine film"])
    tasks = {"sentiment": CLASSIFY, "pii": NER, "gist": GIST}
    summary = run_job(make_job(tmp_path / "lake", tasks=tasks), display=display)
    assert (summary.rows.annotated, summary.rows.skipped, summary.rows.bad) == (1, 3, 0)
    rows = rows_of(tmp_path / "annotated")
    for row in rows[:3]:
        assert row["sentiment"] is row["pii"] is row["gist"] is row["errors"] is None
    assert rows[3]["sentiment"]["label"] == "positive"


def test_a_file_without_rows_gives_a_file_without_rows(make_job, display, tmp_path):
    write(tmp_path / "lake/a.parquet", ["a fine film"])
    schema = pq.read_schema(tmp_path / "lake/a.parquet")
    pq.write_table(schema.empty_table(), tmp_path / "lake/b.parquet")
    summary = run_job(make_job(tmp_path / "lake"), display=display)
    assert (summary.exit_code, summary.splits.done, summary.rows.rows) == (0, 2, 1)


def test_a_broken_file_fails_alone_and_is_named(make_job, display, tmp_path):
    write(tmp_path / "lake/good.parquet", ["a fine film"])
    (tmp_path / "lake/broken.parquet").write_bytes(b"PAR1 this is no Parquet PAR1")
    write(tmp_path / "lake/other.parquet", ["x"])
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "lake/other.parquet")
    summary = run_job(make_job(tmp_path / "lake"), display=display)
    assert (summary.state, summary.exit_code) == ("some splits failed", 1)
    assert (summary.splits.done, summary.splits.failed) == (1, 2)
    reasons = {failed.path: failed.reason for failed in summary.failed_splits}
    assert "broken.parquet is not a readable Parquet file" in reasons["broken.parquet"]
    assert "other.parquet has no column `text`; it has body" in reasons["other.parquet"]
    # Mended, the same job finishes the rest.
    write(tmp_path / "lake/broken.parquet", ["a dull film"])
    (tmp_path / "lake/other.parquet").unlink()
    summary = run_job(make_job(tmp_path / "lake"), display=display)
    assert (summary.exit_code, summary.splits.done, summary.splits.done_before) == (0, 1, 1)


def test_a_text_that_is_not_utf8_is_a_bad_row_and_the_others_are_annotated(
    make_job, display, tmp_path
):
    raw = [b"a fine film", b"caf\xe9 society", b"a dull film"]
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 11, 23, 34)))
    texts = pa.Array.from_buffers(pa.string(), 3, [None, offsets, pa.py_buffer(b"".join(raw))])
    (tmp_path / "lake").mkdir()
    pq.write_table(pa.table({"id": [0, 1, 2], "text": texts}), tmp_path / "lake/a.parquet")
    limits = {"bad_rows": 1}
    summary = run_job(make_job(tmp_path / "lake", limits=limits), display=display)
    assert (summary.exit_code, summary.rows.annotated, summary.rows.bad) == (0, 2, 1)
    output = next((tmp_path / "annotated").glob("*.parquet"))
    table = pq.read_table(output)
    labels = table["sentiment"].combine_chunks().field("label").to_pylist()
    assert labels == ["positive", None, "negative"]
    [error] = table["errors"].to_pylist()[1]
    assert (error["task"], error["code"]) == ("sentiment", "not_utf8")


def test_too_many_bad_rows_fail_the_split_and_say_which(make_job, display, tmp_path):
    texts = pa.array([b"caf\xe9", b"ok then"]).cast(pa.binary())
    buffers = texts.buffers()
    column = pa.Array.from_buffers(pa.string(), 2, buffers)
    (tmp_path / "lake").mkdir()
    pq.write_table(pa.table({"text": column}), tmp_path / "lake/a.parquet")
    summary = run_job(make_job(tmp_path / "lake"), display=display)
    assert summary.exit_code == 1
    reason = summary.failed_splits[0].reason
    assert "a.parquet: 1 of 2 rows can't be annotated" in reason
    assert "row 0, task sentiment: the text is not UTF-8" in reason


def test_a_worker_that_no_machine_can_hold_is_reported_with_what_there_is(
    reviews, make_job, display
):
    job = make_job(reviews, compute={"cpus_per_worker": 64, "wait": "2s"})
    summary = run_job(job, display=display, choices=Choices(address="auto"))
    assert (summary.state, summary.exit_code) == ("failed", 1)
    assert "each asks for 64 CPUs; the cluster has 1 node: 2 CPU" in summary.error
    assert "Lower compute.cpus_per_worker" in summary.error


def test_on_this_machine_alone_a_worker_too_large_is_refused_at_once(reviews, make_job, display):
    job = make_job(reviews, compute={"cpus_per_worker": 64})
    summary = run_job(job, display=display)
    assert summary.exit_code == 2
    assert "a worker asks for 64 CPUs, and this machine has 1 node: 2 CPU" in summary.error


def test_two_workers_give_what_one_gives(reviews, make_job, display, tmp_path):
    one = make_job(reviews, output="one", tasks={"pii": NER})
    two = make_job(
        reviews,
        output="two",
        tasks={"pii": NER},
        compute={"workers": 2, "cpus_per_worker": 1, "batch_tokens": 512},
    )
    run_job(one, display=display)
    summary = run_job(two, display=display)
    assert summary.exit_code == 0
    first, second = rows_of(tmp_path / "one"), rows_of(tmp_path / "two")
    for a, b in zip(first, second, strict=True):
        assert [(e["label"], e["start"], e["end"]) for e in a["pii"]] == [
            (e["label"], e["start"], e["end"]) for e in b["pii"]
        ]


def test_an_interrupted_run_keeps_what_is_committed_and_resumes(reviews, make_job, display):
    job = make_job(reviews)
    calls = iter([0] * 3)
    summary = run_job(job, display=display, stop=lambda: next(calls, 2))
    assert (summary.state, summary.exit_code) == ("interrupted", 3)
    assert summary.splits.done + summary.splits.left == 4
    summary = run_job(job, display=display)
    assert (summary.exit_code, summary.splits.done + summary.splits.done_before) == (0, 4)
