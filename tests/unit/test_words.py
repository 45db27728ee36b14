"""The words of a text and its phrases, whatever the script."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.models.text.words import LONGEST, folded, phrases

pytestmark = pytest.mark.unit


def said(text: str, *, least: int = 1, most: int = 1, stops: str = "") -> list[str]:
    found = phrases(text, least=least, most=most, stops={folded(word) for word in stops.split()})
    return [phrase.said for phrase in found]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A well-made film, isn't it?", ["well-made", "film", "isn't", "it"]),
        ("\u2018don\u2019t\u2019 don't DON'T", ["don\u2019t"]),
        ("3.5 stars, 1,000 times. MP3 2nd 42", ["stars", "times", "MP3", "2nd"]),
        ("end.Next a.b", ["end", "Next"]),
        ("e\u0301te\u0301 no\u0308", ["e\u0301te\u0301", "no\u0308"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("هذا الفيلم", ["هذا", "الفيلم"]),
        ("ภาษาไทยง่าย", ["ภาษาไทยง่าย"]),
        ("한국 영화", ["한국", "영화"]),
        ("电影很好", ["电", "影", "很", "好"]),
        ("カタカナーだ", ["カタカナー", "だ"]),
        ("Straße STRASSE strasse", ["Straße"]),
        ("🙂👩‍👩‍👧‍👦 🏳️‍🌈 ... ?! -- '", []),
        ("\ufe0f\u0301 \u200b \x00", []),
        ("__init__ _", ["__init__"]),
        ("", []),
        ("   \n\t ", []),
    ],
)
def test_words_are_found_in_any_script(text: str, words: list[str]) -> None:
    assert said(text) == words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("one two three", ["one", "two", "one two", "three", "two three", "one two three"]),
        ("one, two", ["one", "two"]),
        ("one\ntwo", ["one", "two", "one two"]),
        ("one\n\ntwo", ["one", "two"]),
        ("one \t two", ["one", "two", "one two"]),
        ("one\u200btwo", ["one", "two"]),
        ("a b", ["a b"]),
        ("电影", ["电", "影", "电影"]),
        ("to be To Be", ["to", "be", "to be", "be To", "to be To", "be To Be"]),
    ],
)
def test_a_phrase_has_nothing_but_space_between_its_words(text: str, found: list[str]) -> None:
    assert said(text, most=3) == found


def test_a_phrase_neither_begins_nor_ends_with_a_stop_word() -> None:
    text = "The end of the film. The THE don\u2019t of"
    found = said(text, most=3, stops="the of Don't")
    assert found == ["end", "film"]
    assert said("end of film", most=3, stops="of") == ["end", "film", "end of film"]
    assert said("end of film", least=2, most=2, stops="of") == []


def test_what_is_too_long_for_a_word_parts_phrases() -> None:
    assert said(f"one {'x' * LONGEST} two", most=2) == [
        "one", "x" * LONGEST, f"one {'x' * LONGEST}", "two", f"{'x' * LONGEST} two"
    ]  # fmt: skip
    assert said(f"one {'x' * (LONGEST + 1)} two", most=2) == ["one", "two"]


@given(st.text(max_size=80), st.integers(1, 3), st.integers(0, 2))
def test_a_phrase_stands_where_it_says_and_comes_once(text: str, least: int, more: int) -> None:
    found = list(phrases(text, least=least, most=least + more, stops={"a"}))
    for phrase in found:
        there = text[phrase.start : phrase.end]
        assert " ".join(there.split()) == phrase.said != ""
        assert text.find(there) <= phrase.start
    keys = [folded(phrase.said) for phrase in found]
    assert len(set(keys)) == len(keys) or any(ord(c) > 127 for c in text)


def test_no_character_is_lost_between_words() -> None:
    letters = [chr(code) for code in range(0, sys.maxunicode, 37) if chr(code).isalpha()]
    assert len([c for c in letters if said(f"{c}{c}") == []]) == 0
