"""The sample of tagged sentences: both files' ways of writing are read, labels are of one kind."""

import pyarrow.parquet as pq
import pytest

from pipeline.errors import JobError
from pipeline.starter import entities
from pipeline.starter.entities import load_entities
from pipeline.starter.samples import write_sample

pytestmark = pytest.mark.unit

NEWS = """-DOCSTART- -X- -X- O

Nadim NNP B-NP B-PER
Ladki NNP I-NP I-PER

AL-AIN NNP B-NP B-LOC
, , O O
Asian JJ I-NP B-MISC
"""
TWEETS = (
    "Empire\tB-facility\nState\tI-facility\n:)\tO\n\t\nNadim\tO\nLadki\tO\n\t\nat\tO\nNBC\tB-tvshow"
)


@pytest.fixture
def files(tmp_path, monkeypatch):
    (tmp_path / "sample.conll").write_text(NEWS)
    (tmp_path / "ner.txt").write_text(TWEETS)
    monkeypatch.setattr(entities, "fetch_text", lambda file, progress: tmp_path / file.name)


def test_words_and_tags_are_read_from_both_and_each_sentence_counts_once(files):
    found = {" ".join(row["words"]): row for row in load_entities(seed=1)}
    assert {text: row["tags"] for text, row in found.items()} == {
        "Nadim Ladki": ["B-person", "I-person"],
        "AL-AIN , Asian": ["B-location", "O", "O"],
        "Empire State :)": ["B-location", "I-location", "O"],
        "at NBC": ["O", "O"],
    }
    assert [found[text]["source"] for text in ("Nadim Ladki", "at NBC")] == ["news", "tweets"]


def test_the_order_follows_from_the_seed(files):
    texts = [[" ".join(row["words"]) for row in load_entities(seed=seed)] for seed in (1, 1, 5)]
    assert texts[0] == texts[1] != texts[2]


def test_the_sample_holds_lists_of_words_and_tags(files, tmp_path):
    [file] = write_sample("entities", tmp_path / "out", rows=3, shards=1)
    table = pq.read_table(file)
    assert table.num_rows == 3
    assert all(len(row["words"]) == len(row["tags"]) for row in table.to_pylist())
    with pytest.raises(JobError, match="only 4 such rows"):
        write_sample("entities", tmp_path / "more", rows=5)
