"""Two jobs of different results on one output, whose lease is deleted: never are both content.

This file is also the program that runs a job: its model is never loaded, and what it commits is a
copy of the input, so that a run takes a second.
"""

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers import PATIENCE, QuietDisplay, commit_file, hollow_model
from s3_server import s3_server

from pipeline import run as running
from pipeline.engine.driver.lease import PATH
from pipeline.engine.messages import SplitResult
from pipeline.errors import ShardscribeError
from pipeline.job.file import load_job
from pipeline.lake.sink.footers import read_footer
from pipeline.lake.sink.owner import Owner
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.store.base import Store
from pipeline.lake.store.open import open_store
from pipeline.planning import Choices

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
FILES = 12
# The gate has time for a few; 20 and more take a minute each.
MOMENTS = int(os.environ.get("SHARDSCRIBE_LEASE_MOMENTS", "4"))
SEED = 20_261_124
# As Ray and models take a while to start: both jobs may have planned before one commits.
STARTS = 1.0


def copy_all(
    pinned: Any, plan: Any, tally: Any, summary: Any, *, address: Any, stop: Callable[[], int]
) -> None:
    """In the place of workers: commits every split as one would, one after the other."""
    source, sink = pinned.checked.source.store, pinned.checked.sink
    owner = Owner(sink, pinned.fingerprint)
    time.sleep(STARTS)
    for split in plan.todo:
        if stop():
            raise ShardscribeError("stopped")
        table = pq.read_table(source.open(split.path), partitioning=None)
        file = OutputFile(sink, split.output_path, table.schema, compression="none")
        file.write(table)
        time.sleep(0.02)
        footer = {"split": split.id, "input": split.path, "fingerprint": pinned.fingerprint}
        commit_file(file, footer, rows=table.num_rows, replace=split.replace, guard=owner.guard)
        tally.done(split, SplitResult(split.id, split.output_path))


def main(job: str, *options: str) -> None:
    running._annotate = copy_all
    choices = Choices(supersede="--supersede" in options)
    try:
        summary = running.run_job(load_job(job), display=QuietDisplay(), choices=choices)
    except ShardscribeError as error:
        print(error)
        sys.exit(error.exit_code)
    print(summary.error or summary.state)
    sys.exit(summary.exit_code)


# What looks on.


def start(job: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, str(job), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that is right as far as can be seen without loading it."""
    folder = tmp_path_factory.mktemp("model") / "hollow"
    return hollow_model(folder, "BertForSequenceClassification")


@pytest.fixture(scope="module", params=["local", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Where lakes and outputs are."""
    if request.param == "local":
        yield str(tmp_path_factory.mktemp("place"))
    else:
        with s3_server():
            yield "s3://lake/place"


def write_lake(store: Store, directory: Path) -> None:
    directory.mkdir()
    for number in range(FILES):
        pq.write_table(pa.table({"id": [number], "text": ["x"]}), directory / "one.parquet")
        store.put(f"{number}.parquet", (directory / "one.parquet").read_bytes())


def inputs_of(output: Store) -> tuple[Counter[str], set[str]]:
    """How often each input file is there, and the fingerprints of all files."""
    footers = [read_footer(output, entry.path) for entry in output.entries()]
    return Counter(f["input"] for f in footers), {f["fingerprint"] for f in footers}


def test_of_two_jobs_whose_lease_is_deleted_at_any_moment_never_both_are_content(
    place: str, model: Path, tmp_path: Path
) -> None:
    write_lake(open_store(f"{place}/lake"), tmp_path / "lake")
    chance = random.Random(SEED)
    ends: Counter[tuple[int, int]] = Counter()
    for moment in range(MOMENTS):
        output = open_store(f"{place}/out-{moment}")
        jobs = []
        for top in (1, 2):
            content = {
                "name": f"top-{top}",
                "input": {"path": f"{place}/lake"},
                "output": {"path": output.root},
                "tasks": {"mood": {"kind": "classify", "model": str(model), "top_k": top}},
            }
            jobs.append(tmp_path / f"{moment}-{top}.yaml")
            jobs[-1].write_text(yaml.safe_dump(content))
        ended = threading.Event()

        def delete(own: Store = output.own, gone: threading.Event = ended) -> None:
            """From a random moment of the first run on, so that the second one may meet none."""
            while not gone.is_set() and own.read(PATH) is None:
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.6))
            while not gone.is_set():
                own.delete(PATH)
                time.sleep(0.002)

        deleting = threading.Thread(target=delete)
        deleting.start()
        both = [start(jobs[0])]
        time.sleep(chance.uniform(0, 0.6))
        both.append(start(jobs[1]))
        said = [process.communicate(timeout=PATIENCE)[0] for process in both]
        ended.set()
        deleting.join()
        codes = both[0].returncode, both[1].returncode
        ends[codes] += 1
        note = f"seed {SEED}, moment {moment}: {codes}\n{said}"
        assert codes != (0, 0), note
        assert not any("Traceback" in text for text in said), note
        if 0 in codes:
            found, fingerprints = inputs_of(output)
            assert found == Counter(f"{n}.parquet" for n in range(FILES)), note
            assert len(fingerprints) == 1, note
        # Whatever was left, one command makes it right.
        last = start(jobs[0], "--supersede")
        last.communicate(timeout=PATIENCE)
        assert last.returncode == 0, note
        found, fingerprints = inputs_of(output)
        assert found == Counter(f"{n}.parquet" for n in range(FILES)), note
        assert len(fingerprints) == 1, note
    print(f"seed {SEED}: {dict(ends)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
