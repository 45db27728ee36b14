"""What a fingerprint holds: what a job says and what it became, never what it leaves alone."""

import json
import shutil
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import RESULTS_VERSION, glossary, readme
from pipeline.engine.driver import cluster
from pipeline.job import check
from pipeline.job.file import load_job, ready_jobs
from pipeline.job.job import Compute, Job
from pipeline.lake.plan import differences
from pipeline.lake.sink.open import open_sink
from pipeline.lake.source.base import Listing
from pipeline.lake.source.open import open_source
from pipeline.models.device import dtype_on
from pipeline.models.resolve import ModelInfo
from pipeline.schemas import PINS, job_fingerprint, main
from pipeline.tasks import TASKS

pytestmark = pytest.mark.unit

JOBS = Path(__file__).parents[2] / "jobs"
# A line of it that has to change makes all output of that job foreign: then RESULTS_VERSION has to
# be raised instead. Where the ready job itself became another, remove the line and write it anew.
PINNED = json.loads((JOBS.parent / "schemas" / PINS).read_text(encoding="utf-8"))


def parts_of(job: Job) -> dict:
    parts = job.on("cpu").fingerprint_parts({name: f"revision of {name}" for name in job.models})
    assert parts.pop("results_version") == RESULTS_VERSION
    return parts


@pytest.mark.parametrize("name", PINNED)
def test_the_fingerprint_of_a_ready_job_stays_as_it_is(name: str) -> None:
    assert job_fingerprint(JOBS / f"{name}.yaml") == PINNED[name]


def test_every_ready_job_is_pinned() -> None:
    ready = [path.stem for path in ready_jobs(JOBS)]
    assert sorted(PINNED) == ready, "run: python -m pipeline.schemas"


def test_what_is_pinned_stays_until_somebody_removes_it(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    for name in ("cascade", "movie_reviews"):
        shutil.copy(JOBS / f"{name}.yaml", tmp_path / "jobs")
    for name, made in (("README.md", readme), ("CONTRIBUTING.md", glossary)):
        (tmp_path / name).write_text(f"{made.BEGIN}{made.END}")
    main(str(tmp_path))
    pins = tmp_path / "schemas" / PINS
    assert json.loads(pins.read_text()) == {n: PINNED[n] for n in ("cascade", "movie_reviews")}
    pins.write_text(json.dumps({"cascade": "as it was", "gone": "x"}))
    main(str(tmp_path))
    kept = {"cascade": "as it was", "movie_reviews": PINNED["movie_reviews"]}
    assert json.loads(pins.read_text()) == kept


def test_a_fingerprint_holds_what_the_job_says_and_nothing_else() -> None:
    job = load_job(JOBS / "movie_reviews.yaml")
    assert parts_of(job) == {
        "dtype": "float32",
        "tasks": {
            "sentiment": {"kind": "classify", "revision": "revision of starter/sentiment"},
            "pii": {"kind": "ner", "revision": "revision of starter/pii"},
            "gist": {
                "kind": "summarize",
                "method": "extractive",
                "sentences": 2,
                "revision": "revision of starter/minilm",
            },
        },
    }


def test_an_option_that_a_later_version_adds_leaves_the_fingerprint_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = load_job(JOBS / "movie_reviews.yaml")
    before = parts_of(job)
    kind = TASKS["classify"]

    class Options(kind.Options):  # type: ignore[name-defined, misc]
        brand_new: int = 3

    later = Options.model_validate({"kind": "classify", "model": "starter/sentiment"})
    assert kind(later).dump() == {"kind": "classify"}
    tasks = {**job.tasks, "sentiment": later}
    assert parts_of(job.model_copy(update={"tasks": tasks})) == before


def test_a_default_that_is_written_out_is_the_same_job() -> None:
    path = JOBS / "movie_reviews.yaml"
    written = load_job(
        path,
        overrides=[
            "output.compression=zstd",
            "input.columns=null",
            "tasks.pii.aggregation=first",
            "tasks.sentiment.merge=mean",
            "tasks.sentiment.adapter=null",
        ],
    )
    assert parts_of(written) == parts_of(load_job(path))


@pytest.mark.parametrize(
    ("device", "dtype", "became"),
    [
        ("cpu", "auto", "float32"),
        ("cuda", "auto", "bfloat16"),
        ("cuda:1", "auto", "bfloat16"),
        ("cuda", "float32", "float32"),
        ("cpu", "bfloat16", "bfloat16"),
    ],
)
def test_auto_is_stored_as_the_dtype_that_it_became(device: str, dtype: str, became: str) -> None:
    assert dtype_on(device, dtype) == became
    job = load_job(JOBS / "movie_reviews.yaml", overrides=[f"compute.dtype={dtype}"])
    parts = job.on(device).fingerprint_parts(dict.fromkeys(job.models, "r"))
    assert parts["dtype"] == became


def test_the_device_of_the_job_file_decides_before_that_of_the_machine() -> None:
    job = load_job(JOBS / "movie_reviews.yaml", overrides=["compute.device=cuda"])
    assert job.on("cpu").compute == Compute(device="cuda", dtype="bfloat16")


def checked(*overrides: str) -> check.Checked:
    job = load_job(JOBS / "movie_reviews.yaml", overrides=overrides)
    infos = {name: ModelInfo(name, {}, commit=f"of {name}") for name in job.models}
    return check.Checked(job, open_source("."), open_sink("out"), Listing([]), infos)


def test_a_job_is_pinned_to_what_its_device_makes_of_auto() -> None:
    on_gpu = check.pin(checked(), device="cuda")
    assert on_gpu.parts["dtype"] == "bfloat16"
    assert on_gpu.checked.job.compute == Compute(device="cuda", dtype="bfloat16")
    said = check.pin(checked("compute.device=cuda", "compute.dtype=bfloat16"))
    assert said.fingerprint == on_gpu.fingerprint
    assert check.pin(checked(), device="cpu").fingerprint != on_gpu.fingerprint


def test_an_explicit_dtype_leaves_the_device_to_the_cluster() -> None:
    pinned = check.pin(checked("compute.dtype=float32"))
    assert pinned.checked.job.compute == Compute(device="auto", dtype="float32")


def test_an_output_made_on_a_gpu_is_known_again_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(check, "device_here", lambda: "cpu")
    on_gpu = check.pin(checked(), device="cuda").fingerprint
    assert check.pin(checked(), like={"other", on_gpu}).fingerprint == on_gpu
    assert check.pin(checked(), like={"other"}).parts["dtype"] == "float32"
    assert check.pin(checked("compute.device=cpu"), like={on_gpu}).parts["dtype"] == "float32"


@pytest.mark.parametrize(
    ("nodes", "device"),
    [
        ([{"CPU": 8.0}], "cpu"),
        ([{"CPU": 8.0}, {"CPU": 4.0, "GPU": 1.0}], "cuda"),
    ],
)
def test_on_a_cluster_the_nodes_decide_before_the_fingerprint(
    monkeypatch: pytest.MonkeyPatch, nodes: list[dict[str, float]], device: str
) -> None:
    @contextmanager
    def connect(address):
        yield SimpleNamespace(nodes=lambda: dict(enumerate(nodes)))

    monkeypatch.setattr(cluster, "ray_cluster", connect)
    with cluster.cluster_device(Compute(), "somewhere:6379") as found:
        assert found == device


@pytest.mark.parametrize("known", [{"device": "cpu"}, {"device": "cuda"}, {"dtype": "float32"}])
def test_no_cluster_is_asked_what_the_job_says(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, str]
) -> None:
    def connect(address):
        raise AssertionError("connected")

    monkeypatch.setattr(cluster, "ray_cluster", connect)
    with cluster.cluster_device(Compute.model_validate(known), "somewhere:6379") as found:
        assert found == ""


def test_what_differs_names_an_option_that_one_of_the_two_does_not_set() -> None:
    path = JOBS / "movie_reviews.yaml"
    before = parts_of(load_job(path))
    now = parts_of(load_job(path, overrides=["tasks.pii.aggregation=max", "input.text=body"]))
    assert differences(before, now) == [
        "tasks.pii.aggregation was not set, is max",
        "text was not set, is body",
    ]
    assert differences(now, before) == [
        "tasks.pii.aggregation was max, is not set",
        "text was body, is not set",
    ]


def test_a_limit_of_texts_that_is_set_is_part_of_it_as_it_decides_which_rows_are_bad() -> None:
    plain = parts_of(load_job(JOBS / "movie_reviews.yaml"))
    job = load_job(JOBS / "movie_reviews.yaml", overrides=["limits.text=1MB"])
    assert parts_of(job) == {**plain, "limits.text": 1_000_000}
    usual = load_job(JOBS / "movie_reviews.yaml", overrides=["limits.text=4MB"])
    assert parts_of(usual) == plain
