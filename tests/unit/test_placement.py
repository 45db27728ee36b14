"""What a worker asks for, and how many such fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.driver.placement import CPUS_PER_WORKER, Shape, describe, places, shape_of
from pipeline.job.job import Compute

pytestmark = pytest.mark.unit

SMALL = {"CPU": 2.0}
BIG = {"CPU": 16.0, "memory": 1e9}
GPUS = {"CPU": 8.0, "GPU": 4.0}
LEAN_GPU = {"CPU": 2.0, "GPU": 1.0}
HEAD = {"memory": 1e9}
NODES = st.lists(
    st.fixed_dictionaries(
        {}, optional={"CPU": st.integers(0, 32).map(float), "GPU": st.integers(0, 8).map(float)}
    ),
    max_size=5,
)


@pytest.mark.parametrize(
    ("compute", "nodes", "shape", "count"),
    [
        ({}, [SMALL], Shape(2, 0), 1),
        ({}, [BIG], Shape(4, 0), 4),
        ({}, [SMALL, BIG], Shape(4, 0), 4),
        ({}, [{"CPU": 1.0}], Shape(1, 0), 1),
        ({}, [{"CPU": 6.0}, {"CPU": 3.0}], Shape(4, 0), 1),
        ({}, [GPUS], Shape(2, 1), 4),
        ({}, [LEAN_GPU, BIG], Shape(2, 1), 1),
        ({}, [HEAD, GPUS, LEAN_GPU], Shape(2, 1), 5),
        ({}, [HEAD, SMALL, SMALL], Shape(2, 0), 2),
        ({}, [{"CPU": 64.0, "GPU": 2.0}], Shape(32, 1), 2),
        ({}, [{"CPU": 2.0, "GPU": 8.0}], Shape(1, 1), 2),
        ({}, [{"CPU": 128.0, "GPU": 8.0}, {"CPU": 48.0, "GPU": 1.0}], Shape(16, 1), 9),
        ({}, [{"CPU": 2.0, "GPU": 4.0}, {"CPU": 48.0, "GPU": 1.0}], Shape(1, 1), 3),
        ({"workers_per_gpu": 2}, [{"CPU": 64.0, "GPU": 2.0}], Shape(16, 1, 2), 4),
        ({"workers_per_gpu": 3}, [{"CPU": 16.0, "GPU": 1.0}, BIG], Shape(5, 1, 3), 3),
        ({"workers_per_gpu": 4}, [LEAN_GPU], Shape(1, 1, 4), 2),
        ({"workers_per_gpu": 4, "cpus_per_worker": 4}, [GPUS], Shape(4, 1, 4), 2),
        ({"workers_per_gpu": 2}, [BIG], Shape(4, 0), 4),
        ({"device": "cpu"}, [GPUS], Shape(4, 0), 2),
        ({"device": "cpu"}, [HEAD, BIG], Shape(4, 0), 4),
        ({"device": "cuda"}, [BIG], Shape(1, 1), 0),
        ({"device": "cuda"}, [BIG, LEAN_GPU], Shape(2, 1), 1),
        ({"cpus_per_worker": 3}, [BIG], Shape(3, 0), 5),
        ({"cpus_per_worker": 3}, [SMALL], Shape(3, 0), 0),
        ({"cpus_per_worker": 8}, [GPUS], Shape(8, 1), 1),
        ({"cpus_per_worker": 1, "device": "cpu"}, [SMALL, GPUS], Shape(1, 0), 10),
        ({}, [], Shape(1, 0), 0),
        ({}, [HEAD], Shape(1, 0), 0),
        ({"device": "cuda"}, [], Shape(1, 1), 0),
    ],
)
def test_a_worker_asks_for_what_the_nodes_have(
    compute: dict, nodes: list[dict[str, float]], shape: Shape, count: int
) -> None:
    assert shape_of(Compute(**compute), nodes) == shape
    assert places(shape, nodes) == count


@given(NODES, st.integers(1, 16))
def test_what_is_chosen_by_itself_fits_wherever_anything_does(
    nodes: list[dict[str, float]], sharing: int
) -> None:
    shape = shape_of(Compute(workers_per_gpu=sharing), nodes)
    assert shape.cpus >= 1
    assert shape.gpus or shape.cpus <= CPUS_PER_WORKER
    able = [node for node in nodes if node.get("CPU", 0) >= 1]
    if shape.gpus:
        able = [node for node in able if node.get("GPU", 0) >= 1]
    assert (places(shape, nodes) > 0) == bool(able)


@given(NODES, st.integers(1, 8), st.sampled_from([0, 1]))
def test_places_never_ask_a_node_for_more_than_it_has(
    nodes: list[dict[str, float]], cpus: int, gpus: int
) -> None:
    count = places(Shape(cpus, gpus), nodes)
    assert count * cpus <= sum(node.get("CPU", 0) for node in nodes)
    assert count * gpus <= sum(node.get("GPU", 0) for node in nodes)
    assert count == sum(places(Shape(cpus, gpus), [node]) for node in nodes)


@given(NODES, st.integers(1, 16))
def test_no_other_share_of_the_cores_keeps_more_gpus_busy(
    nodes: list[dict[str, float]], sharing: int
) -> None:
    shape = shape_of(Compute(device="cuda", workers_per_gpu=sharing), nodes)
    best = max(places(Shape(cpus, 1, sharing), nodes) for cpus in range(1, 33))
    assert places(shape, nodes) == best


@pytest.mark.parametrize("sharing", range(1, 17))
def test_as_many_workers_as_share_a_gpu_fit_it_and_no_more(sharing: int) -> None:
    steps = round(Shape(1, 1, sharing).num_gpus * 10_000)
    assert sharing * steps <= 10_000 < (sharing + 1) * steps
    assert Shape(1, 0, sharing).num_gpus == 0


def test_workers_share_a_gpu_only_where_there_may_be_one() -> None:
    for compute in ({"device": "cpu"}, {"engine": "onnxruntime"}):
        with pytest.raises(ValueError, match="no GPU to share where"):
            Compute.model_validate({**compute, "workers_per_gpu": 2})
        assert Compute.model_validate({**compute, "workers_per_gpu": 1}).workers_per_gpu == 1
    for wrong in (0, 17, 1.5, "all"):
        with pytest.raises(ValueError, match="workers_per_gpu"):
            Compute.model_validate({"workers_per_gpu": wrong})


def test_a_shape_reads_as_words() -> None:
    assert str(Shape(1, 0)) == "1 CPU"
    assert str(Shape(4, 0)) == "4 CPUs"
    assert str(Shape(2, 1)) == "2 CPUs and 1 GPU"
    assert str(Shape(2, 1, 3)) == "2 CPUs and 1/3 GPU"
    assert Shape(2, 1).device == "cuda"
    assert Shape(2, 0).device == "cpu"


def test_nodes_read_as_words() -> None:
    assert describe([]) == "0 nodes: "
    assert describe([SMALL]) == "1 node: 2 CPU"
    assert describe([GPUS, HEAD]) == "2 nodes: 8 CPU, 4 GPU | no CPU"
    assert describe([SMALL] * 9).endswith("2 CPU | …")
