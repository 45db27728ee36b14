"""What holding rows to a JSON Schema costs a row and step: masks of llguidance, and applying them.

    python benchmarks/masks.py

64 rows write different documents of the form of `benchmarks/writing.py`, token by token, on one
thread. Scores are drawn at random but for the token that a document goes on with, which is the
likeliest: so it is with a model that knows the form. `drawn` finds the mask of every row, as where
tokens are drawn; `greedy` only where the likeliest token may not come. `lost` is greedy where no
token stands out, so that each mask is needed. Making scores is not counted; the least of the
rounds is told, since all else is other programs' work.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from texts import machine, write_section
from transformers import AutoTokenizer
from writing import FORM

from pipeline.models.text.grammar import ITEM_SEPARATOR, KEY_SEPARATOR, Grammar
from pipeline.models.text.texts import Tokenizer
from pipeline.models.torch.grammar import GrammarMask
from pipeline.models.torch.rules import Live
from pipeline.starter import catalog

MOST_US = 40.0
WAYS = ("drawn", "greedy", "lost")


def documents(tokenizer: Any, rows: int) -> list[list[int]]:
    """Tokens of different documents of the form."""
    found = []
    for row in range(rows):
        filled = {
            "opinion": ("positive", "negative", "mixed")[row % 3],
            "title": f"Seen at last, and number {row}",
            "stars": 1 + row % 5,
            "recommended": row % 2 == 0,
        }
        text = json.dumps(filled, separators=(ITEM_SEPARATOR, KEY_SEPARATOR))
        found.append([*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id])
    return found


def measure(grammar: Grammar, wanted: list[list[int]], *, vocabulary: int, way: str) -> float:
    """Microseconds of processor time a row and step."""
    rule = GrammarMask(grammar, greedy=way != "drawn")
    lengths = np.array([len(tokens) for tokens in wanted])
    written = np.zeros((len(wanted), int(lengths.max())), dtype=np.int64)
    for row, tokens in enumerate(wanted):
        written[row, : len(tokens)] = tokens
    chance = torch.Generator().manual_seed(0)
    spent = 0.0
    for step in range(int(lengths.max())):
        rows = np.flatnonzero(lengths > step)
        scores = torch.rand(len(rows), vocabulary, generator=chance)
        following = written[rows, step]
        if way != "lost":
            scores[np.arange(len(rows)), following] = 2.0
        live = Live(rows, np.full(len(rows), step), written[rows])
        started = time.process_time()
        held = rule(live, scores)
        spent += time.process_time() - started
        if not (held[np.arange(len(rows)), following] > 0).all():
            raise SystemExit("a token of a document that follows the schema is forbidden")
    return spent / int(lengths.sum()) * 1e6


def main() -> int:
    """Measures, prints, and writes the results down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(str(catalog.folder("starter/smollm2")))
    grammar = Grammar(Tokenizer(tokenizer), FORM, ends=[tokenizer.eos_token_id])
    wanted = documents(tokenizer, options.rows)
    lines = ["| scores | least, µs a row and step | median |", "|---|---:|---:|"]
    over = []
    for way in WAYS:
        rounds = sorted(
            measure(grammar, wanted, vocabulary=len(tokenizer), way=way)
            for _ in range(options.rounds)
        )
        lines.append(f"| {way} | {rounds[0]:.0f} | {rounds[len(rounds) // 2]:.0f} |")
        if rounds[0] > MOST_US:
            over.append(f"{way}: {rounds[0]:.0f} µs a row and step")
    print("\n".join(lines))
    for line in over:
        print(f"over: {line}", file=sys.stderr)
    if not options.no_write:
        command = shlex.join(["python", "benchmarks/masks.py", *sys.argv[1:]])
        tokens = sum(map(len, wanted))
        told = (
            f"    {command}\n\n{machine()}.\n\n{options.rows} rows of {tokens / len(wanted):.0f} "
            f"tokens, {len(tokenizer):,} tokens of `starter/smollm2`, one thread, processor time; "
            "what the documents have taken included, making scores not. `drawn`: every mask is "
            "found and applied. `greedy`: the likeliest token may come. `lost`: no token stands "
            "out, so that masks are needed all the same.\n\n" + "\n".join(lines)
        )
        write_section("Masks of JSON", told)
    return 0


if __name__ == "__main__":
    sys.exit(main())
