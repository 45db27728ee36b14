"""What repeats is found with arrays as it is found value by value."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.worker.distinct_texts import DistinctTexts

pytestmark = pytest.mark.unit

TYPES = [
    pa.string(),
    pa.large_string(),
    pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.int8(), pa.large_string()),
]
SOME = st.one_of(
    st.none(),
    st.sampled_from(
        ["", " ", "\u3000\u2003", "\x1c\x85", "\x00", "a", "b", "é" * 4, "x" * 9, "\ufeff"]
    ),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=12),
)


def told(found: DistinctTexts) -> tuple[Any, ...]:
    errors = {row: str(error) for row, error in found.unreadable.items()}
    return list(found.texts), found.places.tolist(), errors


def one_by_one(texts: list[str | None], wanted: np.ndarray, longest: int | None) -> DistinctTexts:
    return DistinctTexts.of_values(
        [texts], wanted, make=lambda parts: str(parts[0]), beside={}, longest=longest
    )


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.tuples(SOME, st.booleans()), max_size=12),
    st.sampled_from(TYPES),
    st.sampled_from([None, 1, 8]),
)
def test_a_column_gives_the_same_texts_places_and_errors_as_its_values_one_by_one(
    rows: list[tuple[str | None, bool]], kind: pa.DataType, longest: int | None
) -> None:
    texts = [text for text, _ in rows]
    wanted = np.array([each for _, each in rows], dtype=bool)
    found = DistinctTexts.of_column(pa.array(texts, kind), wanted, longest=longest)
    assert found is not None
    assert told(found) == told(one_by_one(texts, wanted, longest))


@pytest.mark.parametrize("kind", TYPES[:2], ids=str)
def test_a_slice_of_a_column_is_no_more_than_its_rows(kind: pa.DataType) -> None:
    column = pa.array(["no", "a", None, "b", "a", "no"], kind).slice(1, 4)
    found = DistinctTexts.of_column(column, np.ones(4, dtype=bool), longest=None)
    assert found is not None
    assert told(found) == (["a", "b"], [0, -1, 1, 0], {})


def test_a_column_that_is_not_of_utf_8_strings_is_left_to_who_reads_values_one_by_one() -> None:
    spoilt = pa.array([b"good", b"\xff\xfe"]).view(pa.string())
    for column in (spoilt, pa.array([1, 2]), pa.array(["a", "b"], pa.string_view())):
        assert DistinctTexts.of_column(column, np.ones(2, dtype=bool), longest=None) is None


def test_no_rows_are_no_texts() -> None:
    for kind in TYPES:
        found = DistinctTexts.of_column(pa.array([], kind), np.zeros(0, dtype=bool), longest=3)
        assert found is not None
        assert told(found) == ([], [], {})
