"""Jobs in int8 by real workers: the labels of float32."""

import json

import pyarrow.parquet as pq
import pytest
from helpers import CLASSIFY

from pipeline.engine.worker.second_look import decided
from pipeline.errors import JobError
from pipeline.job.check import check
from pipeline.job.job import INT8_RECIPE
from pipeline.run import run_job

pytestmark = pytest.mark.integration


def test_a_job_in_int8_has_float32s_labels_and_says_what_it_looked_at_twice(
    ray_cluster, reviews, make_job, tmp_path, display
):
    columns, summaries = {}, {}
    for dtype in ("float32", "int8"):
        compute = {"dtype": dtype, "workers": 1, "cpus_per_worker": 1, "batch_tokens": 1024}
        job = make_job(reviews, output=dtype, compute=compute)
        summaries[dtype] = run_job(job, display=display)
        assert summaries[dtype].exit_code == 0
        columns[dtype] = pq.read_table(tmp_path / dtype).column("sentiment").combine_chunks()
    assert decided(columns["int8"]) == decided(columns["float32"])
    assert columns["int8"] != columns["float32"]
    counts = summaries["int8"].tasks["sentiment"]
    assert 0 <= counts.looked_twice < counts.annotated == 120
    assert summaries["float32"].tasks["sentiment"].looked_twice == 0
    (recipe,) = (tmp_path / ".shardscribe" / "int8" / "int8").iterdir()
    said = json.loads(recipe.read_bytes())
    assert said["recipe"] == INT8_RECIPE
    assert said["fingerprint"] == summaries["int8"].fingerprint == recipe.stem
    assert summaries["int8"].fingerprint != summaries["float32"].fingerprint
    assert 0 < said["margins"]["sentiment"] < 5


def test_a_job_that_int8_does_not_serve_is_refused_before_anything_starts(
    reviews, make_job, tmp_path
):
    job = make_job(
        reviews,
        tasks={"vector": {"kind": "embed", "model": "starter/minilm"}},
        compute={"dtype": "int8"},
    )
    with pytest.raises(JobError, match="no task of this job is one"):
        check(job)
    both = {"vector": {"kind": "embed", "model": "starter/minilm"}, "sentiment": CLASSIFY}
    served = check(make_job(reviews, tasks=both, compute={"dtype": "int8"})).job
    assert served.compute.device == "cpu"
    assert {name: task.has_labels for name, task in served.configured.items()} == {
        "vector": False,
        "sentiment": True,
    }


@pytest.mark.parametrize(
    ("compute", "said"),
    [
        ({"device": "cuda"}, "set compute.device to cpu"),
        ({"engine": "onnxruntime"}, "leave it at auto"),
    ],
)
def test_where_there_is_no_int8_the_job_is_refused(reviews, make_job, compute, said):
    with pytest.raises(JobError, match=said):
        make_job(reviews, compute={**compute, "dtype": "int8"})
