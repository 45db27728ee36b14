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
EXPECTED: dict[str, list[tuple[str, float]]] = {}


@pytest.fixture(scope="module")
def reviews() -> list[str]:
    """Real texts that fit the model, so that nothing else than it decides."""
    texts = [item.text for item in load_reviews().dev]
    return [text for text in texts if 20 < len(text) < 700][:30]


@pytest.mark.parametrize("diversity", [0.0, 0.4, 0.9])
def test_phrases_are_those_that_sentence_transformers_vectors_give(
    load_task: Callable[..., Any], reviews: list[str], diversity: float
) -> None:
    model = sentence_transformers.SentenceTransformer(str(catalog.folder(MINILM)), device="cpu")
    annotate = load_task(MINILM, kind="keywords", diversity=diversity, stop_words=STOPS)
    rows = annotate.annotate(reviews).column.to_pylist()
    for text, row in zip(reviews, rows, strict=True):
        said = [p.said for p in phrases(text, least=1, most=3, stops=set(STOPS))]
        whole, *vectors = model.encode([text, *said], show_progress_bar=False, batch_size=256)
        scores = dict(zip(said, np.array(vectors) @ whole, strict=True))
        expected = reference(scores, dict(zip(said, vectors, strict=True)), diversity=diversity)
        got = [" ".join(phrase["text"].split()) for phrase in row]
        assert got == expected
        for phrase, name in zip(row, got, strict=True):
            assert phrase["score"] == pytest.approx(float(scores[name]), abs=1e-4)


def reference(
    scores: dict[str, float], vectors: dict[str, np.ndarray], *, diversity: float
) -> list[str]:
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


@pytest.mark.parametrize("text", EXPECTED)
def test_phrases_are_those_that_keybert_gives(load_task: Callable[..., Any], text: str) -> None:
    annotate = load_task(MINILM, kind="keywords", diversity=0.4, stop_words=STOPS)
    (row,) = annotate.annotate([text]).column.to_pylist()
    # KeyBERT sorts them by score.
    got = sorted(row, key=lambda phrase: -phrase["score"])
    assert [phrase["text"] for phrase in got] == [name for name, _ in EXPECTED[text]]
    scores = [score for _, score in EXPECTED[text]]
    assert np.allclose([phrase["score"] for phrase in got], scores, atol=1e-3)
