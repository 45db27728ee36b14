"""Small lakes of real text to try shardscribe on.

The text is held out from the training of ``starter/sentiment``, so its accuracy on a sample is an
honest figure. IMDB's ``<br />`` tags are replaced by line breaks, as the owner of a lake would do.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.errors import JobError
from pipeline.starter.dates import dates
from pipeline.starter.entities import load_entities
from pipeline.starter.reviews import LONG, SHORT, Review, load_reviews
from pipeline.starter.shards import refuse_too_many, write_shards

SEED = 1
# Long enough to be worth a summary, short enough for a small model's attention.
_SUMMARY_CHARACTERS = range(1_500, 4_001)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample, for listings.

    Attributes:
        title: What it holds.
        rows: How many rows it has if nobody says otherwise.
        shards: How many files.
    """

    title: str
    rows: int
    shards: int


SAMPLES = {
    "reviews": Sample(
        title="movie reviews, four short ones for each long one; gold sentiment in `label`",
        rows=3_000,
        shards=8,
    ),
    "long-reviews": Sample(
        title="movie reviews of 1,500 to 4,000 characters, to summarize", rows=24, shards=1
    ),
    "labelled-reviews": Sample(
        title="reviews that may be trained on, half of them long; none is in the other samples",
        rows=8_000,
        shards=4,
    ),
    "dates": Sample(
        title="made-up: dates in words, and as ISO 8601 has them in `iso`", rows=20_000, shards=2
    ),
    "entities": Sample(
        title="sentences of news and tweets: `words`, with `tags` of people, places, organizations",
        rows=2_500,
        shards=1,
    ),
    "tree": Sample(
        title="the reviews as a tree of directories, `source=.../label=.../`", rows=400, shards=1
    ),
}


def write_sample(
    name: str,
    destination: Path,
    *,
    rows: int | None = None,
    shards: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write a sample by its name.

    Args:
        name: A key of `SAMPLES`.
        destination: A folder that is empty, missing, or holds this very sample.
        rows: How many rows; the sample's own number if None.
        shards: How many files; the sample's own number if None.
        progress: Told what happens, a line at a time.

    Returns:
        The files.

    Raises:
        JobError: No such sample, a folder that holds something else, or too many rows.
        RunError: The text can't be downloaded.
    """
    if name not in SAMPLES:
        raise JobError(f"There is no sample {name!r}.", hint=f"Known are: {', '.join(SAMPLES)}.")
    rows = SAMPLES[name].rows if rows is None else rows
    shards = SAMPLES[name].shards if shards is None else shards
    writers: dict[str, Callable[..., list[Path]]] = {
        "long-reviews": write_long_reviews,
        "labelled-reviews": write_labelled_reviews,
        "dates": write_dates,
        "entities": write_entities,
        "tree": partial(write_reviews, tree=True),
    }
    write = writers.get(name, write_reviews)
    return write(destination, rows=rows, shards=shards, progress=progress)


def write_reviews(
    destination: Path,
    *,
    rows: int = 3_000,
    shards: int = 8,
    seed: int = SEED,
    tree: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write a lake of reviews, about four short ones for each long one.

    Columns: ``id: int64, text: string, source: string, label: string``. The same arguments give
    the same files. Line-break tags in the text are replaced by line breaks.

    Args:
        destination: A folder that is empty, missing, or holds this very sample.
        rows: How many reviews.
        shards: How many Parquet files; of a tree, in each directory.
        seed: Which reviews, and their order.
        tree: Tell source and label by directories and not in the files.
        progress: Told what happens, a line at a time.

    Returns:
        The files ``part-00000.parquet`` and so on.

    Raises:
        JobError: The folder holds something else, or there are not so many reviews.
        RunError: The text can't be downloaded.
    """
    refuse_too_many(rows, shards)
    rest = _shuffled(load_reviews(progress=progress).rest, seed=seed)
    short = [item for item in rest if item.source == SHORT][: rows - rows // 5]
    long = [item for item in rest if item.source == LONG][: rows - len(short)]
    _refuse_too_few(len(short) + len(long), rows)
    # Another seed: in the first order, the scarcer choice of long ones would come first.
    return _write(_shuffled(short + long, seed=seed + 1), destination, shards=shards, tree=tree)


def write_long_reviews(
    destination: Path,
    *,
    rows: int = 24,
    shards: int = 1,
    seed: int = SEED,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write a small lake of long reviews, for summaries.

    Columns and cleaning are those of `write_reviews`.

    Args:
        destination: A folder that is empty, missing, or holds this very sample.
        rows: How many reviews, of 1,500 to 4,000 characters each.
        shards: How many Parquet files.
        seed: Which reviews, and their order.
        progress: Told what happens, a line at a time.

    Returns:
        The files.

    Raises:
        JobError: The folder holds something else, or there are not so many reviews.
        RunError: The text can't be downloaded.
    """
    refuse_too_many(rows, shards)
    rest = _shuffled(load_reviews(progress=progress).rest, seed=seed)
    long = [item for item in rest if len(item.text) in _SUMMARY_CHARACTERS][:rows]
    _refuse_too_few(len(long), rows)
    return _write(long, destination, shards=shards)


def write_labelled_reviews(
    destination: Path,
    *,
    rows: int = 8_000,
    shards: int = 4,
    seed: int = SEED,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Write reviews that a model may be trained on, so that the other samples stay unseen.

    Columns and cleaning are those of `write_reviews`.

    Args:
        destination: A folder that is empty, missing, or holds this very sample.
        rows: How many reviews, half of them long as far as there are short ones.
        shards: How many Parquet files.
        seed: Which reviews, and their order.
        progress: Told what happens, a line at a time.
    """
    refuse_too_many(rows, shards)
    known = _shuffled(load_reviews(progress=progress).train, seed=seed)
    short = [item for item in known if item.source == SHORT][: rows // 2]
    long = [item for item in known if item.source == LONG][: rows - len(short)]
    _refuse_too_few(len(short) + len(long), rows)
    return _write(_shuffled(short + long, seed=seed + 1), destination, shards=shards)


def _shuffled(items: Sequence[Review], *, seed: int) -> list[Review]:
    # By hash rather than `random`, whose order may change with Python's version.
    return sorted(items, key=lambda item: hashlib.sha256(f"{seed} {item.key}".encode()).digest())


def _refuse_too_few(found: int, rows: int) -> None:
    if found < rows:
        raise JobError(
            f"There are only {found:,} such rows, not {rows:,}.",
            hint=f"Ask for at most {found:,} rows.",
        )


def write_dates(
    destination: Path, *, rows: int, shards: int, progress: Callable[[str], None]
) -> list[Path]:
    """Write dates in words, with the columns ``text: string, iso: string``; see `write_sample`."""
    from datasets import Dataset

    refuse_too_many(rows, shards)
    made = dates(rows, seed=SEED)
    _refuse_too_few(len(made), rows)
    return write_shards({"": Dataset.from_list(made)}, destination, shards=shards)


def write_entities(
    destination: Path, *, rows: int, shards: int, progress: Callable[[str], None]
) -> list[Path]:
    """Write sentences with the columns ``words``, ``tags`` and ``source``; see `write_sample`."""
    from datasets import Dataset

    refuse_too_many(rows, shards)
    found = load_entities(seed=SEED, progress=progress)[:rows]
    _refuse_too_few(len(found), rows)
    return write_shards({"": Dataset.from_list(found)}, destination, shards=shards)


def _write(
    items: Sequence[Review], destination: Path, *, shards: int, tree: bool = False
) -> list[Path]:
    from datasets import Dataset, Features, Value

    features = Features(
        {
            "id": Value("int64"),
            "text": Value("string"),
            "source": Value("string"),
            "label": Value("string"),
        }
    )
    content = {
        "id": list(range(len(items))),
        "text": [item.text for item in items],
        "source": [item.source for item in items],
        "label": [item.label for item in items],
    }
    dataset = Dataset.from_dict(content, features=features)
    parts = {"": dataset}
    if tree:
        parts = {
            f"source={source}/label={label}/": dataset.select(
                [at for at, i in enumerate(items) if (i.source, i.label) == (source, label)]
            ).remove_columns(["source", "label"])
            for source, label in sorted({(item.source, item.label) for item in items})
        }
    return write_shards(parts, destination, shards=shards)
