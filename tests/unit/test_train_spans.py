"""Training a token classifier: spans and tags are learned to the character, bad ones refused."""

from pathlib import Path

import pyarrow as pa
import pytest
from tiny_lessons import job, named, write

from pipeline.errors import JobError
from pipeline.job.file import load_job
from pipeline.learn.train.data import read_rows
from pipeline.learn.train.job import TrainData
from pipeline.learn.train.run import train_job
from pipeline.learn.train.tagged import Span, joined
from pipeline.learn.train.tagger import token_tags
from pipeline.models.resolve import look_up
from pipeline.preview import Wanted, preview_rows

pytestmark = pytest.mark.unit

SPANS = {"task": {"kind": "ner"}, "data": {"label": "spans"}}
TEXT = pa.string()
SPAN = pa.list_(pa.struct([("label", pa.string()), ("start", pa.int32()), ("end", pa.int32())]))


def trained(wanted, said=None):
    return train_job(wanted, command="shardscribe train job.yaml", say=(said or []).append)


@pytest.fixture(scope="module")
def once(tiny_model, tmp_path_factory):
    """A job and its record."""
    place = tmp_path_factory.mktemp("spans")
    data = write(place / "rows.parquet", named(160))
    wanted = job(tiny_model, data, place / "model", train={"epochs": 4}, **SPANS)
    return wanted, trained(wanted)


def test_the_figures_are_those_of_the_spans_that_a_job_finds_with_the_model(once, tmp_path):
    from nervaluate import Evaluator

    wanted, record = once
    rows = read_rows(wanted.data, seed=0, kind="ner")
    write(tmp_path / "in/test.parquet", [{"text": row.text} for row in rows.test])
    (tmp_path / "job.yaml").write_text(
        f"name: j\ninput: {{path: {tmp_path}/in}}\noutput: {{path: {tmp_path}/out}}\n"
        f"tasks: {{names: {{kind: ner, model: {wanted.output.path}}}}}\n"
    )
    found = preview_rows(load_job(tmp_path / "job.yaml"), Wanted(rows=1000))
    got = {row["text"]: row["names"] for table in found.tables for row in table.to_pylist()}
    closed = [
        [[{"label": s["label"], "start": s["start"], "end": s["end"] - 1} for s in spans]
         for spans in some]
        for some in ([[s._asdict() for s in row.spans] for row in rows.test],
                     [got[row.text] for row in rows.test])
    ]  # fmt: skip
    theirs = Evaluator(*closed, tags=["no", "yes"], loader="dict").evaluate()["overall"]["strict"]
    figures = record["figures"]["metrics"]
    assert figures["strict_f1"]["value"] == pytest.approx(theirs.f1)
    assert theirs.f1 > 0.8


def test_the_folder_is_a_token_classifier_with_bio_labels_and_a_card(once):
    wanted, record = once
    info = look_up(wanted.output.path)
    assert list(info.config["id2label"].values()) == ["O", "B-no", "I-no", "B-yes", "I-yes"]
    assert info.architectures == ("BertForTokenClassification",)
    text = Path(wanted.output.path, "README.md").read_text()
    assert "| strict f1 |" in text
    assert f"| {record['figures']['labels'][0]['strict']['f1']:.3f} |" in text
    assert "Labels: `no`, `yes`; any number of them to a text." in text


def test_words_with_tags_give_the_rows_that_spans_give(tmp_path):
    spans = named(40)
    tagged = []
    for row in spans:
        words, tags, at = row["text"].split(" "), [], 0
        for word in words:
            of = [s for s in row["spans"] if s["start"] <= at < s["end"]]
            tags.append(f"{'B' if of[0]['start'] == at else 'I'}-{of[0]['label']}" if of else "O")
            at += len(word) + 1
        tagged.append({"words": words, "tags": tags})
    by_span = read_rows(
        TrainData(path=str(write(tmp_path / "a.parquet", spans)), label="spans"), seed=0, kind="ner"
    )
    by_tag = read_rows(
        TrainData(path=str(write(tmp_path / "b.parquet", tagged)), text="words", label="tags"),
        seed=0, kind="ner",
    )  # fmt: skip
    assert by_tag.train == by_span.train
    assert by_tag.test == by_span.test


SCHEMES = {
    "BIO": ["B-a", "I-a", "B-a", "O", "B-b"],
    "IOBES": ["B-a", "E-a", "S-a", "O", "S-b"],
    "BILOU": ["B-a", "L-a", "U-a", "O", "U-b"],
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_tags_of_each_scheme_tell_the_same_spans(scheme):
    text, spans = joined(["x", "yy", "z", "k", "m-n"], SCHEMES[scheme], where="row 1")
    assert text == "x yy z k m-n"
    assert [(text[s.start : s.end], s.label) for s in spans] == [
        ("x yy", "a"), ("z", "a"), ("m-n", "b")
    ]  # fmt: skip


def test_tags_without_a_prefix_join_their_like():
    _, spans = joined(["x", "y", "z"], ["a", "a", "b-c"], where="row 1")
    assert [tuple(span) for span in spans] == [(0, 3, "a"), (4, 5, "b-c")]


def test_a_token_that_is_in_a_span_in_part_is_of_it_and_is_counted():
    offsets = [(0, 0), (0, 4), (4, 8), (9, 12), (13, 15), (0, 0)]
    special = [1, 0, 0, 0, 0, 1]
    spans = [Span(2, 8, "a"), Span(9, 12, "a"), Span(14, 15, "b")]
    tags, inexact = token_tags(spans, offsets, special)
    assert tags == [None, "B-a", "I-a", "B-a", "B-b", None]
    assert inexact == 2


def rows(*some, text=TEXT, label=SPAN):
    return pa.table(
        {
            "text": pa.array([t for t, _ in some], text),
            "spans": pa.array([s for _, s in some], label),
        }
    )


def span(label, start, end):
    return {"label": label, "start": start, "end": end}


WRONG = {
    "a label a text": (rows(("w1", "yes"), label=pa.string()), "is string; it must be list<struct"),
    "tags that are numbers": (
        rows((["w1"], [1]), text=pa.list_(pa.string()), label=pa.list_(pa.int64())),
        "must be list<string>, a tag for each word"),
    "a text of numbers": (rows((1, []), text=pa.int64()), "must be text, or a list of words"),
    "a span beyond its text": (
        rows(("w1 w2", []), ("w1", [span("yes", 0, 3)])),
        "row 2 of .*'yes' from 0 to 3 is none of its text of 2"),
    "a span backwards": (rows(("w1", [span("yes", 2, 0)])), "from 2 to 0"),
    "a span without a label": (rows(("w1", [span(None, 0, 2)])), "'None' from 0 to 2"),
    "a null span": (rows(("w1", [None])), "None to None"),
    "fewer tags than words": (
        rows((["w1", "w2"], ["O"]), text=pa.list_(pa.string()), label=pa.list_(pa.string())),
        "row 1 of .* has 2 words and 1 tags"),
    "no span at all": (rows(*((f"w{i} w{i + 1}", []) for i in range(9))), "names no label at all"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_spans_that_are_none_are_refused_with_row_and_mend(name, tiny_model, tmp_path):
    table, said = WRONG[name]
    data = write(tmp_path / "rows.parquet", table)
    wanted = job(tiny_model, data, tmp_path / "model", **SPANS)
    wanted = wanted.model_copy(
        update={"data": wanted.data.model_copy(update={"validation": 0.0, "test": 0.0})}
    )
    with pytest.raises(JobError, match=said) as wrong:
        trained(wanted)
    assert (wrong.value.exit_code, bool(wrong.value.hint)) == (2, True)


def test_rows_that_can_t_be_learned_from_are_counted(tmp_path):
    table = rows(
        ("w1 w2", [span("yes", 0, 2)]), ("w3 w4", [span("yes", 0, 2), span("no", 1, 5)]),
        (None, []), (" ", []), ("w5", None), ("w6", []),
    )  # fmt: skip
    data = write(tmp_path / "rows.parquet", table)
    given = TrainData(path=str(data), label="spans", validation=0.0, test=0.0)
    found = read_rows(given, seed=0, kind="ner")
    assert [row.text for row in found.train] == ["w1 w2", "w6"]
    assert found.left_out == {
        "whose spans overlap": 1, "without a text": 2, "without a label": 1
    }  # fmt: skip


def test_class_weights_are_for_labels_of_texts(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="not of spans"):
        job(tiny_model, tmp_path, tmp_path, train={"class_weights": "balanced"}, **SPANS)
