"""How good written texts and answers are: against one right text a row, or several."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.learn.intervals import interval

ROUGE = ("rouge1", "rouge2", "rougeL")
ARTICLES = re.compile(r"\b(a|an|the)\b")
MARKS = str.maketrans("", "", string.punctuation)


def texts_report(
    gold: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> dict[str, Any]:
    """ROUGE, BLEU and chrF.

    Args:
        gold: The right texts of each row.
        found: What the task gave for it: `text`.
        seed: Of the bootstrap.

    Returns:
        Plain data, unrounded: ROUGE F1 from 0 to 1, means over rows, of the best of several right
        texts; BLEU and chrF from 0 to 100, of all rows together, as sacrebleu has them.
    """
    from rouge_score.rouge_scorer import RougeScorer

    given = [_text(value) for value in found]
    scorer = RougeScorer(ROUGE)
    scores = [scorer.score_multi(right, text) for right, text in zip(gold, given, strict=True)]
    metrics = {name: _mean([score[name].fmeasure for score in scores], seed=seed) for name in ROUGE}
    return {"metrics": {**metrics, **_corpus(gold, given, seed=seed)}}


def answers_report(
    gold: Sequence[Sequence[str]], found: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> dict[str, Any]:
    """Exact match and F1 of words, as SQuAD has them.

    Case, punctuation, English articles and spaces do not count. No answer is right where no answer,
    or an empty one, is the right one.

    Args:
        gold: The right answers of each row, of which the best counts.
        found: What the task gave for it: `text`, None if there is no answer.
        seed: Of the bootstrap.

    Returns:
        Plain data: figures from 0 to 1, unrounded.
    """
    pairs = list(zip(gold, map(_text, found), strict=True))
    exact, f1 = ([_best(one, right, text) for right, text in pairs] for one in (is_same, words_f1))
    return {"metrics": {"exact_match": _mean(exact, seed=seed), "f1": _mean(f1, seed=seed)}}


def is_same(right: str, text: str) -> float:
    """1 where two answers are the same but for what does not count, else 0."""
    return float(_words(right) == _words(text))


def words_f1(right: str, text: str) -> float:
    """F1 of the words that two answers share, from 0 to 1."""
    one, other = _words(right), _words(text)
    if not one or not other:
        return float(one == other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))


def _words(answer: str) -> list[str]:
    return ARTICLES.sub(" ", answer.lower().translate(MARKS)).split()


def _best(score: Callable[[str, str], float], right: Sequence[str], text: str) -> float:
    return max(score(one, text) for one in right or [""])


def _text(value: Mapping[str, Any]) -> str:
    return str(value["text"]) if value["text"] is not None else ""


def _mean(values: Sequence[float], *, seed: int) -> dict[str, float | None]:
    array = np.array(values, dtype=float)
    return interval(lambda rows: float(array[rows].mean()), len(array), seed=seed)


def _corpus(
    gold: Sequence[Sequence[str]], given: Sequence[str], *, seed: int
) -> dict[str, dict[str, float | None]]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    most = max(map(len, gold))
    # As sacrebleu takes them: the first of each row, the second, ...; None where there is none.
    right: Any = [[some[at] if at < len(some) else None for some in gold] for at in range(most)]
    found: dict[str, dict[str, float | None]] = {}
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):
        # What a row adds to the whole: counts, whose sums over rows give the score.
        counts = np.array(metric._extract_corpus_statistics(list(given), right))

        def score(rows: Any, metric: Any = metric, counts: Any = counts) -> float:
            summed = counts[rows].sum(axis=0).tolist()
            return float(metric._aggregate_and_compute([summed]).score)

        found[name] = interval(score, len(given), seed=seed)
    return found
