"""Labels of two outputs beside each other: what changed, and whether it is by chance."""

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from pipeline.cli.main import main

pytestmark = pytest.mark.unit

ROWS = 400
KIND = pa.struct([("label", pa.string()), ("score", pa.float32())])


def labels(seed):
    return np.random.default_rng(seed).choice(["a", "b", "c"], ROWS, p=[0.6, 0.3, 0.1]).tolist()


GOLD, ONE, OTHER = (labels(seed) for seed in range(3))
OTHER = [gold if row % 3 == 0 else other
         for row, (gold, other) in enumerate(zip(GOLD, OTHER, strict=True))]  # fmt: skip


def write(folder, given, *, ids=None, reverse=False, **columns):
    """An output of two files."""
    folder.mkdir()
    mood = [None if label is None else {"label": label, "score": 0.5} for label in given]
    table = pa.table({"id": list(range(len(given)) if ids is None else ids),
                      "mood": pa.array(mood, KIND), **columns})  # fmt: skip
    if reverse:
        table = table.take(list(range(table.num_rows))[::-1])
    pq.write_table(table.slice(0, 150), folder / "a.parquet")
    pq.write_table(table.slice(150), folder / "b.parquet")
    return folder


def call(*arguments):
    done = CliRunner().invoke(main, ["evaluate", "--compare", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def outputs(tmp_path):
    first = write(tmp_path / "one", ONE, gold=GOLD, number=list(range(ROWS)))
    return first, write(tmp_path / "other", OTHER, reverse=True)


def test_rows_are_told_by_their_key_and_figures_equal_those_of_the_libraries(outputs):
    code, out, err = call(*outputs, "--gold", "gold", "--json", "--rows", 7)
    assert (code, err) == (0, "")
    report = json.loads(out)
    one, other, gold = map(np.array, (ONE, OTHER, GOLD))
    assert report["rows"] == ROWS
    assert report["agreement"] == pytest.approx((one == other).mean())
    assert report["kappa"] == pytest.approx(cohen_kappa_score(ONE, OTHER))
    changed = np.flatnonzero(one != other)
    assert [row["key"] for row in report["changed"]] == changed[:7].tolist()
    at = int(changed[0])
    assert report["changed"][0] == {"key": at, "from": ONE[at], "to": OTHER[at], "gold": GOLD[at]}
    assert {(row["from"], row["to"]): row["rows"] for row in report["changes"]} == {
        pair: int(((one == pair[0]) & (other == pair[1])).sum())
        for pair in {(ONE[row], OTHER[row]) for row in changed}
    }
    alone = [int(((one == gold) & (other != gold)).sum()),
             int(((one != gold) & (other == gold)).sum())]  # fmt: skip
    against = report["gold"]
    assert against["right_alone"] == alone
    assert against["p_value"] == pytest.approx(binomtest(alone[0], sum(alone), 0.5).pvalue)
    assert against["accuracy"] == pytest.approx([(one == gold).mean(), (other == gold).mean()])


def test_rows_of_one_output_alone_and_rows_without_label_are_counted_and_said(outputs, tmp_path):
    given = [None, None, *OTHER[2:300]]
    third = write(tmp_path / "third", given, ids=range(50, 350))
    report = json.loads(call(outputs[0], third, "--json")[1])
    assert (report["rows"], report["unanswered"], report["only_in"]) == (298, 2, [100, 0])
    assert report["gold"] is None
    code, out, _ = call(outputs[0], third, "--gold", "gold")
    for told in ("100 rows are only in", "2 rows are in both", "McNemar's exact p", "kappa"):
        assert told in out
    assert code == 0


def test_an_output_agrees_with_itself(outputs):
    code, out, _ = call(outputs[0], outputs[0], "--gold", "gold", "--json")
    report = json.loads(out)
    assert (code, report["agreement"], report["kappa"], report["changed"]) == (0, 1, 1, [])
    assert report["gold"]["p_value"] == 1
    assert call(outputs[0], outputs[0])[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--key", "ident"], "--key in .*one: there is no column `ident`"),
        (["--gold", "golt"], "--gold in .*one: there is no column `golt`.*Name `gold`"),
        (["--gold", "number"], "`number` is int64, not a label a row"),
        (["--task", "number"], "`number` has no label a row"),
        (["--key", "gold"], "have a `gold` that another has, such as"),
        (["--key", "mood"], "`mood` of .* is struct.*which tells no rows"),
        (["--output"], "leave out JOB and --output"),
    ],
)
def test_what_can_not_be_compared_is_told(outputs, arguments, told):
    code, out, err = call(*outputs, *arguments)
    assert (code, out) == (2, "")
    assert re.search(told, err), err


def test_outputs_without_a_row_in_common_are_told(outputs, tmp_path):
    far = write(tmp_path / "far", OTHER, ids=range(1000, 1000 + ROWS))
    code, _, err = call(outputs[0], far)
    assert (code, "no `id` is in both" in err) == (2, True)
    words = write(tmp_path / "words", OTHER, ids=[f"x{row}" for row in range(ROWS)])
    code, _, err = call(outputs[0], words)
    assert (code, "`id` is int64 in" in err) == (2, True)
    for arguments in (["evaluate"], ["evaluate", "job.yaml"]):
        done = CliRunner().invoke(main, arguments)
        assert (done.exit_code, "--compare" in done.stderr) == (2, True)
