"""One word for one thing, and a glossary of those that cross a room."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

import pipeline
from pipeline.glossary import BEGIN, END, crossing, with_glossary, words

pytestmark = pytest.mark.unit

HOUSE = Path(pipeline.__file__).parent
CONTRIBUTING = HOUSE.parent / "CONTRIBUTING.md"


def test_the_glossary_names_every_public_class_that_crosses_a_room_and_no_other() -> None:
    text = CONTRIBUTING.read_text(encoding="utf-8")
    assert with_glossary(text, house=HOUSE) == text, "run: python -m pipeline.schemas"


@pytest.mark.parametrize("word", crossing(HOUSE), ids=lambda word: word.name)
def test_a_word_of_the_glossary_is_told_in_a_line(word) -> None:
    assert 8 < len(word.meaning) <= 100
    assert word.meaning.endswith((".", ":"))
    assert "|" not in word.meaning


def test_no_two_public_classes_share_a_name() -> None:
    places = defaultdict(set)
    for word in words(HOUSE):
        places[word.name].add(word.module)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


FILES = {
    "__init__.py": "from pipeline.errors import Trouble\n",
    "errors.py": 'class Trouble(Exception):\n    """It went wrong.\n\n    Often."""\n',
    "run.py": "from pipeline.errors import Trouble\nfrom pipeline.low import Here\n",
    "low/__init__.py": "from pipeline.low.deep import Here, _Hidden\n",
    "low/deep.py": 'class Here:\n    """A ``thing``."""\nclass _Hidden: ...\nclass Home: ...\n',
    "low/near.py": "from pipeline.low.deep import Home\n",
    "high/lazy.py": "def f():\n    from pipeline.errors import Trouble, other\n",
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_class_crosses_when_another_room_imports_it_also_by_way_of_its_package_or_late(house):
    assert [(w.name, w.room, w.meaning) for w in crossing(house)] == [
        ("Trouble", "errors.py", "It went wrong."),
        ("Here", "low/", "A `thing`."),
    ]


def test_a_new_word_is_missed_and_an_old_one_stands_out(house):
    before = with_glossary(f"a {BEGIN}{END} b", house=house)
    assert with_glossary(before, house=house) == before
    (house / "high/lazy.py").write_text("from pipeline.low.deep import Home\n")
    after = with_glossary(before, house=house)
    assert "`Home`" in after
    assert "`Trouble`" not in after
    assert (after.startswith("a <"), after.endswith("> b")) == (True, True)


def test_a_text_without_a_place_for_the_glossary_is_refused(house):
    for text in ("", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"):
        with pytest.raises(ValueError, match="glossary"):
            with_glossary(text, house=house)
