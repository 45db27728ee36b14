"""The model card of what was trained here."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from pipeline import __version__
from pipeline.learn.train.data import PARTS, LabelledRows
from pipeline.learn.train.job import FreezeAllBut, TrainJob, TrainOptions


def versions() -> dict[str, str]:
    """What the model was made with."""
    import torch
    import transformers

    return {
        "shardscribe": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
    }


def card(
    job: TrainJob,
    rows: LabelledRows,
    *,
    figures: Mapping[str, Any] | None,
    record: Mapping[str, Any],
) -> str:
    """A card in Markdown: data, split, figures, and how to make the model again.

    Args:
        job: As it was read.
        rows: What was learned from.
        figures: Of the test rows, as `report_of` gives them.
        record: What else is known, as ``training.json`` has it.
    """
    lines = [f"# {job.name}", "", job.description or f"Made of `{job.base}` by training.", ""]
    free = rows.several or job.task.kind == "ner"
    many = "any number of them to a text" if free else "one to a text"
    if rows.labels:
        names = ", ".join(f"`{_plain(label)}`" for label in rows.labels)
        lines += [f"Labels: {names}; {many}.", ""]
    lines += _figures(figures, len(rows.test), record)
    sizes = ", ".join(f"{len(getattr(rows, part)):,} {part}" for part in PARTS)
    lines += [
        "## Data", "",
        f"- `{_plain(job.data.path)}`, column `{_plain(job.data.text)}` with labels in "
        f"`{_plain(job.data.label)}`: {sizes} rows.",
        f"- Validation: {_share(job.data.validation)}; test: {_share(job.data.test)}. Copies of a "
        "text are all in one part.",
    ]  # fmt: skip
    lines += [f"- Left out: {count:,} {why}." for why, count in sorted(rows.left_out.items())]
    if record["cut"]:
        lines.append(f"- {record['cut']:,} texts were longer than {record['max_tokens']:,} tokens, "
                     "and were cut to them.")  # fmt: skip
    if record["inexact"]:
        lines.append(f"- {record['inexact']:,} spans begin or end within a token, which was "
                     "learned as theirs.")  # fmt: skip
    options = job.train
    lines += [
        "", "## Training", "",
        f"- From `{_plain(job.base)}` (revision `{record['base_revision']}`), head "
        f"{'as it was there' if record['head_kept'] else 'new'}."
        if job.scratch is None else f"- From nothing: {job.scratch}.",
        f"- {_frozen(options)}: {record['trained']:,} of {record['parameters']:,} "
        "parameters trained.",
        f"- {record['steps']:,} steps of {options.batch_size} rows, learning rate "
        f"{options.learning_rate:g}, warm-up {options.warm_up:g}, weight decay "
        f"{options.weight_decay:g}, class weights {options.class_weights or 'none'}, seed "
        f"{options.seed}.",
    ]  # fmt: skip
    if record["best_step"] is not None:
        lines.append(f"- The checkpoint of step {record['best_step']:,} is this one: it had the "
                     f"lowest validation loss, {record['best_loss']:.4f}.")  # fmt: skip
    made = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    lines += [f"- Made with {made}, by `{_plain(record['command'])}`.", "",
              "All of this is in `training.json` too.", ""]  # fmt: skip
    return "\n".join(lines)


def _figures(figures: Mapping[str, Any] | None, rows: int, record: Mapping[str, Any]) -> list[str]:
    if figures is None:
        return ["No rows were kept for a test (`data.test: 0`), so nothing is known of how good it "
                "is.", ""]  # fmt: skip
    lines = ["## How good it is", "",
             f"On {rows:,} test rows that training has not seen; 95 % intervals by bootstrap over "
             "rows.", "", "| | value | from | to |", "|---|---|---|---|"]  # fmt: skip
    for name, figure in figures["metrics"].items():
        cells = (figure["value"], figure["low"], figure["high"])
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(map(number, cells))} |")
    if not figures.get("labels"):
        return [*lines, ""]
    lines += ["", "| label | precision | recall | F1 | rows |", "|---|---|---|---|---|"]
    for label in figures["labels"]:
        of = label.get("strict", label)
        cells = (of["precision"], of["recall"], of["f1"])
        lines.append(f"| {_plain(label['label'])} | {' | '.join(map(number, cells))} | "
                     f"{label['support']:,} |")  # fmt: skip
    return [*lines, ""]


def number(value: float | None) -> str:
    """A figure with three digits, as tables have it."""
    return "-" if value is None else f"{value:.3f}"


def _share(share: float | str) -> str:
    return f"`{_plain(share)}`" if isinstance(share, str) else f"{share:.0%} by a hash of the text"


def _frozen(options: TrainOptions) -> str:
    what = options.freeze
    if options.lora is not None:
        return f"Low-rank updates (LoRA) of rank {options.lora.rank} and the head"
    if what is None:
        return "Nothing frozen"
    if isinstance(what, FreezeAllBut):
        return f"All layers frozen but the last {what.all_but_last}"
    return f"Frozen: {', '.join(f'`{_plain(pattern)}`' for pattern in what)}"


def _plain(text: str) -> str:
    """A text that ends neither a line nor a cell nor a run of code."""
    return " ".join(text.replace("`", "'").replace("|", "\\|").split())
