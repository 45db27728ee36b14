"""Token predictions to spans, against the pipeline's rules written out as loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.results import strongest
from pipeline.tasks.spans.aggregate import ALL_SCORES, Spans, Tags, aggregate

pytestmark = pytest.mark.unit

HOWS = ("none", "simple", "first", "average", "max")
LABEL_SETS = (
    ("O", "B-PER", "I-PER", "B-LOC", "I-LOC"),
    ("I-PER", "O", "I-LOC"),
    ("PER", "LOC", "O"),
    ("O", "B-ID-CARD", "I-ID-CARD", "E-PER"),
    ("O", "B-O", "PER", "B-PER"),
    ("O", "X-O", "I-X-O"),
)

Token = dict[str, Any]


def reference(tokens: list[Token], labels: tuple[str, ...], how: str) -> list[Token]:
    """`TokenClassificationPipeline`'s gather, aggregate and group over the tokens of one text."""
    if how in ("none", "simple"):
        entities = []
        for token in tokens:
            best = 0
            for index in range(len(labels)):
                if token["scores"][index] > token["scores"][best]:
                    best = index
            entities.append({**token, "label": best, "score": token["scores"][best]})
    else:
        entities = [_word(word, how) for word in _words(tokens)]
    if how == "none":
        return [{**e, "name": labels[e["label"]]} for e in entities if labels[e["label"]] != "O"]
    groups: list[list[Token]] = []
    for entity in entities:
        opens, tag = _tag(labels[entity["label"]])
        if groups and not opens and tag == _tag(labels[groups[-1][-1]["label"]])[1]:
            groups[-1].append(entity)
        else:
            groups.append([entity])
    out = []
    for group in groups:
        name = labels[group[0]["label"]].split("-", 1)[-1]
        if name != "O":
            out.append(
                {
                    "label": group[0]["label"],
                    "name": name,
                    "start": group[0]["start"],
                    "end": group[-1]["end"],
                    "score": sum(float(e["score"]) for e in group) / len(group),
                }
            )
    return out


def _words(tokens: list[Token]) -> list[list[Token]]:
    words: list[list[Token]] = []
    for token in tokens:
        if words and token["subword"]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(word: list[Token], how: str) -> Token:
    if how == "first":
        scores = word[0]["scores"]
    elif how == "max":
        scores = word[0]["scores"]
        for token in word[1:]:
            if max(token["scores"]) > max(scores):
                scores = token["scores"]
    else:
        scores = np.mean(np.stack([token["scores"] for token in word]), axis=0)
    label = int(np.argmax(scores))
    return {
        "start": word[0]["start"],
        "end": word[-1]["end"],
        "label": label,
        "score": scores[label],
    }


def _tag(label: str) -> tuple[bool, str]:
    if label.startswith(("B-", "I-")):
        return label.startswith("B-"), label[2:]
    return False, label


def run(texts: list[list[Token]], labels: tuple[str, ...], how: str) -> Spans:
    flat = [token for tokens in texts for token in tokens]
    scores = np.array([token["scores"] for token in flat], dtype=np.float32)
    scores = scores.reshape(-1, len(labels))
    return aggregate(
        scores if how in ALL_SCORES else strongest(scores),
        rows=np.arange(len(flat)),
        texts=np.repeat(np.arange(len(texts)), [len(tokens) for tokens in texts]),
        starts=np.array([token["start"] for token in flat], dtype=np.int64),
        ends=np.array([token["end"] for token in flat], dtype=np.int64),
        subword=np.array([token["subword"] for token in flat], dtype=bool),
        tags=Tags.of(labels),
        how=how,
    )


@st.composite
def documents(draw: st.DrawFn) -> tuple[tuple[str, ...], list[list[Token]]]:
    labels = draw(st.sampled_from(LABEL_SETS))
    # Steps of 1/16 add up exactly in float32, so means can be compared without rounding, and
    # ties between labels are common.
    sixteenths = st.lists(
        st.integers(0, 16).map(lambda n: np.float32(n / 16)),
        min_size=len(labels),
        max_size=len(labels),
    )
    texts = []
    for _ in range(draw(st.integers(0, 4))):
        tokens, at = [], 0
        for _ in range(draw(st.integers(0, 8))):
            start = at + draw(st.integers(0, 2))
            at = start + draw(st.integers(1, 4))
            scores = np.array(draw(sixteenths), dtype=np.float32)
            tokens.append(
                {"start": start, "end": at, "scores": scores, "subword": draw(st.booleans())}
            )
        texts.append(tokens)
    return labels, texts


@pytest.mark.parametrize("how", HOWS)
@given(documents())
def test_spans_are_those_of_the_pipelines_rules(
    how: str, document: tuple[tuple[str, ...], list[list[Token]]]
) -> None:
    labels, texts = document
    spans = run(texts, labels, how)
    expected = [
        (row, e["label"], e["start"], e["end"])
        for row, tokens in enumerate(texts)
        for e in reference(tokens, labels, how)
    ]
    got = zip(
        spans.text.tolist(),
        spans.label.tolist(),
        spans.start.tolist(),
        spans.end.tolist(),
        strict=True,
    )
    assert list(got) == expected
    scores = [float(e["score"]) for tokens in texts for e in reference(tokens, labels, how)]
    assert spans.score.tolist() == pytest.approx(scores, abs=1e-6)


@pytest.mark.parametrize("how", HOWS)
@given(documents())
def test_a_text_has_the_same_spans_alone_and_among_others(
    how: str, document: tuple[tuple[str, ...], list[list[Token]]]
) -> None:
    labels, texts = document
    together = run(texts, labels, how)
    for row, tokens in enumerate(texts):
        alone = run([tokens], labels, how)
        mine = together.text == row
        assert together.start[mine].tolist() == alone.start.tolist()
        assert together.end[mine].tolist() == alone.end.tolist()
        assert together.label[mine].tolist() == alone.label.tolist()
        assert together.score[mine].tolist() == alone.score.tolist()


def sure(label: int, start: int, end: int, *, subword: bool = False, width: int = 5) -> Token:
    scores = np.full(width, 0.01, dtype=np.float32)
    scores[label] = 0.9
    return {"start": start, "end": end, "scores": scores, "subword": subword}


def spans_of(spans: Spans) -> list[tuple[int, int, int]]:
    return list(zip(spans.text.tolist(), spans.start.tolist(), spans.end.tolist(), strict=True))


BIO = LABEL_SETS[0]


@pytest.mark.parametrize("how", ["simple", "first", "average", "max"])
def test_a_b_label_opens_a_new_entity_of_the_same_tag(how: str) -> None:
    tokens = [sure(1, 0, 4), sure(2, 5, 9), sure(1, 10, 14), sure(2, 15, 19)]
    assert spans_of(run([tokens], BIO, how)) == [(0, 0, 9), (0, 10, 19)]


@pytest.mark.parametrize("how", ["simple", "first", "average", "max"])
def test_an_i_label_of_another_tag_opens_a_new_entity(how: str) -> None:
    tokens = [sure(2, 0, 4), sure(4, 5, 9)]
    assert spans_of(run([tokens], BIO, how)) == [(0, 0, 4), (0, 5, 9)]


@pytest.mark.parametrize("how", HOWS)
def test_entities_never_cross_texts(how: str) -> None:
    texts = [[sure(2, 0, 4)], [sure(2, 0, 3, subword=True)], [], [sure(2, 2, 3, subword=True)]]
    assert spans_of(run(texts, BIO, how)) == [(0, 0, 4), (1, 0, 3), (3, 2, 3)]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("texts", [[], [[]], [[], [], []]])
def test_no_tokens_give_nothing(how: str, texts: list[list[Token]]) -> None:
    spans = run(texts, BIO, how)
    assert spans_of(spans) == []
    assert spans.label.tolist() == spans.score.tolist() == []


@pytest.mark.parametrize("how", HOWS)
def test_nothing_but_o_gives_nothing(how: str) -> None:
    assert spans_of(run([[sure(0, 0, 4), sure(0, 5, 9)]], BIO, how)) == []


def test_words_are_made_by_their_first_mean_or_surest_token() -> None:
    head = {"start": 0, "end": 3, "subword": False}
    tail = {"start": 3, "end": 6, "subword": True}
    head["scores"] = np.array([0.0, 0.5, 0.4, 0.1], dtype=np.float32)
    tail["scores"] = np.array([0.0, 0.0, 0.4, 0.6], dtype=np.float32)
    labels = ("O", "A", "B", "C")
    found = {
        how: labels[run([[head, tail]], labels, how).label.tolist()[0]]
        for how in ("first", "average", "max")
    }
    assert found == {"first": "A", "average": "B", "max": "C"}


def test_the_names_of_entities_lose_the_scheme_and_keep_further_hyphens() -> None:
    tags = Tags.of(("O", "B-ID-CARD", "I-ID-CARD", "PER"))
    assert tags.names == ("O", "ID-CARD", "ID-CARD", "PER")
    assert tags.begins.tolist() == [False, True, False, False]
    assert tags.tag_of[1] == tags.tag_of[2] != tags.tag_of[3]
