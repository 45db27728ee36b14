"""Extractive summaries pool sentences as the model's sentence-transformers files say."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
from tiny_encoders import sentence_files

from pipeline.errors import JobError
from pipeline.models.device import Device
from pipeline.models.resolve import look_up
from pipeline.models.torch.load import TorchModels
from pipeline.tasks import TASKS
from pipeline.tasks.writing.extractive import choose

pytestmark = pytest.mark.unit

SENTENCES = [
    "So " + " ".join(f"w{(at * step + step) % 93}" for step in (7, 3, 11, 29, 5, 13)) + " w1."
    for at in range(1, 13)
]
TEXTS = [" ".join(SENTENCES), " ".join(SENTENCES[3:11]), "One. Two.", " ".join(SENTENCES[::-1])]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    # Large, so that sentences are far apart.
    config = tiny_families.config("bert", initializer_range=1.5)
    tiny_families.module("encoder", "bert", config).save_pretrained(folder)
    tiny_families.tokenizer("<s> $A </s>", "<s> $A </s> $B:1 </s>:1").save_pretrained(folder)
    return folder


def load(folder: Path, kind: str, **options: Any) -> Any:
    task = TASKS[kind]
    made = task(task.Options.model_validate({"kind": kind, "model": str(folder), **options}))
    info = look_up(str(folder))
    made.check_model(info)
    return made.load(TorchModels({str(folder): info}, device=Device("cpu"), budget=256))


def summaries(folder: Path) -> list[str]:
    task = load(folder, "summarize", method="extractive", sentences=3)
    answer = task.annotate(TEXTS)
    assert answer.failures == {}
    return [row["text"] for row in answer.column.to_pylist()]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_sentences_are_pooled_as_embed_pools_them(
    plain: Path, tmp_path: Path, pooling: str
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "encoder"))
    sentence_files(folder, pooling=pooling)
    vectors = np.array(load(folder, "embed").annotate(SENTENCES).column.to_pylist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    places = [range(12), range(3, 11), None, range(11, -1, -1)]
    for text, at, got in zip(TEXTS, places, summaries(folder), strict=True):
        if at is None:
            assert got == text
        else:
            order = list(at)
            picked = choose(vectors[order], count=3)
            assert got == " ".join(SENTENCES[order[one]] for one in picked)


def test_the_pooling_changes_what_is_picked(plain: Path, tmp_path: Path) -> None:
    found = set()
    for pooling in ("mean", "cls", "max"):
        folder = Path(shutil.copytree(plain, tmp_path / pooling))
        sentence_files(folder, pooling=pooling)
        found.add(tuple(summaries(folder)))
    assert len(found) == 3


def test_the_files_shortest_windows_and_prompt_are_kept(plain: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "encoder"))
    prompts = {"prompts": {"passage": "w88 w89 "}, "default_prompt_name": "passage"}
    sentence_files(folder, pooling="cls", sizes={"max_seq_length": 5}, prompts=prompts)
    vectors = np.array(load(folder, "embed").annotate(SENTENCES).column.to_pylist())
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    picked = choose(vectors, count=3)
    assert summaries(folder)[0] == " ".join(SENTENCES[one] for one in picked)


def test_a_pooling_that_is_not_built_here_is_refused_before_anything_is_loaded(
    plain: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(plain, tmp_path / "encoder"))
    sentence_files(folder, pooling="lasttoken")
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "lasttoken"}')
    task = TASKS["summarize"]
    options = {"kind": "summarize", "model": str(folder), "method": "extractive"}
    with pytest.raises(JobError, match="pools by lasttoken, which is not built here"):
        task(task.Options.model_validate(options)).check_model(look_up(str(folder)))
