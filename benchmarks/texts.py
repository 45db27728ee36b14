"""Real texts in lengths like those of paragraphs, and the machine they are measured on."""

from __future__ import annotations

import hashlib
import os
import platform
import random
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer

from pipeline.starter import catalog
from pipeline.starter.reviews import load_reviews

LONGEST = 256
# Lines of Rotten Tomatoes; the rest are paragraphs of IMDB reviews. The
# longest of these are thinned out until the mean is that of real paragraphs, 54 tokens.
SHORT_SHARE = 0.4
RESULTS = Path(__file__).parent / "RESULTS.md"


def tokenizer() -> Tokenizer:
    """That of the starter encoders, without truncation and padding."""
    made = Tokenizer.from_file(str(catalog.folder("starter/minilm") / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    return made


def paragraphs(rows: int, *, seed: int = 7) -> list[str]:
    """Different real texts: lines of Rotten Tomatoes and paragraphs of IMDB reviews.

    Args:
        rows: How many; up to about 35,000.
        seed: Of the choice and the order.
    """
    parts = load_reviews()
    found = [*parts.train, *parts.dev, *parts.test, *parts.rest]
    short = list(dict.fromkeys(r.text for r in found if r.source != "imdb"))
    long = list(
        dict.fromkeys(
            p.strip() for r in found if r.source == "imdb" for p in r.text.split("\n") if p.strip()
        )
    )
    chance = random.Random(seed)
    chance.shuffle(short)
    chance.shuffle(long)
    wanted_short = min(len(short), round(rows * SHORT_SHARE))
    chosen = short[:wanted_short]
    made = tokenizer()
    for start in range(0, len(long), 4096):
        chunk = long[start : start + 4096]
        for text, encoding in zip(chunk, made.encode_batch_fast(chunk), strict=True):
            length = len(encoding.ids)
            # A text of 160 tokens is kept every other time, as real paragraphs fall off.
            if length <= LONGEST and chance.random() < min(1.0, (100 / length) ** 1.5):
                chosen.append(text)
        if len(chosen) >= rows:
            break
    chosen = chosen[:rows]
    chance.shuffle(chosen)
    return chosen


def lengths(texts: Sequence[str]) -> np.ndarray:
    """Tokens of each text, special tokens included."""
    return np.array([len(e.ids) for e in tokenizer().encode_batch_fast(list(texts))])


def write_lake(directory: Path, texts: Sequence[str], *, files: int) -> Path:
    """Writes texts as Parquet files of about equal size."""
    directory.mkdir(parents=True, exist_ok=True)
    borders = np.linspace(0, len(texts), files + 1).astype(int)
    for number, (start, stop) in enumerate(pairwise(borders)):
        part = list(texts[start:stop])
        table = pa.table({"id": pa.array(range(start, stop), pa.int64()), "text": part})
        pq.write_table(table, directory / f"part-{number:05}.parquet")
    return directory


def machine() -> str:
    """The machine and the versions, in a line."""
    import ray
    import torch
    import transformers

    name = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            name = line.partition(":")[2].strip()
            break
    return (
        f"{os.cpu_count()} cores of an {name}, shared with other work, no GPU; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"transformers {transformers.__version__}, ray {ray.__version__}, pyarrow {pa.__version__}"
    )


def write_section(title: str, text: str) -> None:
    """Puts a section in the place of the one of that title in RESULTS.md."""
    whole = RESULTS.read_text(encoding="utf-8") if RESULTS.is_file() else "# Results\n"
    section = f"## {title}\n\n{text.strip(chr(10))}\n"
    pattern = re.compile(rf"^## {re.escape(title)}\n.*?(?=^## |\Z)", re.S | re.M)
    if pattern.search(whole):
        whole = pattern.sub(lambda _: section + "\n", whole)
    else:
        whole = f"{whole.rstrip()}\n\n{section}"
    RESULTS.write_text(whole.rstrip() + "\n", encoding="utf-8")


def digest(texts: Sequence[str]) -> str:
    """Names a choice of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:8]
