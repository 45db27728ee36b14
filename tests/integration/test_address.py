"""A Ray cluster that is there: a head without cores and a worker node, by `ray start`."""

import pytest
from chaos_jobs import Cluster, Job
from helpers import CLASSIFY, NER, rows_of

pytestmark = pytest.mark.integration


@pytest.fixture
def cluster():
    """A head and one worker node."""
    cluster = Cluster(cpus=(0, 2))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


def test_a_cluster_that_is_there_gives_what_this_machine_gives(cluster, reviews, tmp_path):
    outputs = {}
    for name, options in {"local": [], "remote": ["--address", cluster.address]}.items():
        job = Job(tmp_path / name, lake=reviews, tasks={"sentiment": CLASSIFY, "pii": NER})
        assert job.finish(*options) == 0, job.said()
        outputs[name] = rows_of(job.output)
    assert len(outputs["local"]) == 120
    assert outputs["remote"] == outputs["local"]
