"""Rows that make the model raise, kill the worker or hang it: they cost themselves alone."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chaos_jobs import SLOW, Job, rows_by_id, write_lake

pytestmark = pytest.mark.chaos

KILLS = "w13 w13 w13"
HANGS = "w17 w17 w17"

# Python imports this by itself when its directory is on PYTHONPATH, also in Ray's workers.
SITE = f'''
import importlib.util, os, signal, sys, threading

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "pipeline.tasks.labels.classify":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        whole = spec.loader.exec_module

        def exec_module(module):
            whole(module)
            annotate = module.ClassifyAnnotate.annotate

            def wrapped(self, texts):
                if any("{KILLS}" in text for text in texts):
                    os.kill(os.getpid(), signal.SIGKILL)
                if any("{HANGS}" in text for text in texts):
                    threading.Event().wait()
                return annotate(self, texts)

            module.ClassifyAnnotate.annotate = wrapped

        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
'''


def replace_text(path, row: int, text: str) -> int:
    """Puts a text into a file; gives the id of the row."""
    table = pq.read_table(path)
    texts = table["text"].to_pylist()
    texts[row] = text
    pq.write_table(table.set_column(1, "text", pa.array(texts)), path)
    return table["id"][row].as_py()


def test_a_row_that_makes_the_model_raise_is_an_error_of_that_row_alone(
    cluster, tiny_model, tmp_path
):
    lake = write_lake(tmp_path / "lake", files=3, rows=40, words=20, seed=3)
    bad = replace_text(lake / "part-001.parquet", 17, "w1 poison w2")
    job = Job(tmp_path, lake=lake, model=tiny_model)
    assert job.finish("--address", cluster.address) == 0, job.said()
    rows = rows_by_id(job.output)
    assert len(rows) == 120
    [error] = rows[bad]["errors"]
    assert rows[bad]["mood"] is None
    assert (error["task"], error["code"]) == ("mood", "model_error")
    assert "IndexError: index out of range" in error["message"]
    assert all(row["mood"] and row["errors"] is None for row in rows.values() if row["id"] != bad)
    [summary] = job.summaries()
    assert (summary["rows"]["annotated"], summary["rows"]["bad"]) == (119, 1)
    assert (summary["splits"]["done"], summary["workers_lost"]) == (3, 0)
    assert job.finish(verb="verify") == 0, job.said()


def test_one_row_in_a_hundred_thousand_costs_no_other_row_its_annotation(
    cluster, tiny_model, tmp_path
):
    lake = write_lake(tmp_path / "lake", files=1, rows=100_000, words=3, seed=4)
    bad = replace_text(lake / "part-000.parquet", 54_321, "w1 w2 poison")
    job = Job(
        tmp_path,
        lake=lake,
        model=tiny_model,
        compute={"workers": 1, "batch_tokens": 20_000},
        limits={"bad_rows": 1},
    )
    assert job.finish("--address", cluster.address) == 0, job.said()
    [summary] = job.summaries()
    rows = summary["rows"]
    assert (rows["rows"], rows["annotated"], rows["bad"]) == (100_000, 99_999, 1)
    [output] = job.outputs()
    table = pq.read_table(job.output / output)
    assert table["id"].to_pylist() == list(range(100_000))
    for column, nulls in (("mood", 1), ("errors", 99_999)):
        assert table[column].null_count == nulls
    assert not table["mood"][bad].is_valid
    assert table["errors"][bad].as_py()[0]["task"] == "mood"


def test_files_that_kill_or_hang_their_worker_fail_alone_and_are_named(tiny_model, tmp_path):
    lake = write_lake(tmp_path / "lake", files=12, rows=20, words=20, seed=5)
    replace_text(lake / "part-003.parquet", 7, f"w1 {KILLS}")
    replace_text(lake / "part-007.parquet", 0, f"{HANGS} w2")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SITE)
    job = Job(
        tmp_path,
        lake=lake,
        model=tiny_model,
        compute={**SLOW, "workers": 2, "cpus_per_worker": 1},
        limits={"stall": "5s"},
    )
    assert job.finish(PYTHONPATH=str(tmp_path / "site")) == 1, job.said()
    [summary] = job.summaries()
    assert summary["state"] == "some splits failed"
    assert (summary["splits"]["done"], summary["splits"]["failed"]) == (10, 2), job.said()
    reasons = {failed["path"]: failed["reason"] for failed in summary["failed_splits"]}
    assert reasons.keys() == {"part-003.parquet", "part-007.parquet"}
    assert "was lost" in reasons["part-003.parquet"]
    assert "no progress for 5 s" in reasons["part-007.parquet"]
    for path, reason in reasons.items():
        assert f"{path}: {reason}" in job.said()
    rows = rows_by_id(job.output)
    assert len(rows) == 200
    assert all(row["mood"] for row in rows.values())
    assert job.scratch() == []
    # Mended, the same job does the rest.
    for name in reasons:
        (lake / name).unlink()
    assert job.finish() == 0, job.said()
    assert job.finish(verb="verify") == 0, job.said()


def test_a_split_that_waits_for_its_turn_on_the_device_does_not_stand_still(
    cluster, tiny_model, tmp_path
):
    """Each of these takes longer than `limits.stall`; one of them computes at a time."""
    lake = write_lake(tmp_path / "lake", files=2, rows=7_000, words=60, seed=6)
    job = Job(tmp_path, lake=lake, model=tiny_model, compute=SLOW, limits={"stall": "5s"})
    assert job.finish("--address", cluster.address) == 0, job.said()
    [summary] = job.summaries()
    assert (summary["splits"]["done"], summary["workers_lost"]) == (2, 0), job.said()
