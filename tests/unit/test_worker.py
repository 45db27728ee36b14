"""The actor's answers, asked for without Ray."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine.messages import LOADING, Failure
from pipeline.engine.worker import annotator as annotator_module
from pipeline.engine.worker.actor import Worker
from pipeline.errors import JobError, OutputBusy, ShardscribeError, SplitError, WorkerLost
from pipeline.lake.split import Split
from pipeline.moves import moved

pytestmark = pytest.mark.unit

SPLITS = [Split(f"s{i}", f"{i}.parquet", 1, "v") for i in range(3)]


def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    for name in ("TOKENIZERS_PARALLELISM", "RAYON_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.setenv(name, "16")
    return Worker("w1", 1)


def loading(monkeypatch: pytest.MonkeyPatch, error: Exception) -> Any:
    """What is answered when loading raises."""

    def annotator(plan: Any, *, name: str) -> Any:
        raise error

    monkeypatch.setattr(annotator_module, "Annotator", annotator)
    return worker(monkeypatch).load(pickle.dumps(SimpleNamespace()))


def annotating(monkeypatch: pytest.MonkeyPatch, error: Exception) -> list[Any]:
    """What is answered when a call raises."""

    def annotate_all(splits: Any) -> Any:
        raise error

    made = worker(monkeypatch)
    made.annotator = SimpleNamespace(
        annotate_all=annotate_all, source=SimpleNamespace(where=lambda path: f"/lake/{path}")
    )
    return made.annotate(SPLITS)


class Unopenable:
    """Stands for a store that is opened on another machine, without its credentials."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise JobError("there are no credentials here")


def test_a_store_that_can_not_be_opened_here_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = worker(monkeypatch).load(pickle.dumps(Unopenable()))
    assert isinstance(answer, Failure)
    assert isinstance(answer.error, JobError)
    assert answer.message == "there are no credentials here"


def test_out_of_memory_while_it_loads_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "Unable to allocate 20.0 MiB."
    answer = loading(monkeypatch, MemoryError(said))
    assert isinstance(answer.error, WorkerLost)
    assert "there is no memory for its models" in answer.message
    assert said in answer.message


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (JobError("no such model"), JobError),
        (WorkerLost("the device is broken"), WorkerLost),
        (AttributeError("no attribute"), WorkerLost),
    ],
)
def test_whatever_is_raised_while_it_loads_comes_back_as_an_answer(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[ShardscribeError]
) -> None:
    answer = loading(monkeypatch, error)
    assert type(answer.error) is kind
    assert str(error) in answer.message


@pytest.mark.parametrize("error", [OutputBusy("busy"), WorkerLost("device-side assert")])
def test_what_ends_the_run_or_the_worker_comes_back_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, error: ShardscribeError
) -> None:
    answers = annotating(monkeypatch, error)
    assert [answer.error for answer in answers] == [error] * 3


@pytest.mark.parametrize("error", [JobError("the store is away"), KeyError("odd")])
def test_an_error_that_is_no_splits_own_is_each_ones_attempt(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    answers = annotating(monkeypatch, error)
    assert all(isinstance(answer, Failure) for answer in answers)
    assert {type(answer.error) for answer in answers} == {SplitError}
    assert answers[1].message.startswith("/lake/1.parquet: ")


def test_loading_shows_signs_of_life_when_bytes_or_models_move(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = worker(monkeypatch)
    signs = []

    def annotator(plan: Any, *, name: str) -> Any:
        signs.append(made.heartbeat().moves[LOADING])
        moved()
        signs.append(made.heartbeat().moves[LOADING])
        (tmp_path / "weights").write_bytes(bytes(40_000_000))
        signs.append(made.heartbeat().moves[LOADING])
        return SimpleNamespace()

    monkeypatch.setattr(annotator_module, "Annotator", annotator)
    assert made.load(pickle.dumps(SimpleNamespace())) is None
    assert signs[0][0] < signs[1][0]
    assert signs[1][1] < signs[2][1]
