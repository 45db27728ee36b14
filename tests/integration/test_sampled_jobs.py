"""What is drawn for a row in whole jobs: whatever the workers, the files and the day."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_writers as tiny
from helpers import rows_of

from pipeline.engine.driver.pool import Pool
from pipeline.run import run_job

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("ray_cluster")]

TEXTS = [tiny.sentences(1 + i % 12, start=i) for i in range(60)]


def write(folder: Path, files: int) -> Path:
    folder.mkdir()
    for number in range(files):
        rows = range(number, len(TEXTS), files)
        table = pa.table({"id": list(rows), "text": [TEXTS[row] for row in rows]})
        pq.write_table(table, folder / f"{number}.parquet")
    return folder


def test_sampled_texts_are_the_same_with_more_workers_other_files_and_after_a_resume(
    tiny_models: Any, make_job: Any, display: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = {"kind": "generate", "model": tiny_models("llama"), "max_new_tokens": 12}
    task |= {"temperature": 0.9, "top_p": 0.95}
    few, many = write(tmp_path / "few", 2), write(tmp_path / "many", 5)

    feed = Pool._feed

    def feed_all(pool: Pool) -> None:
        # Or the first worker could be done before the second is ready.
        if pool.ready == pool.plan.job.compute.workers:
            feed(pool)

    monkeypatch.setattr(Pool, "_feed", feed_all)

    def run(lake: Path, output: str, workers: int) -> dict[int, Any]:
        compute = {"workers": workers, "cpus_per_worker": 1}
        job = make_job(lake, tasks={"drawn": task}, output=output, compute=compute)
        summary = run_job(job, display=display)
        assert (summary.exit_code, summary.workers) == (0, workers)
        return {row["id"]: row["drawn"] for row in rows_of(tmp_path / output)}

    one = run(few, "one", 1)
    assert len(one) == len(TEXTS)
    assert len({row["text"] for row in one.values()}) > 40
    assert run(many, "two", 2) == one
    next((tmp_path / "two").glob("3*.parquet")).unlink()
    assert run(many, "two", 1) == one
