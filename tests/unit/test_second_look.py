"""Texts near a tie get float32's answer, by a margin that all workers share."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from helpers import PATIENCE

from pipeline.engine.worker import second_look
from pipeline.engine.worker.second_look import EVERYTHING, SecondLook, look_twice, margin_of
from pipeline.errors import JobError, RowError
from pipeline.job.job import INT8_RECIPE
from pipeline.lake.store.local import LocalStore
from pipeline.models.results import strongest
from pipeline.models.text.texts import TaskInput
from pipeline.tasks import Annotated
from pipeline.tasks.spans.aggregate import ALL_SCORES, text_gaps
from pipeline.tasks.ties import gaps

KIND = pa.struct([("label", pa.string()), ("score", pa.float64())])

pytestmark = pytest.mark.unit


class Numbers:
    """Says of a text whether its number is above 0, with an error."""

    def __init__(self, error: float = 0.0, *, bad: tuple[str, ...] = ()) -> None:
        self.error = error
        self.bad = bad
        self.asked: list[list[str]] = []

    def annotate(self, texts):
        self.asked.append(list(texts))
        odds = np.array([float(text) + self.error for text in texts])
        rows = [{"label": "yes" if odd > 0 else "no", "score": odd} for odd in odds]
        failures = {row: RowError("bad") for row, text in enumerate(texts) if text in self.bad}
        found = [None if row in failures else said for row, said in enumerate(rows)]
        return Annotated(pa.array(found, KIND), failures, len(texts), gaps=lambda: np.abs(odds))


def test_rows_near_a_tie_get_the_answer_of_float32_and_no_others():
    exact = Numbers()
    found = SecondLook(Numbers(0.3), exact, margin=0.5).annotate(["5", "-0.1", "-4", "0.1", "9"])
    assert exact.asked == [["-0.1", "0.1"]]
    rows = found.column.to_pylist()
    assert [row["label"] for row in rows] == ["yes", "no", "no", "yes", "yes"]
    assert [row["score"] for row in rows] == [5.3, -0.1, -3.7, 0.1, 9.3]
    assert found.twice.tolist() == [False, True, False, True, False]
    assert found.tokens == 7


def test_a_row_that_fails_in_int8_alone_is_annotated_in_float32():
    task = SecondLook(Numbers(bad=("5", "7")), Numbers(bad=("7",)), margin=0.1)
    found = task.annotate(["5", "7", "9"])
    assert list(found.failures) == [1]
    assert [row and row["label"] for row in found.column.to_pylist()] == ["yes", None, "yes"]


def test_columns_beside_the_texts_go_along_to_the_second_look():
    exact = Numbers()
    given = TaskInput(["5", "0"], {"id": [1, 2]})
    seen = []
    exact.annotate = lambda texts: (seen.append(texts.columns), Numbers().annotate(texts))[1]
    SecondLook(Numbers(), exact, margin=0.5).annotate(given)
    assert seen == [{"id": [2]}]


def test_a_margin_covers_what_int8_was_wrong_by_on_the_sample():
    texts = [str(n / 10) for n in range(-30, 30)]
    margin = margin_of(Numbers().annotate(texts), Numbers(0.25).annotate(texts))
    assert 0.25 <= margin <= 0.5
    wrong = SecondLook(Numbers(0.25), Numbers(), margin=margin).annotate(texts)
    exact = Numbers().annotate(texts)
    assert second_look.decided(wrong.column) == second_look.decided(exact.column)


def test_a_margin_turns_no_more_texts_over_than_one_in_a_thousand_and_looks_at_few():
    chance = np.random.default_rng(3)
    truth = chance.normal(0, 3, 20_000)
    rough = truth + 0.1 * chance.standard_t(4, 20_000)
    said = [
        Annotated(column, {}, gaps=lambda odds=odds: np.abs(odds))
        for column, odds in (
            (pa.array(np.where(odds > 0, "yes", "no")), odds) for odds in (truth, rough)
        )
    ]

    def first(found, count):
        return Annotated(found.column[:count], {}, gaps=lambda: found.gaps()[:count])

    margin = margin_of(*(first(one, 384) for one in said))
    once = np.abs(rough) > margin
    assert ((truth > 0) != (rough > 0)).mean() > 0.005
    assert ((truth > 0) != (rough > 0))[once].mean() < 0.001
    largest = np.abs(truth - rough)[:384].max()
    assert 0.1 < margin <= 1.25 * largest
    sure = Annotated(said[0].column[:384], {}, gaps=lambda: np.full(384, 50.0))
    less = Annotated(said[0].column[:384], {}, gaps=lambda: np.linspace(49, 50, 384))
    assert 0.9 < margin_of(sure, less) < 1.25


def test_of_a_few_texts_nothing_is_known_and_all_are_looked_at_twice():
    texts = [str(n) for n in range(1, 20)]
    assert margin_of(Numbers().annotate(texts), Numbers().annotate(texts)) == EVERYTHING


def test_gaps_are_distances_in_log_odds():
    found = gaps(np.array([[0.5, 0.5], [0.9, 0.1], [np.nan, 0.1]], dtype=np.float32))
    assert found[0] == 0
    assert found[1] == pytest.approx(np.log(9), rel=1e-5)
    assert found[2] == 0
    each = gaps(np.array([[0.9, 0.5], [0.99, 0.2]]), each=True)
    assert each[0] == pytest.approx(0, abs=1e-9)
    assert each[1] == pytest.approx(np.log(4))
    assert np.isinf(gaps(np.array([[0.7]]))).all()
    assert gaps(np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize(
    ("how", "expected"),
    [("none", np.log(1.5)), ("first", np.log(4)), ("average", np.log(1.5)), ("max", 0.0)],
)
def test_a_text_is_as_near_to_a_tie_as_the_nearest_of_its_tokens_or_words(how, expected):
    scores = np.array([[0.8, 0.2], [0.4, 0.6], [0.99, 0.01]])
    found = text_gaps(
        scores if how in ALL_SCORES else strongest(scores),
        rows=np.arange(3),
        texts=np.array([0, 0, 2]),
        starts=np.arange(3),
        ends=np.arange(3) + 1,
        subword=np.array([False, True, False]),
        how=how,
        count=3,
    )
    assert found[0] == pytest.approx(expected)
    assert np.isinf(found[1])
    assert found[2] == pytest.approx(np.log(99))


class Twins:
    """Models whose twins are off by a constant."""

    def __init__(self, error: float, measured: list[float]) -> None:
        self.error = error
        self.calls = measured

    def measured(self, infer):
        infer()
        self.calls.append(self.error)
        return {"tiny": {"error": self.error}}

    def in_int8(self, measured):
        return Twins(float(measured["tiny"]["error"]), self.calls)

    def with_adapter(self, adapter):
        return self

    def head(self, reference):
        """Of these, nobody asks."""

    classifier = token_classifier = span_scorer = encoder = answer_scorer = generator = head
    infos = device = None


class Job:
    """A worker's view of a job of one task, and the texts that it is measured on."""

    def __init__(self, tmp_path, monkeypatch, *, fingerprint: str = "f1") -> None:
        texts = [str(n / 7) for n in range(-40, 40)]
        self.store = LocalStore(str(tmp_path / "own"))
        self.plan = SimpleNamespace(sink=SimpleNamespace(own=self.store), fingerprint=fingerprint)
        monkeypatch.setattr(second_look, "_sample", lambda plan: texts)
        self.measured: list[float] = []

    @property
    def path(self) -> str:
        return f"int8/{self.plan.fingerprint}.json"

    def worker(self, error: float = 0.25, *, publish: bool = True) -> SecondLook:
        task = SimpleNamespace(
            has_labels=True,
            options=SimpleNamespace(adapter=None),
            load=lambda models: Numbers(models.error),
        )
        rows = SimpleNamespace(
            tasks={"mood": task}, types={"mood": KIND}, annotates={"mood": Numbers()}
        )
        rows.annotate = lambda texts: rows.annotates["mood"].annotate(texts)
        look_twice(rows, Twins(error, self.measured), self.plan, publish=publish)
        return rows.annotates["mood"]


@pytest.fixture
def job(tmp_path, monkeypatch) -> Job:
    return Job(tmp_path, monkeypatch)


def test_a_resumed_job_has_the_margin_that_was_measured_first(job):
    first = job.worker(0.25)
    again = job.worker(0.1)
    assert again.margin == first.margin > 0.25
    assert again.rough.error == 0.25
    assert job.measured == [0.25]


def test_two_workers_that_measure_at_once_share_what_was_published(job, monkeypatch):
    both, looks = threading.Barrier(2, timeout=PATIENCE), []
    create = LocalStore.create

    def together(self, path, content):
        both.wait()
        return create(self, path, content)

    monkeypatch.setattr(LocalStore, "create", together)
    threads = [
        threading.Thread(target=lambda e=error: looks.append(job.worker(e))) for error in (0.2, 0.3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(looks) == 2
    assert looks[0].margin == looks[1].margin
    assert looks[0].rough.error == looks[1].rough.error


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"fingerprint": "f1"}',
        json.dumps(
            {"fingerprint": "f1", "recipe": INT8_RECIPE, "margins": {"mood": -1}, "models": {}}
        ).encode(),
        json.dumps(
            {"fingerprint": "f1", "recipe": INT8_RECIPE, "margins": {"mood": 1}, "models": {}}
        ).encode(),
        json.dumps(
            {"fingerprint": "f1", "recipe": INT8_RECIPE, "margins": {}, "models": {"tiny": 3}}
        ).encode(),
        json.dumps(
            {"fingerprint": "f2", "recipe": INT8_RECIPE, "margins": {"mood": 9}, "models": {}}
        ).encode(),
    ],
)
def test_a_damaged_margin_or_another_jobs_is_measured_anew_and_replaced(job, content):
    job.store.create(job.path, content)
    assert job.worker().margin < 1
    said = json.loads(job.store.read(job.path))
    assert (said["fingerprint"], list(said["margins"])) == ("f1", ["mood"])
    job.worker(0.1)
    assert job.measured == [0.25]


def test_a_preview_measures_and_leaves_nothing_behind(job, tmp_path):
    assert job.worker(publish=False).margin > 0.25
    assert not (tmp_path / "own").exists()


def test_killed_before_it_is_published_nothing_is_there_and_the_next_measures(job, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(LocalStore, "create", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            job.worker()
    assert job.store.read(job.path) is None
    assert job.worker().margin > 0.25


def test_an_engine_without_int8_says_so(job):
    with pytest.raises(JobError, match="torch's alone"):
        look_twice(SimpleNamespace(), object(), job.plan, publish=True)
