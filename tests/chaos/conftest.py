"""A lake, what an undisturbed run makes of it, and a Ray cluster to be killed."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_jobs import SLOW, Cluster, Job, rows_by_id, write_lake


@pytest.fixture(scope="session")
def lake(tmp_path_factory) -> Path:
    """200 files of 30 rows. Read only."""
    directory = tmp_path_factory.mktemp("many") / "lake"
    return write_lake(directory, files=200, rows=30, words=60, seed=1)


@pytest.fixture(scope="session")
def head() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(head) -> Cluster:
    """A Ray cluster of our own, alive at the start of each test."""
    if head.process is None or head.process.poll() is not None:
        head.start()
    return head


@pytest.fixture(scope="session")
def undisturbed(head, lake, tiny_model, tmp_path_factory) -> dict[int, dict]:
    """The annotated rows of the lake, by id."""
    if head.process is None:
        head.start()
    job = Job(tmp_path_factory.mktemp("undisturbed"), lake=lake, model=tiny_model, compute=SLOW)
    assert job.finish("--address", head.address) == 0, job.said()
    return rows_by_id(job.output)
