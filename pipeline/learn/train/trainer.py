"""Hugging Face's `Trainer` with an order, a loss and checkpoints that a kill can't spoil."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset, Sampler
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import get_length_grouped_indices

from pipeline.errors import RunError
from pipeline.learn.train.job import TrainOptions

# What a checkpoint holds, by size: written last, so that one without it is half a checkpoint.
WHOLE = "shardscribe.json"
LINES = 20


class Examples(Dataset[dict[str, Any]]):
    """Tokenized texts with what is right of them.

    Args:
        tokens: What the tokenizer gave: for each name a list of lists of numbers, one a text.
        targets: Of each text a class index, or a number for each label.
    """

    def __init__(self, tokens: dict[str, list[list[int]]], targets: Sequence[Any]) -> None:
        self.tokens = tokens
        self.targets = targets
        self.lengths = [len(ids) for ids in tokens["input_ids"]]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, at: int) -> dict[str, Any]:
        row = {name: values[at] for name, values in self.tokens.items()}
        return {**row, "labels": self.targets[at]}


class LikeLengths(Sampler[int]):
    """Rows in an order that follows from seed and epoch alone, with like lengths together.

    Args:
        lengths: Of each row.
        batch: Rows to a step.
        seed: Of the order.
    """

    def __init__(self, lengths: Sequence[int], *, batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes; who goes on from a checkpoint begins in the midst of one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Any:
        dice = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(get_length_grouped_indices(list(self.lengths), self.batch, generator=dice))


class _Checkpoints(TrainerCallback):  # type: ignore[misc]
    """Marks each checkpoint as whole when it is."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
        (folder / f"{WHOLE}.tmp").write_text(json.dumps(sizes), encoding="utf-8")
        (folder / f"{WHOLE}.tmp").rename(folder / WHOLE)


class _Progress(TrainerCallback):  # type: ignore[misc]
    """Says a line now and then."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.started = time.monotonic()
        self.first = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started, self.first = time.monotonic(), state.global_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        logs = logs or {}
        if "eval_loss" in logs:
            self.say(f"step {state.global_step:,}: validation loss {logs['eval_loss']:.4f}")
        if "loss" in logs:
            done = state.global_step - self.first
            seconds = time.monotonic() - self.started
            left = seconds / max(done, 1) * (state.max_steps - state.global_step)
            speed = done * args.train_batch_size / max(seconds, 1e-9)
            self.say(
                f"step {state.global_step:,}/{state.max_steps:,}  epoch {state.epoch:.2f}  "
                f"loss {logs['loss']:.4f}  {speed:,.1f} rows/s  {_minutes(left)} left"
            )


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class HouseTrainer(Trainer):  # type: ignore[misc]
    """Trains with weighted classes and frozen parts, and stops where the loss is no number.

    Args:
        frozen: Modules that are computed as in use, without dropout.
        weights: Of the classes, of shape [labels]; None for equal ones.
        order_seed: Of the order of rows.
        smoothing: Of targets that are written: how much less than certainty is asked for.
    """

    def __init__(
        self,
        *,
        frozen: Sequence[Any],
        weights: Tensor | None,
        order_seed: int,
        smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.frozen, self.weights, self.order_seed = frozen, weights, order_seed
        self.smoothing = smoothing

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return LikeLengths(rows.lengths, batch=self.args.train_batch_size, seed=self.order_seed)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        """The mean loss of a batch; a class counts as its weight says.

        Raises:
            RunError: It is no finite number.
        """
        if model.training:
            for module in self.frozen:
                module.eval()
        inputs = dict(inputs)
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = self._loss(outputs, labels, self.smoothing if model.training else 0.0)
        if model.training and not torch.isfinite(loss):
            raise RunError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1:,} (learning rate "
                f"{self._get_learning_rate():.2g}), so that training has come apart",
                hint="Lower train.learning_rate, to a tenth for a start, or raise train.warm_up",
            )
        return (loss, outputs) if return_outputs else loss

    def _loss(self, outputs: Any, labels: Tensor, smoothing: float = 0.0) -> Tensor:
        logits = outputs["logits"].float()
        if logits.dim() == 3:  # a token at each place, -100 on padding
            return functional.cross_entropy(logits.mT, labels, label_smoothing=smoothing)
        weights = None if self.weights is None else self.weights.to(logits.device)
        if labels.dim() == 1:
            return functional.cross_entropy(logits, labels, weight=weights)
        each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        return (each if weights is None else each * weights).mean()


def make_trainer(
    model: Any,
    options: TrainOptions,
    *,
    train: Examples,
    validation: Examples | None,
    frozen: Sequence[Any],
    weights: Tensor | None,
    collate: Callable[[Any], Any],
    smoothing: float,
    folder: Path,
    say: Callable[[str], None],
) -> HouseTrainer:
    """A trainer that writes its checkpoints into a folder.

    Args:
        model: With its head; trained in place.
        options: As the job says.
        train: What is learned from.
        validation: What the best checkpoint is chosen by, if anything is.
        frozen: From `freeze`.
        weights: Of the classes.
        collate: Makes a batch of rows.
        smoothing: Of targets that are written.
        folder: Of checkpoints.
        say: Told of progress, a line at a time.
    """
    epoch = math.ceil(len(train) / options.batch_size)
    steps = epoch * options.epochs
    every = max(1, math.ceil(epoch / options.checks))
    checked = "steps" if validation is not None else "no"
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size * 2,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_steps=math.ceil(options.warm_up * steps),
        eval_strategy=checked,
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        # With the best, so that one that is whole is there while the next is written.
        save_total_limit=2,
        load_best_model_at_end=validation is not None,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_strategy="steps",
        logging_steps=max(1, steps // LINES),
        logging_nan_inf_filter=False,
        seed=options.seed,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    trainer = HouseTrainer(
        frozen=frozen, weights=weights, order_seed=options.seed, smoothing=smoothing,
        model=model, args=arguments,
        train_dataset=train, eval_dataset=validation,
        data_collator=collate,
        callbacks=[_Checkpoints(), _Progress(say)],
    )  # fmt: skip
    # It prints dictionaries.
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    if options.early_stopping is not None:
        trainer.add_callback(EarlyStoppingCallback(options.early_stopping))
    return trainer


def last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint of a folder; the others are removed, as nothing can use them."""
    whole: list[tuple[int, Path]] = []
    for path in folder.glob("checkpoint-*"):
        try:
            sizes = json.loads((path / WHOLE).read_text(encoding="utf-8"))
            right = all((path / name).stat().st_size == size for name, size in sizes.items())
        except (OSError, ValueError):
            right = False
        if right:
            whole.append((int(path.name.rpartition("-")[2]), path))
        else:
            shutil.rmtree(path, ignore_errors=True)
    return max(whole)[1] if whole else None
