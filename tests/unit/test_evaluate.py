"""Tasks against gold: figures as the libraries have them, intervals that hold, bad gold refused."""

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sacrebleu
import yaml
from click.testing import CliRunner
from helpers import hollow_model
from nervaluate import Evaluator
from rouge_score.rouge_scorer import RougeScorer
from sklearn import metrics

from pipeline.cli.evaluate import _show
from pipeline.cli.main import main
from pipeline.errors import JobError
from pipeline.learn.evaluate import check_gold, check_libraries, report_of
from pipeline.learn.evaluate_labels import calibration, labels_report, macro_f1
from pipeline.learn.evaluate_spans import spans_report
from pipeline.learn.evaluate_texts import answers_report, texts_report
from pipeline.learn.intervals import interval

pytestmark = pytest.mark.unit

NAMES = ["a", "b", "c", "never given"]


def some_labels(seed, rows=200):
    chance = np.random.default_rng(seed)
    gold = [NAMES[i] for i in chance.integers(0, 4, rows)]
    found = [
        {"label": NAMES[i] if chance.random() < 0.4 else true, "score": chance.random()}
        for i, true in zip(chance.integers(0, 3, rows), gold, strict=True)
    ]
    return gold, found


@pytest.mark.parametrize("seed", range(5))
def test_label_figures_equal_scikit_learns(seed):
    gold, found = some_labels(seed)
    given = [value["label"] for value in found]
    report = labels_report(gold, found)
    values = {name: figure["value"] for name, figure in report["metrics"].items()}
    assert values == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(gold, given),
            "macro_f1": metrics.f1_score(gold, given, average="macro"),
            "micro_f1": metrics.f1_score(gold, given, average="micro"),
        },
        abs=1e-12,
    )
    theirs = metrics.classification_report(gold, given, output_dict=True, zero_division=0)
    for label in report["labels"]:
        mine = {**label, "f1-score": label["f1"]}
        same = theirs[label["label"]]
        assert {name: mine[name] for name in same} == pytest.approx(same)
    assert report["confusion"]["rows"] == metrics.confusion_matrix(gold, given).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_figures_of_several_labels_a_row_equal_scikit_learns(seed):
    chance = np.random.default_rng(seed)
    rows, names = 80, list("abc")
    gold = [[name for name in names if chance.random() < 0.4] for _ in range(rows)]
    found = [{"scores": [{"label": name, "score": chance.random()} for name in "cab"]}
             for _ in range(rows)]  # fmt: skip
    truth = [[int(name in some) for name in names] for some in gold]
    scores = [{one["label"]: one["score"] for one in value["scores"]} for value in found]
    guess = [[int(some[name] >= 0.5) for name in names] for some in scores]
    report = report_of("classify", gold, found)
    values = {name: figure["value"] for name, figure in report["metrics"].items()}
    assert values == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(truth, guess),
            "macro_f1": metrics.f1_score(truth, guess, average="macro"),
            "micro_f1": metrics.f1_score(truth, guess, average="micro"),
        }
    )
    theirs = metrics.precision_recall_fscore_support(truth, guess)
    mine = [[label[name] for label in report["labels"]]
            for name in ("precision", "recall", "f1", "support")]  # fmt: skip
    assert np.array(mine) == pytest.approx(np.array(theirs))


def test_rows_of_no_label_at_all_are_right_where_none_is_given():
    found = [{"scores": [{"label": "a", "score": 0.1}]}, {"scores": None}]
    report = report_of("zero_shot", [[], []], found)
    assert report["metrics"]["accuracy"]["value"] == 1
    assert (report["metrics"]["micro_f1"]["value"], report["labels"]) == (0, [])


def test_gold_of_several_labels_needs_all_scores_and_known_labels():
    gold = pa.array([["a", None], []], pa.list_(pa.string()))
    assert check_gold("classify", gold, column="g", known=["a"]) == [["a"], []]
    with pytest.raises(JobError, match=r"'a' .* is none of the labels"):
        check_gold("classify", gold, column="g", known=["b"])
    with pytest.raises(JobError, match="Leave out the task's top_k"):
        check_gold("zero_shot", gold, column="g", known=["a"], best_alone=True)


def test_a_label_that_a_draw_lacks_counts_as_scikit_learn_has_it():
    truth, guess = np.array([0, 0, 1]), np.array([0, 1, 1])
    assert macro_f1(truth, guess, 5) == pytest.approx(
        metrics.f1_score(truth, guess, average="macro")
    )


def test_calibration_is_the_mean_distance_of_score_and_accuracy_by_bin():
    right = np.array([True, False, True, True])
    found = calibration(right, np.array([0.91, 0.95, 0.2, 1.0]))
    # A bin of one row at 0.2, and one of three at (0.91 + 0.95 + 1.0) / 3.
    assert found["error"] == pytest.approx((0.8 + 3 * abs(2.86 / 3 - 2 / 3)) / 4)
    assert [bin["rows"] for bin in found["bins"]] == [1, 3]
    assert calibration(right, np.array([0.5, 1.5, -1.0, 0.0])) is None
    assert calibration(right[:0], np.array([])) is None


def test_a_score_that_is_no_number_is_left_out_of_calibration_alone():
    report = labels_report(["a", "a"], [{"label": "a", "score": math.nan},
                                        {"label": "a", "score": 0.5}])  # fmt: skip
    assert report["metrics"]["accuracy"]["value"] == 1
    assert report["calibration"]["bins"][0]["rows"] == 1


def some_spans(seed, rows=40):
    """Spans of each row that do not overlap each other."""
    chance = np.random.default_rng(seed)

    def spans():
        cuts = sorted(chance.choice(60, 8, replace=False).tolist())
        return [
            {"label": "ABC"[chance.integers(3)], "start": start, "end": end}
            for start, end in zip(cuts[::2], cuts[1::2], strict=True)
            if chance.random() < 0.7
        ]

    gold = [spans() for _ in range(rows)]
    found = [[s for s in some if chance.random() < 0.6] if chance.random() < 0.5 else spans()
             for some in gold]  # fmt: skip
    return gold, found


def closed(rows):
    return [[{**span, "end": span["end"] - 1} for span in spans] for spans in rows]


@pytest.mark.parametrize("seed", range(5))
def test_span_figures_equal_nervaluates_over_all_rows_at_once(seed):
    gold, found = some_spans(seed)
    report = spans_report(gold, found)
    theirs = Evaluator(closed(gold), closed(found), tags=list("ABC"), loader="dict").evaluate()
    for way in ("strict", "partial"):
        same = theirs["overall"][way]
        for name in ("precision", "recall", "f1"):
            mine = report["metrics"][f"{way}_{name}"]["value"]
            assert mine == pytest.approx(getattr(same, name))
        for label in report["labels"]:
            same_label = theirs["entities"][label["label"]][way]
            assert label[way]["f1"] == pytest.approx(same_label.f1)
            assert label["support"] == same_label.possible
    exact = sum(
        len({tuple(s.values()) for s in a} & {tuple(s.values()) for s in b})
        for a, b in zip(gold, found, strict=True)
    )
    assert report["metrics"]["strict_recall"]["value"] == exact / sum(map(len, gold))


def test_spans_that_touch_do_not_overlap():
    gold = [[{"label": "A", "start": 0, "end": 5}]]
    found = [[{"label": "A", "start": 5, "end": 8}]]
    assert spans_report(gold, found)["metrics"]["partial_f1"]["value"] == 0


def test_rows_without_any_span_have_figures_of_0():
    values = spans_report([[], []], [[], []])["metrics"]
    assert {figure["value"] for figure in values.values()} == {0}


# Texts and answers.

RIGHT = [["The cat sat on the mat.", "A cat was on a mat."], ["It rains."], ["One two three."]]
WRITTEN = ["The cat sat on a mat.", "It rains today.", None]


def test_text_figures_equal_the_libraries():
    found = [{"text": text} for text in WRITTEN]
    given = [text or "" for text in WRITTEN]
    values = {
        name: figure["value"] for name, figure in texts_report(RIGHT, found)["metrics"].items()
    }
    second = [some[1] if len(some) > 1 else None for some in RIGHT]
    lists = [[some[0] for some in RIGHT], second]
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score_multi(a, b) for a, b in zip(RIGHT, given, strict=True)]
    assert values == pytest.approx(
        {
            **{n: np.mean([s[n].fmeasure for s in scores]) for n in scores[0]},
            "bleu": sacrebleu.BLEU().corpus_score(given, lists).score,
            "chrf": sacrebleu.CHRF().corpus_score(given, lists).score,
        }
    )


def test_intervals_of_texts_are_around_their_figures():
    chance = np.random.default_rng(3)
    right = [" ".join(chance.choice(list("abcdefgh"), 12)) for _ in range(60)]
    found = [{"text": text[: chance.integers(4, 24)]} for text in right]
    for figure in texts_report([[text] for text in right], found)["metrics"].values():
        assert figure["low"] < figure["value"] < figure["high"]


@pytest.mark.parametrize(
    ("right", "text", "exact", "f1"),
    [
        (["Denver Broncos"], "the denver broncos!", 1, 1),
        (["Denver Broncos", "Broncos"], "Broncos", 1, 1),
        (["a gold anniversary"], "golden anniversary", 0, 0.5),
        (["in 1996"], "1996", 0, 2 / 3),
        (["x x y"], "x z", 0, 0.4),
        (["Paris"], None, 0, 0),
        ([], None, 1, 1),
        ([], "Paris", 0, 0),
        ([""], None, 1, 1),
        (["The"], "", 1, 1),
    ],
)
def test_answers_are_compared_as_squad_does(right, text, exact, f1):
    values = answers_report([right], [{"text": text}])["metrics"]
    assert (values["exact_match"]["value"], values["f1"]["value"]) == (exact, pytest.approx(f1))


@pytest.mark.parametrize("kind", ["summarize", "translate", "generate", "answer"])
def test_right_texts_are_one_a_row_or_several_and_nothing_else(kind):
    assert check_gold(kind, pa.array(["a", "b"]), column="g") == [["a"], ["b"]]
    assert check_gold(kind, pa.array([["a", None], ["b"]]), column="g") == [["a"], ["b"]]
    for wrong in (pa.array([1]), pa.array([[1]]), pa.array([{"text": "a"}]), pa.array([math.nan])):
        with pytest.raises(JobError, match="must be text, or a list of right texts"):
            check_gold(kind, wrong, column="g")
    nothing = pa.array([["a"], [None]])
    if kind == "answer":
        assert check_gold(kind, nothing, column="g") == [["a"], []]
    else:
        with pytest.raises(JobError, match="row 2 of those with gold: no right text"):
            check_gold(kind, nothing, column="g")


# 500 draws: 95 % of intervals hold the truth, give or take 2 standard errors of the share.
def test_intervals_hold_the_truth_in_93_to_97_of_100_simulated_data_sets():
    truth = 0.85
    chance = np.random.default_rng(11)
    held = 0
    for number in range(500):
        right = (chance.random(300) < truth).astype(float)
        found = interval(lambda rows, right=right: right[rows].mean(), 300, seed=number,
                         resamples=400)  # fmt: skip
        held += found["low"] <= truth <= found["high"]
    assert 0.93 <= held / 500 <= 0.97


def test_one_row_has_a_figure_and_no_interval():
    assert interval(lambda rows: float(len(rows)), 1) == {"value": 1.0, "low": None, "high": None}


# The verb.


@pytest.fixture(scope="module")
def job(tiny_model, tmp_path_factory):
    """A job of a random classifier over 30 rows, with gold of several kinds."""
    top = tmp_path_factory.mktemp("evaluate")
    rows = 30
    spans = pa.list_(
        pa.struct([("label", pa.string()), ("start", pa.int32()), ("end", pa.int32())])
    )
    table = pa.table(
        {
            "text": [f"w{i} w{i + 1}" if i != 4 else None for i in range(rows)],
            "gold": [["no", "yes", None][i % 3] for i in range(rows)],
            'q"d': ["no"] * rows,
            "number": range(rows),
            "strange": ["no", "maybe"] * 15,
            "nothing": pa.nulls(rows, pa.string()),
            "nan": [math.nan] * rows,
            "several": [["no"], []] * 15,
            "spans": pa.array([[{"label": "X", "start": 0, "end": 99}]] * rows, spans),
        }
    )
    (top / "lake").mkdir()
    pq.write_table(table.slice(0, 20), top / "lake/a.parquet")
    pq.write_table(table.slice(20), top / "lake/b.parquet")
    said = {
        "name": "tiny",
        "input": {"path": str(top / "lake"), "text": "text", "columns": ["number"]},
        "output": {"path": str(top / "out")},
        "tasks": {"mood": {"kind": "classify", "model": str(tiny_model)}},
    }
    (top / "job.yaml").write_text(yaml.safe_dump(said))
    return top / "job.yaml"


def call(job, *arguments):
    done = CliRunner().invoke(main, ["evaluate", str(job), *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


def test_a_task_is_held_against_the_rows_that_have_gold(job):
    code, out, err = call(job, "--gold", "gold", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert (report["task"], report["kind"], report["gold"]) == ("mood", "classify", "gold")
    assert (report["rows"], report["unanswered"]) == (20, 1)
    assert sum(map(sum, report["confusion"]["rows"])) == 19
    few = json.loads(call(job, "--gold", "gold", "--json", "--rows", 7)[1])
    assert few["rows"] == 7
    code, out, _ = call(job, "--gold", "gold")
    assert (code, "accuracy" in out, "1 of them unanswered" in out) == (0, True, True)


def test_gold_of_several_labels_is_held_against_scores(job):
    code, out, _ = call(job, "--gold", "several", "--json")
    assert (code, json.loads(out)["rows"]) == (0, 30)
    code, _, err = call(job, "--gold", "several", "--set", "tasks.mood.top_k=1")
    assert (code, "Leave out the task's top_k" in err) == (2, True)


def test_a_gold_column_may_have_any_name(job):
    assert call(job, "--gold", 'q"d')[0] == 0


def test_an_output_that_is_there_gives_the_same_report(job, tmp_path):
    from pipeline.job.file import load_job
    from pipeline.preview import Wanted, preview_rows

    loaded = load_job(str(job), overrides=['input.columns=["text", "gold"]'])
    found = preview_rows(loaded, Wanted(30))
    (tmp_path / "out").mkdir()
    pq.write_table(pa.concat_tables(found.tables), tmp_path / "out/all.parquet")
    given = call(job, "--gold", "gold", "--json", "--output", "--set",
                 f"output.path={tmp_path / 'out'}")  # fmt: skip
    assert given == call(job, "--gold", "gold", "--json")
    code, _, err = call(job, "--gold", "gone", "--output", "--set", f"output.path={tmp_path}/out")
    assert (code, "--gold: there is no column `gone`" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gold", "golt"], "has no column `golt`; there are"),
        (["--gold", "number"], "gold column number is int64; for classify it must be text"),
        (["--gold", "nan"], "gold column nan is double; for classify it must be text"),
        (["--gold", "spans"], "for classify it must be text"),
        (["--gold", "nothing"], "gold column nothing is null in all rows"),
        (["--gold", "strange"], "'maybe' (15 times) is none of the labels that the task gives"),
        (["--gold", "gold", "--task", "moon"], "--task: there is no task `moon`"),
        (["--gold", "gold", "--output"], "holds no annotated rows yet"),
        (["--gold", "gold", "--rows", "0"], "0 is not in the range"),
        ([], "Missing option '--gold'"),
    ],
)
def test_gold_that_cannot_be_right_is_told_in_a_line_before_anything_is_loaded(
    job, arguments, message, monkeypatch
):
    monkeypatch.setattr("pipeline.evaluate.preview_rows", None)
    code, _, err = call(job, *arguments)
    assert (code, message in err) == (2, True), err


GOLD_SPANS = {
    "list of text": (pa.array([["a"]]), "it must be list<struct<label: string, start, end>>"),
    "text for offsets": (
        pa.array([[{"label": "A", "start": "x", "end": "y"}]]),
        "it must be list<struct",
    ),
    "end before start": (
        pa.array([[], [{"label": "A", "start": 3, "end": 3}]]),
        "row 2 of those with gold: a span 'A' goes from 3 to 3",
    ),
    "outside of the text": (
        pa.array([[{"label": "A", "start": 0, "end": 9}]]),
        "ends at 9, the text at 4",
    ),
    "no label": (
        pa.array([[{"label": None, "start": 0, "end": 1}]],
                 pa.list_(pa.struct([("label", pa.string()), ("start", pa.int64()),
                                     ("end", pa.int64())]))),
        "lacks a label",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", GOLD_SPANS)
def test_gold_spans_that_are_none_are_refused(what):
    gold, message = GOLD_SPANS[what]
    with pytest.raises(JobError) as caught:
        check_gold("ner", gold, column="g", texts=["text"] * len(gold))
    assert message in str(caught.value)


def test_a_gold_span_of_a_label_that_the_model_lacks_is_refused():
    gold = pa.array([[{"label": "A", "start": 0, "end": 1}]])
    with pytest.raises(JobError, match=r"'A' \(1 times\) is none of the labels"):
        check_gold("ner", gold, column="g", known=["B"])
    assert check_gold("ner", gold, column="g", known=["A", "B"]) == gold.to_pylist()


def test_spans_are_shown_by_label_within_the_width_of_a_terminal(capsys):
    gold, found = some_spans(1)
    _show({"task": "t", "kind": "ner", "gold": "g", "rows": 40, "unanswered": 0,
           **spans_report(gold, found)})  # fmt: skip
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize(("aggregation", "label"), [("first", "PER"), ("none", "B-PER")])
def test_labels_of_a_tagger_are_those_that_its_task_gives(tmp_path, aggregation, label):
    names = dict(enumerate(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]))
    model = hollow_model(tmp_path / "model", "BertForTokenClassification", id2label=names)
    spans = [[{"label": kind, "start": 0, "end": 1}] for kind in (label, "MISC")]
    (tmp_path / "lake").mkdir()
    pq.write_table(pa.table({"text": ["ab", "cd"], "gold": spans}), tmp_path / "lake/a.parquet")
    said = {
        "name": "tags",
        "input": {"path": str(tmp_path / "lake")},
        "output": {"path": str(tmp_path / "out")},
        "tasks": {"t": {"kind": "ner", "model": str(model), "aggregation": aggregation}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(said))
    code, _, err = call(tmp_path / "job.yaml", "--gold", "gold")
    assert (code, "'MISC' (1 times) is none of the labels" in err) == (2, True), err
    assert ("PER, LOC" in err) == (aggregation == "first")


def test_what_is_not_installed_is_named_with_the_command(monkeypatch):
    monkeypatch.setattr("pipeline.learn.evaluate.find_spec", lambda name: None)
    with pytest.raises(JobError, match=r"needs nervaluate.* pip install 'shardscribe\[evaluate\]'"):
        check_libraries("ner")
