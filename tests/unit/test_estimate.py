"""Shares over a whole output: intervals that hold, rows drawn with weights, bad gold refused."""

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.estimate import estimate
from pipeline.learn.prediction_powered import Moments, gold_mean, powered_mean, why_no_interval
from pipeline.learn.sampling import Systematic, chances, doubt
from pipeline.next_rows import next_rows

pytestmark = pytest.mark.unit

ROWS = 2_000
MADE_WITH = Path(__file__).parent / "ppi_python.json"
SCORES = pa.struct(
    [
        ("label", pa.string()),
        ("score", pa.float32()),
        ("scores", pa.list_(pa.struct([("label", pa.string()), ("score", pa.float32())]))),
    ]
)


def model(seed=0, rows=ROWS):
    """How likely `yes` is by a model that is surer than it is right, and what is right."""
    chance = np.random.default_rng(seed)
    likely = chance.beta(0.3, 0.3, rows)
    return likely, chance.random(rows) < 0.01 + 0.93 * likely


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """An output of two files; every hundredth row has no annotation."""
    top = tmp_path_factory.mktemp("estimate") / "out"
    top.mkdir()
    likely, right = model()
    mood = [
        None
        if row % 100 == 99
        else {
            "label": "yes" if sure >= 0.5 else "no",
            "score": max(sure, 1 - sure),
            "scores": [{"label": "yes", "score": sure}, {"label": "no", "score": 1 - sure}],
        }
        for row, sure in enumerate(likely)
    ]
    spans = [[{"label": "X", "start": 0, "end": 1}] * (row % 3) for row in range(ROWS)]
    kind = pa.list_(pa.struct([("label", pa.string()), ("start", pa.int32()),
                               ("end", pa.int32())]))  # fmt: skip
    table = pa.table(
        {
            "id": range(ROWS),
            "text": [f"text {row}" for row in range(ROWS)],
            "place": ["here" if row % 4 else "there" for row in range(ROWS)],
            "mood": pa.array(mood, SCORES),
            "names": pa.array(spans, kind),
            "length": (likely * 10 + 1e6).tolist(),
            "truth": ["yes" if is_so else "no" for is_so in right],
        }
    )
    pq.write_table(table.slice(0, 700), top / "a.parquet")
    pq.write_table(table.slice(700), top / "b.parquet")
    return top


@pytest.fixture
def gold(lake, tmp_path):
    """Writes a file of so many rows of the lake, with any columns in the place of its own."""

    def write(rows=300, name="gold.parquet", seed=1, **columns):
        picked = np.random.default_rng(seed).choice(ROWS, rows, replace=False)
        whole = pq.read_table(lake)
        few = whole.take(picked).select(["id", "truth"]).rename_columns(["id", "gold"])
        for column, values in columns.items():
            made = pa.array(values(few) if callable(values) else values)
            at = few.schema.get_field_index(column)
            few = few.append_column(column, made) if at < 0 else few.set_column(at, column, made)
        file = tmp_path / name
        (pc.write_csv if name.endswith(".csv") else pq.write_table)(few, file)
        return file

    return write


def call(*arguments):
    done = CliRunner().invoke(main, ["estimate", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


# The formulas.


def drawn(seed):
    """What the figures of ppi-python were made of."""
    chance = np.random.default_rng(seed)
    rows, every = int(chance.integers(10, 400)), int(chance.integers(400, 3000))
    found = chance.beta(0.5, 0.5, every)
    picked = chance.choice(every, rows, replace=False)
    likely = found[picked] + [0, 0.1, 0.5, 5][seed % 4] * chance.normal(size=rows)
    right = (chance.random(rows) < likely.clip(0, 1)).astype(float)
    if seed % 7 == 3:
        right = 1 - right  # of a model that is worse than none
    if seed % 5 == 4:
        right, found = right * 37 + 1000, found * 40 + 1000
    return right, found[picked], found


@pytest.mark.parametrize("figures", json.loads(MADE_WITH.read_text())["figures"])
def test_estimates_equal_those_of_ppi_python(figures):
    right, picked, found = drawn(figures["seed"])
    lake = Moments(len(found), float(found.mean()), float(found.var()))
    mine = powered_mean(right, picked, lake, confidence=figures["confidence"])
    for end in ("value", "low", "high"):
        assert mine[end] == pytest.approx(figures[end], abs=1e-6, rel=0)


def test_an_interval_holds_as_often_as_it_says_and_is_narrower_than_by_gold_alone():
    likely, right = model(rows=20_000)
    right, lake = right.astype(float), Moments(20_000, float(likely.mean()), float(likely.var()))
    chance, held, ratios = np.random.default_rng(2), 0, []
    for _ in range(500):
        rows = chance.choice(20_000, 300)
        found = powered_mean(right[rows], likely[rows], lake)
        alone = gold_mean(right[rows])
        held += found["low"] <= right.mean() <= found["high"]
        ratios.append((found["high"] - found["low"]) / (alone["high"] - alone["low"]))
    assert 0.93 <= held / 500 <= 0.97
    assert np.median(ratios) < 0.75


def test_annotations_that_tell_nothing_leave_the_interval_of_gold_alone():
    chance = np.random.default_rng(0)
    right, constant = chance.random(50), np.full(50, 0.25)
    found = powered_mean(right, constant, Moments(900, 0.25, 0.0))
    assert found == {**gold_mean(right), "power": 0}
    against = powered_mean(right, -right, Moments(900, -float(right.mean()), float(right.var())))
    assert against["power"] == 0


def test_rows_drawn_by_doubt_give_a_narrower_interval_that_holds_as_often():
    likely, right = model(rows=20_000)
    right, lake = right.astype(float), Moments(20_000, float(likely.mean()), float(likely.var()))
    doubts = doubt(np.stack([1 - likely, likely], axis=1), 1)
    odds = chances(doubts, wanted=300, rows=20_000, total=float(doubts.sum()))
    chance, held, widths, even = np.random.default_rng(3), 0, [], []
    for _ in range(500):
        order = chance.permutation(20_000)
        rows = order[Systematic(chance.random()).draw(odds[order])]
        assert len(rows) == pytest.approx(300, abs=1)
        found = powered_mean(right[rows], likely[rows], lake, weights=1 / odds[rows])
        held += found["low"] <= right.mean() <= found["high"]
        widths.append(found["high"] - found["low"])
        same = chance.choice(20_000, 300)
        found = powered_mean(right[same], likely[same], lake)
        even.append(found["high"] - found["low"])
    assert 0.93 <= held / 500 <= 0.97
    assert np.median(widths) < 0.97 * np.median(even)


def test_each_row_is_drawn_as_often_as_it_should_be_however_the_lake_is_cut():
    odds = np.array([0.1, 0.5, 1.0, 0.4, 0.02, 0.98])
    times = np.zeros(6)
    for step in range(1000):
        draw = Systematic((step + 0.5) / 1000)
        for first, last in ((0, 2), (2, 2), (2, 5), (5, 6)):
            times[first + draw.draw(odds[first:last])] += 1
    assert times / 1000 == pytest.approx(odds, abs=0.002)


def test_an_interval_that_could_not_be_trusted_is_not_given():
    few, all_alike = np.array([0.0, 1.0] * 4), np.ones(50)
    assert "8 gold rows, at least 10" in why_no_interval(few, share=True)
    assert "0 gold rows without the label" in why_no_interval(all_alike, share=True)
    rare = np.r_[np.ones(4), np.zeros(96)]
    assert "4 gold rows with the label" in why_no_interval(rare, share=True)
    assert "the same number" in why_no_interval(all_alike, share=False)
    assert why_no_interval(np.array([0.0, 1.0] * 5), share=True) is None


# Over an output.


def test_a_share_is_of_all_annotated_rows_and_by_group(lake, gold):
    file = gold()
    report = estimate(str(lake), gold=file, task="mood")
    likely, right = model()
    there = np.arange(ROWS) % 100 != 99
    assert (report["rows"], report["unanswered"], report["key"]) == (ROWS - 20, 20, "id")
    yes = next(row for row in report["estimates"] if row["label"] == "yes")
    ids = np.array(pq.read_table(file)["id"])
    ids = ids[ids % 100 != 99]
    assert report["gold"]["rows"] == yes["gold_rows"] == len(ids)
    assert report["gold"]["unanswered"] == 300 - len(ids)
    mine = powered_mean(
        right[ids].astype(float), likely[ids],
        Moments(ROWS - 20, float(likely[there].mean()), float(likely[there].var())),
    )  # fmt: skip
    assert {end: yes[end] for end in mine} == pytest.approx(mine, abs=1e-6)
    no = next(row for row in report["estimates"] if row["label"] == "no")
    assert no["value"] == pytest.approx(1 - yes["value"], abs=1e-6)
    groups = estimate(str(lake), gold=file, task="mood", by="place", label="yes")["estimates"]
    assert [(row["group"], row["label"]) for row in groups] == [("here", "yes"), ("there", "yes")]
    assert sum(row["rows"] for row in groups) == ROWS - 20
    only = ids[ids % 4 == 0]
    same = powered_mean(
        right[only].astype(float), likely[only],
        Moments(500, float(likely[::4].mean()), float(likely[::4].var())),
    )  # fmt: skip
    assert {end: groups[1][end] for end in same} == pytest.approx(same, abs=1e-6)


def test_csv_says_the_same_as_parquet_and_text_may_be_the_key(lake, gold):
    one = estimate(str(lake), gold=gold(), task="mood")
    other = estimate(str(lake), gold=gold(name="gold.csv"), task="mood")
    assert one == other
    texts = gold(
        name="t.parquet", text=lambda few: [f"text {row}" for row in few["id"].to_pylist()]
    )
    third = estimate(str(lake), gold=texts, task="mood", key="text")
    assert third["estimates"] == one["estimates"]


def test_means_of_numbers_and_of_spans_a_row(lake, gold):
    file = gold(gold=lambda few: [1e6 + row % 7 for row in few["id"].to_pylist()])
    (mean,) = estimate(str(lake), gold=file, task="length")["estimates"]
    assert 1e6 + 2 < mean["low"] < mean["value"] < mean["high"] < 1e6 + 4
    span = {"label": "X", "start": 0, "end": 1}
    file = gold(gold=lambda few: [[span] * (row % 3) for row in few["id"].to_pylist()])
    (found,) = estimate(str(lake), gold=file, task="names")["estimates"]
    # The model is right everywhere, so that gold adds nothing to what it says of all.
    assert found["value"] == pytest.approx(sum(row % 3 for row in range(ROWS)) / ROWS, abs=0.01)
    assert found["high"] - found["low"] < found["gold_alone"]["high"] - found["gold_alone"]["low"]


def test_gold_that_does_not_count_is_counted_and_said(lake, gold, tmp_path):
    table = pq.read_table(gold())
    extra = pa.table({"id": [10**6, None, 5, 5], "gold": ["yes", "yes", "no", "no"]})
    known = table.filter(pa.compute.not_equal(table["id"], 5))
    nulls = pa.table({"id": [7], "gold": pa.array([None], pa.string())})
    known = known.filter(pa.compute.not_equal(known["id"], 7))
    pq.write_table(pa.concat_tables([known, extra, nulls]), tmp_path / "g.parquet")
    code, out, _ = call(lake, "--task", "mood", "--gold", tmp_path / "g.parquet", "--json")
    said = json.loads(out)["gold"]
    counted = {name: said[name] for name in ("unmatched", "twice", "without_gold", "without_key")}
    assert (code, set(counted.values())) == (0, {1})
    code, out, _ = call(lake, "--task", "mood", "--gold", tmp_path / "g.parquet")
    for told in ("match no row", "have no gold", "have no key", "are there twice", "20 more"):
        assert told in out


def test_a_group_with_too_few_gold_rows_has_no_interval_and_it_is_said(lake, gold):
    # None of the rows that are `there`.
    file = gold(rows=200, gold=lambda few: [
        said if row % 4 else None
        for row, said in zip(few["id"].to_pylist(), few["gold"].to_pylist(), strict=True)
    ])  # fmt: skip
    report = estimate(str(lake), gold=file, task="mood", by="place", label="yes")
    here, there = report["estimates"]
    assert (there["gold_rows"], there["low"], there["value"]) == (0, None, None)
    assert here["low"] < here["value"] < here["high"]
    code, out, _ = call(lake, "--task", "mood", "--gold", file, "--by", "place", "--label", "yes")
    assert (code, "no interval for there, yes: 0 gold rows" in out) == (0, True)


@pytest.mark.parametrize(
    ("columns", "options", "told"),
    [
        ({"gold": range(300)}, [], "gold column `gold` is int64; it must be text"),
        ({"gold": ["Yes"] * 300}, [], "label 'Yes' of `gold` is none .* no, yes"),
        ({"gold": pa.nulls(300, pa.string())}, [], "no row with both `id` and `gold`"),
        ({"id": ["x"] * 300}, [], "key `id` is string, in the output it is int64"),
        ({"id": range(10**6, 10**6 + 300)}, [], "none of 300 gold rows"),
        ({"id": [1] * 300}, [], "key '1' is there twice, as"),
        ({"weight": [0.0] * 300}, [], "sampling weight 0.0"),
        ({"weight": ["a"] * 300}, [], "`weight` is string, not a number"),
        ({"text": ["a"] * 300}, [], "shares 2 columns .*: id, text. Say with --key"),
        ({}, ["--column", "golt"], "has no column `golt`.*Name `gold`"),
        ({}, ["--key", "ident"], "--key: there is no column `ident`"),
        ({}, ["--by", "plaice"], "--by: there is no column `plaice`.*Name `place`"),
        ({}, ["--by", "mood"], "`mood` is struct.*makes no groups"),
        ({}, ["--label", "maybe"], "--label: there is no label `maybe`; there are no, yes"),
        ({}, ["--task", "text"], "`text` is string, of which there is no share"),
        ({}, ["--task", "mud"], "--task: there is no column `mud`."),
    ],
)
def test_what_can_not_be_estimated_is_told_in_a_line(lake, gold, columns, options, told):
    task = [] if "--task" in options else ["--task", "mood"]
    code, out, err = call(lake, "--gold", gold(**columns), *task, *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert re.search(told, err), err


def test_files_that_are_none_are_told_in_a_line(lake, tmp_path):
    (tmp_path / "x.parquet").write_text("no")
    (tmp_path / "x.csv").write_bytes(b"id,gold\n1,a,b\n")
    for name, told in (("none.csv", "there is no file"), ("x.parquet", "can't be read as Parquet"),
                       ("x.csv", "can't be read as CSV")):  # fmt: skip
        code, _, err = call(lake, "--task", "mood", "--gold", tmp_path / name)
        assert (code, err.count("\n"), told in err) == (2, 1, True), err
    code, _, err = call(lake, "--task", "mood")
    assert (code, "--gold" in err) == (2, True)
    code, _, err = call(lake, "--gold", tmp_path / "x.csv")
    assert (code, "has 2 columns of labels: mood, names. Say" in err) == (2, True)


def test_rows_to_label_next_are_filled_in_and_give_an_estimate(lake, tmp_path):
    file = tmp_path / "next.csv"
    code, out, err = call(lake, "--task", "mood", "--key", "id", "--next", 300, file)
    assert (code, err, "300 rows" in out or "299 rows" in out) == (0, "", True)
    table = pc.read_csv(file)
    assert table.column_names == ["id", "text", "gold", "weight"]
    assert table["gold"].null_count == table.num_rows
    # Each stands for as many rows as its weight says.
    assert sum(table["weight"].to_pylist()) == pytest.approx(ROWS - 20, rel=0.1)
    _, right = model()
    filled = ["yes" if right[row] else "no" for row in table["id"].to_pylist()]
    pc.write_csv(table.set_column(2, "gold", pa.array(filled)), tmp_path / "full.csv")
    report = estimate(str(lake), gold=tmp_path / "full.csv", task="mood", key="id", label="yes")
    (yes,) = report["estimates"]
    assert report["gold"]["weighted"]
    assert yes["value"] == pytest.approx(right.mean(), abs=0.08)
    code, _, err = call(lake, "--task", "mood", "--key", "id", "--next", 300, file)
    assert (code, "is there already" in err) == (2, True)


def test_rows_that_are_labelled_stay_in_the_file_and_weigh_as_if_drawn_with_the_others(
    lake, gold, tmp_path
):
    before, file = gold(rows=100), tmp_path / "more.parquet"
    done = next_rows(str(lake), wanted=200, file=file, gold=before, key="id", task="mood", seed=4)
    table = pq.read_table(file)
    there = [row for row in pq.read_table(before)["id"].to_pylist() if row % 100 != 99]
    assert done["labelled"] == len(there)
    kept = table.filter(table["gold"].is_valid())
    assert sorted(kept["id"].to_pylist()) == sorted(there)
    assert done["rows"] == table.num_rows == len(set(table["id"].to_pylist()))
    assert 270 < done["rows"] <= 301
    # Nothing weighs more than a row drawn evenly among the first.
    assert max(table["weight"].to_pylist()) < ROWS / len(there)
    with pytest.raises(Exception, match="has weights"):
        next_rows(str(lake), wanted=9, file=tmp_path / "x.csv", gold=file, key="id", task="mood")
