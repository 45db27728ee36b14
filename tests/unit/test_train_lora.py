"""Training low-rank updates: the base stays, what is learned is small, and both forms agree."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file as load_weights
from tiny_lessons import job, lessons, named, write

from pipeline.job.file import load_job
from pipeline.learn.train.run import train_job
from pipeline.preview import Wanted, preview_rows

pytestmark = pytest.mark.unit

LORA = {"epochs": 6, "learning_rate": 0.05, "lora": {"rank": 2}, "checks": 2}
KINDS = {
    "classify": (lessons(120), {}),
    "ner": (named(120), {"task": {"kind": "ner"}, "data": {"label": "spans"}}),
}


def trained(wanted, say=lambda line: None):
    return train_job(wanted, command="shardscribe train job.yaml", say=say)


@pytest.fixture(scope="module", params=KINDS)
def once(request, tiny_model, tmp_path_factory):
    """A kind of task, a job and its record."""
    place = tmp_path_factory.mktemp("lora")
    rows, parts = KINDS[request.param]
    wanted = job(
        tiny_model, write(place / "rows.parquet", rows), place / "model", train=LORA, **parts
    )
    return request.param, wanted, trained(wanted)


def annotated(kind, tmp_path, **task):
    write(tmp_path / "in/rows.parquet", [{"text": row["text"]} for row in lessons(40, seed=9)])
    task = ", ".join(f"{name}: {value}" for name, value in {"kind": kind, **task}.items())
    (tmp_path / "job.yaml").write_text(
        f"name: j\ninput: {{path: {tmp_path}/in}}\noutput: {{path: {tmp_path}/out}}\n"
        f"tasks: {{found: {{{task}}}}}\n"
    )
    found = preview_rows(load_job(tmp_path / "job.yaml"), Wanted(rows=1000))
    return [row["found"] for table in found.tables for row in table.to_pylist()]


def test_layers_change_by_the_rank_alone_and_the_rest_of_the_base_not_at_all(once, tiny_model):
    _, wanted, record = once
    before, after = (
        load_weights(f"{folder}/model.safetensors") for folder in (tiny_model, wanted.output.path)
    )
    ranks = set()
    for name in before.keys() & after.keys():
        if not name.startswith("classifier"):
            change = after[name] - before[name]
            if change.any():
                ranks.add(int(torch.linalg.matrix_rank(change.double(), atol=1e-5)))
                assert "dense" in name or "attention" in name
    assert ranks == {2}
    assert record["trained"] < record["parameters"] / 3


def test_the_updates_as_an_adapter_of_the_base_annotate_as_the_merged_model(
    once, tiny_model, tmp_path
):
    kind, wanted, record = once
    config = json.loads(Path(wanted.output.path, "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == wanted.base
    merged = annotated(kind, tmp_path / "a", model=wanted.output.path)
    apart = annotated(
        kind, tmp_path / "b", model=tiny_model, adapter=f"{wanted.output.path}/adapter"
    )
    if kind == "classify":
        assert [row["label"] for row in apart] == [row["label"] for row in merged]
        assert {row["label"] for row in merged} == {"no", "yes"}
    else:
        assert [[s["label"] for s in row] for row in apart] == [
            [s["label"] for s in row] for row in merged
        ]
        assert any(merged)
    assert record["figures"]["metrics"]


def test_a_training_that_was_stopped_goes_on_with_the_losses_it_would_have_had(once, tmp_path):
    _, wanted, record = once

    class Stop(Exception):
        pass

    seen = []

    def stop_after_a_checkpoint(line):
        seen.append(line)
        if sum("validation loss" in line for line in seen) == 3:
            raise Stop

    output = wanted.output.model_copy(update={"path": str(tmp_path / "model")})
    again = wanted.model_copy(update={"output": output})
    with pytest.raises(Stop):
        trained(again, stop_after_a_checkpoint)
    said = []
    resumed = trained(again, said.append)
    assert any("going on from checkpoint of step" in line for line in said)
    assert resumed["losses"] == [pytest.approx(line, abs=1e-4) for line in record["losses"]]


def test_lora_beside_freeze_is_refused(tiny_model, tmp_path):
    with pytest.raises(ValueError, match="lora leaves all layers as they are"):
        job(tiny_model, tmp_path, tmp_path, train={**LORA, "freeze": {"all_but_last": 1}})
