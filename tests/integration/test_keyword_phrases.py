"""Key phrases of real texts, against sentence-transformers' vectors and KeyBERT's choice."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sentence_transformers

from pipeline.models.text.words import phrases
from pipeline.starter import catalog
from pipeline.starter.reviews import load_reviews

pytestmark = pytest.mark.integration

MINILM = "starter/minilm"
STOPS = "a an and as at be by for in is it its of on that the this to who with".split()  # noqa: SIM905
# KeyBERT 0.9.0 over the same candidates and weights, which sorts what it picked by score.
EXPECTED = {
    "Payami tries to raise some serious issues about Iran's electoral process, but the result is a "
    "film as subtle as a party political broadcast.": [
        ("Payami", 0.5903),
        ("about Iran's electoral", 0.4885),
        ("film as subtle", 0.4094),
        ("party political broadcast", 0.3911),
        ("serious issues about", 0.2088),
    ],
    "A flawed film but an admirable one that tries to immerse us in a world of artistic abandon "
    "and political madness.": [
        ("flawed film", 0.6934),
        ("artistic abandon", 0.5017),
        ("political madness", 0.483),
        ("immerse us", 0.3947),
        ("but an admirable", 0.3262),
    ],
    "The two academy award winning actresses deserve better than this sitcom material.": [
        ("actresses deserve better", 0.7349),
        ("winning actresses deserve", 0.6872),
        ("award winning actresses", 0.6217),
        ("two academy award", 0.4666),
        ("sitcom material", 0.4379),
    ],
}


Vectors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def weighed() -> dict[str, tuple[np.ndarray, Vectors]]:
    """Real texts that fit the model, each with its vector and those of its phrases."""
    model = sentence_transformers.SentenceTransformer(str(catalog.folder(MINILM)), device="cpu")
    texts = [item.text for item in load_reviews().dev if 20 < len(item.text) < 500][:16]
    said = {
        text: [p.said for p in phrases(text, least=1, most=3, stops=set(STOPS))] for text in texts
    }
    every = list(dict.fromkeys([*texts, *(name for found in said.values() for name in found)]))
    made = dict(zip(every, model.encode(every, show_progress_bar=False), strict=True))
    return {text: (made[text], {name: made[name] for name in said[text]}) for text in texts}


@pytest.mark.parametrize("diversity", [0.0, 0.4, 0.9])
def test_phrases_are_those_that_sentence_transformers_vectors_give(
    load_task: Callable[..., Any],
    weighed: dict[str, tuple[np.ndarray, Vectors]],
    diversity: float,
) -> None:
    annotate = load_task(MINILM, kind="keywords", diversity=diversity, stop_words=STOPS)
    rows = annotate.annotate(list(weighed)).column.to_pylist()
    for (whole, vectors), row in zip(weighed.values(), rows, strict=True):
        scores = {name: float(vector @ whole) for name, vector in vectors.items()}
        got = [" ".join(phrase["text"].split()) for phrase in row]
        assert got == reference(scores, vectors, diversity=diversity)
        expected = [scores[name] for name in got]
        assert np.allclose([phrase["score"] for phrase in row], expected, atol=1e-4)


def reference(scores: dict[str, float], vectors: Vectors, *, diversity: float) -> list[str]:
    """Five phrases by maximal marginal relevance."""
    picked = [max(scores, key=lambda name: scores[name])]
    while len(picked) < min(5, len(scores)):
        value = {
            name: (1 - diversity) * score
            - diversity * max(vectors[name] @ vectors[other] for other in picked)
            for name, score in scores.items()
            if name not in picked
        }
        picked.append(max(value, key=lambda name: value[name]))
    return picked


@pytest.mark.parametrize("text", EXPECTED, ids=["issues", "flawed", "actresses"])
def test_phrases_are_those_that_keybert_gives(load_task: Callable[..., Any], text: str) -> None:
    annotate = load_task(MINILM, kind="keywords", diversity=0.4, stop_words=STOPS)
    (row,) = annotate.annotate([text]).column.to_pylist()
    got = sorted(row, key=lambda phrase: -phrase["score"])
    assert [phrase["text"] for phrase in got] == [name for name, _ in EXPECTED[text]]
    scores = [score for _, score in EXPECTED[text]]
    assert np.allclose([phrase["score"] for phrase in got], scores, atol=1e-3)
