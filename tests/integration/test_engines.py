"""The engines give the same annotations on the same weights, and a job says which it wants."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from onnx_export import exported

from pipeline.cli.main import main
from pipeline.models.device import Device
from pipeline.models.engines import ENGINES
from pipeline.models.resolve import look_up
from pipeline.starter import catalog
from pipeline.tasks import TASKS

pytestmark = pytest.mark.integration

PERSONAL = [
    "My name is Anna Schmidt and I live at 12 Baker Street, London.",
    "Call me on (555) 123-4567 or write to anna.schmidt@example.com!",
    "Nothing personal here.",
    "  Dr.  Müller-Lüdenscheidt 🙂 met O'Brien\tand 李小龍 in São Paulo\n on 3/4/1999 ",
    "x",
]


def numbers(column: Any) -> tuple[list[Any], np.ndarray]:
    """What of a column must be equal, and what must be near."""
    if not isinstance(column[0], dict | list):
        return [], np.array(column)
    words, found = [], []
    for row in column:
        if isinstance(row, dict):
            ranked = sorted(row["scores"], key=lambda one: one["label"])
            words.append((row["label"], [one["label"] for one in ranked]))
            found += [one["score"] for one in ranked]
        elif row and isinstance(row[0], dict):
            words.append([(e["label"], e["start"], e["end"], e["text"]) for e in row])
            found += [e["score"] for e in row]
        elif row and isinstance(row[0], float):
            found += row
        else:
            words.append(row)
    return words, np.array(found)


@pytest.fixture(scope="module")
def texts(reviews: Path) -> list[str]:
    found = [
        t for f in sorted(reviews.glob("*.parquet")) for t in pq.read_table(f)["text"].to_pylist()
    ]
    short = sorted(found, key=len)[:40]
    return [*short, *PERSONAL, "\n".join(sorted(found, key=len)[-3:]), *PERSONAL]


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("classify", "starter/sentiment"),
        ("embed", "starter/minilm"),
        ("ner", "starter/pii"),
        # As its authors made it: 4 bits a weight, which the other engine has unpacked.
        ("ner", "its own file"),
    ],
)
def test_engines_agree_and_a_row_is_the_same_alone_and_in_any_batch(
    kind: str, model: str, texts: list[str], tmp_path: Path
) -> None:
    device = Device("cpu")
    starter = "starter/pii" if model == "its own file" else model
    given = {"torch": starter, "onnxruntime": starter}
    if starter == model:
        folder = exported(catalog.folder(starter), tmp_path / "model", kind=kind)
        given["onnxruntime"] = str(folder)
    columns = {}
    for name, engine in ENGINES.items():
        reference = given[name]
        info = look_up(reference, weights=engine.weights)
        task = TASKS[kind](TASKS[kind].Options(kind=kind, model=reference))
        task.bind(info)
        engine.check(info, head=task.head(info), adapter=None)
        loaded = task.load(engine.open({reference: info}, device=device))
        answer = loaded.annotate(texts)
        assert answer.failures == {}
        columns[name] = answer.column.to_pylist()
        alone = [loaded.annotate([text]).column.to_pylist()[0] for text in texts[38:47]]
        words, scores = numbers(alone)
        wanted, near = numbers(columns[name][38:47])
        assert words == wanted
        assert scores == pytest.approx(near, abs=1e-4)
    words, scores = numbers(columns["torch"])
    theirs, near = numbers(columns["onnxruntime"])
    assert words == theirs
    assert scores == pytest.approx(near, abs=1e-4)
    assert len(near) > 20


def test_a_job_that_names_the_engine_runs_with_it_and_its_output_is_of_that_engine(
    ray_cluster: None, reviews: Path, make_job: Callable[..., Any], tmp_path: Path
) -> None:
    make_job(
        reviews,
        tasks={"pii": {"kind": "ner", "model": "starter/pii"}},
        compute={"engine": "onnxruntime", "workers": 1},
    )
    job = str(tmp_path / "job.yaml")
    done = CliRunner().invoke(main, ["run", job])
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "annotated").glob("*.parquet"))
    assert sum(pq.read_metadata(file).num_rows for file in files) == 120
    assert any(row for file in files for row in pq.read_table(file)["pii"].to_pylist())
    again = CliRunner().invoke(main, ["run", job, "--set", "compute.engine=torch"])
    assert again.exit_code == 2
    assert "engine was onnxruntime, is not set" in again.output
