"""Which sentences an extractive summary keeps."""

import numpy as np
import pytest

from pipeline.tasks.writing.extractive import CENTRALITY_SHARE, SAME, choose

pytestmark = pytest.mark.unit


def unit_vectors(count: int, dim: int, *, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((count, dim))
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def by_all_pairs(vectors: np.ndarray, count: int) -> list[int]:
    """The rule, from the cosine of each sentence to each other."""
    cosines = vectors @ vectors.T
    picked: list[int] = []
    while len(picked) < count:
        best, most = -1, -np.inf
        for at in range(len(vectors)):
            near = max((cosines[at, other] for other in picked), default=0.0)
            score = round(CENTRALITY_SHARE * cosines[at].mean() - (1 - CENTRALITY_SHARE) * near, 5)
            if at not in picked and near < SAME and score > most:
                best, most = at, score
        if best < 0:
            break
        picked.append(best)
    return sorted(picked)


@pytest.mark.parametrize("seed", range(20))
def test_the_most_central_sentences_are_those_by_all_pairs(seed: int) -> None:
    vectors = unit_vectors(30, 6, seed=seed)
    vectors[7] = vectors[3]
    for count in (1, 3, 8):
        assert choose(vectors, count=count) == by_all_pairs(vectors, count)


def test_a_text_of_half_a_million_sentences_has_a_summary() -> None:
    # A number for each pair of them would take 2 TB.
    vectors = unit_vectors(500_000, 4)
    picked = choose(vectors, count=3)
    assert len(picked) == 3
    assert picked == sorted(set(picked))
