"""Whether intervals hold the truth as often as they say, over fixed annotations of real reviews.

Takes an output that a model has annotated and that carries gold for every row, so that the truth is
known, and acts as if gold were known of few: draws 300 rows, estimates, and looks whether the truth
is within; 500 times. Each of 10 groups, from the shortest texts to the longest, is a population of
its own. Lakes are drawn from the
annotations, with repetition, so that they are as large as lakes are. The same rows by gold alone
give the width to compare with.

Fails if an interval of 95 % holds in fewer than 93 or more than 97 of 100 draws over all groups
together, or if the median width is above 0.72 of that by gold alone.

    shardscribe samples write reviews data/coverage --rows 6000 --shards 4
    shardscribe run jobs/movie_reviews.yaml --set input.path=data/coverage \\
      --set output.path=data/covered \\
      --set "tasks={sentiment: {kind: classify, model: starter/sentiment}}"
    python benchmarks/coverage.py data/covered
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.annotated import AnnotatedColumn
from pipeline.learn.numbers import Numbers, right_numbers
from pipeline.learn.prediction_powered import Moments, gold_mean, powered_mean
from pipeline.learn.sampling import Systematic, chances, doubt

LAKE = 20_000
GROUPS = 10
HOLDS = (0.93, 0.97)
WIDEST = 0.72
Floats = npt.NDArray[np.float64]


@dataclass
class Kept:
    """What came of the draws of one way.

    Attributes:
        held: Whether each interval held the truth.
        alone: Whether each by gold alone did.
        widths: Of each interval, as a part of that by gold alone of rows drawn evenly.
    """

    held: list[bool] = field(default_factory=list)
    alone: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, found: dict[str, float], alone: dict[str, float], truth: float) -> None:
        """Takes a draw."""
        self.held.append(found["low"] <= truth <= found["high"])
        self.alone.append(alone["low"] <= truth <= alone["high"])
        self.widths.append((found["high"] - found["low"]) / (alone["high"] - alone["low"]))

    def __add__(self, other: Kept) -> Kept:
        return Kept(self.held + other.held, self.alone + other.alone, self.widths + other.widths)

    def row(self, name: str) -> str:
        """Of the table."""
        share = (f"{100 * float(np.mean(some)):.1f} %" for some in (self.held, self.alone))
        return (
            f"| {name} | {len(self.held):,} | {' | '.join(share)} | {np.median(self.widths):.3f} |"
        )


def population(
    address: str, *, label: str, gold: str, task: str | None
) -> tuple[Floats, Floats, Floats]:
    """Of each row of an output how likely the label is, whether it is right, and the length."""
    column = AnnotatedColumn.at(address, job=None, task=task)
    numbers = Numbers(column.asked)
    found, right, length = [], [], []
    for batch in column.batches(numbers, gold, "text"):
        found.append(batch.values[:, numbers.labels[label]])
        truth = batch.table[gold].filter(pa.array(batch.there)).combine_chunks()
        right.append(right_numbers(truth, column.asked, label))
        texts = batch.table["text"].filter(pa.array(batch.there))
        length.append(np.asarray(pc.utf8_length(texts).combine_chunks(), dtype=float))
    return np.concatenate(found), np.concatenate(right), np.concatenate(length)


def draws(
    found: Floats, right: Floats, *, rows: int, times: int, chance: np.random.Generator
) -> tuple[Kept, Kept]:
    """Estimates by rows drawn evenly, and by rows drawn by doubt."""
    truth, even, unsure = float(right.mean()), Kept(), Kept()
    for _ in range(times):
        lake = chance.integers(len(found), size=LAKE)
        said, true = found[lake], right[lake]
        moments = Moments(LAKE, float(said.mean()), float(said.var()))
        picked = chance.choice(LAKE, rows, replace=False)
        alone = gold_mean(true[picked])
        even.add(powered_mean(true[picked], said[picked], moments), alone, truth)
        doubts = doubt(np.stack([1 - said, said], axis=1), 1)
        odds = chances(doubts, wanted=rows, rows=LAKE, total=float(doubts.sum()))
        drawn = Systematic(chance.random()).draw(odds)
        weighted = powered_mean(true[drawn], said[drawn], moments, weights=1 / odds[drawn])
        unsure.add(weighted, alone, truth)
    return even, unsure


def main() -> int:
    """Prints the tables; says whether the intervals hold."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("output")
    parser.add_argument("--task")
    parser.add_argument("--label", default="positive")
    parser.add_argument("--gold", default="label", help="the column of the output that is right")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    found, right, length = population(
        chosen.output, label=chosen.label, gold=chosen.gold, task=chosen.task
    )
    chance = np.random.default_rng(chosen.seed)

    def draw(where: Any, said: Floats = found) -> tuple[Kept, Kept]:
        return draws(said[where], right[where], rows=chosen.rows, times=chosen.draws, chance=chance)

    print(
        f"{len(found):,} rows: {right.mean():.4f} are {chosen.label}, annotations alone "
        f"say {found.mean():.4f}; {((found > 0.5) == right).mean():.3f} of labels are right. "
        f"{chosen.rows} gold rows a draw.\n"
    )
    print("| population | draws | held | held, gold alone | median width to gold alone's |")
    print("|---|---:|---:|---:|---:|")
    whole, whole_unsure = draw(np.arange(len(found)))
    print(whole.row("all"))
    groups = np.array_split(np.argsort(length, kind="stable"), GROUPS)
    each = [draw(rows) for rows in groups]
    for at, (even, _) in enumerate(each, 1):
        own = right[groups[at - 1]].mean()
        print(even.row(f"group {at}, {own:.3f} are {chosen.label}"))
    together = sum((even for even, _ in each), Kept())
    unsure = sum((other for _, other in each), Kept())
    print(together.row("**the groups together**"))
    print(whole_unsure.row("all, drawn by doubt (`--next`)"))
    print(unsure.row("the groups together, drawn by doubt"))
    for name, worse in (("raised to the power of 0.2", found**0.2), ("upside down", 1 - found)):
        print(draw(np.arange(len(found)), worse)[0].row(f"all, scores {name}"))
    share, width = float(np.mean(together.held)), float(np.median(together.widths))
    good = HOLDS[0] <= share <= HOLDS[1] and width <= WIDEST
    print(f"\n{'as wanted' if good else 'NOT as wanted'}: {share:.4f} held, width {width:.3f}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
