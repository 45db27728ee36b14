"""What is trained to classify: a model with a head for the labels, and what it answers."""

from __future__ import annotations

import inspect
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import JobError
from pipeline.learn.train.data import LabelledText
from pipeline.learn.train.freeze import freeze
from pipeline.learn.train.job import TrainJob
from pipeline.learn.train.lora import save_merged, unwrapped, with_lora
from pipeline.models.families import check_family, first_position, pads
from pipeline.models.faults import loading
from pipeline.models.heads import HeadName
from pipeline.models.resolve import ModelInfo, fetch
from pipeline.models.text.side import longest_input, own_pad_token
from pipeline.models.text.tokenizer import load_tokenizer

# kind of task -> its head, and how the classes end that have it
HEADS: dict[str, tuple[HeadName, str]] = {
    "classify": ("sequence-classification", "ForSequenceClassification"),
    "ner": ("token-classification", "ForTokenClassification"),
}
CHUNK = 1_024


@dataclass
class Learner:
    """A model that is to be trained, and what it needs to know of its texts.

    Attributes:
        model: Of transformers, with a head for the labels.
        tokenizer: Of its base, to the letter.
        labels: By class index.
        several: Whether a text may have any number of them.
        frozen: Modules that stay as they are.
        head_kept: Whether the base brought its head along.
        max_tokens: To which longer texts are cut.
        base: The folder of its base.
        reference: How a job names its base.
        cut: How many have been, so far.
        inexact: How many spans begin or end within a token, so far.
    """

    model: Any
    tokenizer: Any
    labels: Sequence[str]
    several: bool
    frozen: Sequence[Any]
    head_kept: bool
    max_tokens: int
    base: Path
    reference: str
    cut: int = 0
    inexact: int = 0

    @cached_property
    def taken(self) -> Collection[str]:
        """What the model takes of what its tokenizer gives."""
        return inspect.signature(type(unwrapped(self.model)).forward).parameters

    def encode(self, rows: Sequence[LabelledText]) -> tuple[dict[str, list[list[int]]], list[Any]]:
        """Texts as the model takes them, and their targets: class indices, or a 0 or 1 a label."""
        tokens: dict[str, list[list[int]]] = {}
        for at in range(0, len(rows), CHUNK):
            made = self.tokenizer(
                [row.text for row in rows[at : at + CHUNK]],
                truncation=True,
                max_length=self.max_tokens,
            )
            self.cut += sum(bool(encoding.overflowing) for encoding in made.encodings)
            for name, values in made.items():
                if name in self.taken:
                    tokens.setdefault(name, []).extend(values)
        where = {label: at for at, label in enumerate(self.labels)}
        if not self.several:
            return tokens, [where[row.labels[0]] for row in rows]
        return tokens, [[float(label in row.labels) for label in self.labels] for row in rows]

    def collate(self, rows: Any) -> Any:
        """A batch of rows, padded."""
        from transformers import DataCollatorWithPadding

        return DataCollatorWithPadding(self.tokenizer)(rows)

    def save(self, folder: Path) -> None:
        """Writes the model, and its base's tokenizer as it was, as an ordinary model folder."""
        save_merged(self.model, folder, base=self.reference)
        for path in _tokenizer_files(self.base):
            shutil.copyfile(path, folder / path.name)

    def answers(self, rows: Sequence[LabelledText], *, batch: int) -> list[dict[str, Any]]:
        """What the model gives, as the task `classify` has it: ``label``, ``score``, ``scores``."""
        tokens, _ = self.encode(rows)
        found: list[dict[str, Any]] = [{}] * len(rows)
        for row, logits in self.computed(tokens, batch=batch):
            shares = logits.sigmoid() if self.several else logits.softmax(-1)
            found[row] = self._answer(shares.tolist())
        return found

    def computed(
        self, tokens: Mapping[str, Sequence[Sequence[int]]], *, batch: int
    ) -> Iterator[tuple[int, Any]]:
        """Each row's number and its logits, padding's after them.

        Args:
            tokens: As `encode` gives them.
            batch: Rows to a call.
        """
        import torch

        lengths = [len(ids) for ids in tokens["input_ids"]]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        self.model.eval()
        for at in range(0, len(order), batch):
            some = order[at : at + batch]
            padded = self.tokenizer.pad(
                {name: [values[row] for row in some] for name, values in tokens.items()},
                return_tensors="pt",
            )
            with torch.inference_mode():
                logits = self.model(**padded.to(self.model.device))["logits"].float().cpu()
            yield from zip(some, logits, strict=True)

    def _answer(self, scores: Sequence[float]) -> dict[str, Any]:
        best = max(range(len(scores)), key=scores.__getitem__)
        pairs = zip(self.labels, scores, strict=True)
        return {
            "label": self.labels[best],
            "score": scores[best],
            "scores": [{"label": label, "score": score} for label, score in pairs],
        }


def load_learner(
    job: TrainJob, info: ModelInfo, labels: Sequence[str], *, several: bool,
    made: Callable[..., Learner] = Learner,
) -> Learner:  # fmt: skip
    """The base with a head for the labels: its own, where it has one for the very same labels.

    Args:
        job: Says what is frozen and how much is read of a text.
        info: The base.
        labels: Of the model's classes.
        several: Whether a text may have any number of them.
        made: What is made of it.

    Raises:
        JobError: It can't be loaded, or can't be trained as the job says.
    """
    import torch
    import transformers

    head, class_end = HEADS[job.task.kind]
    check_family(info.config, head=head, reference=info.reference)
    if info.is_adapter:
        raise JobError(f"base {info.reference} is an adapter", hint="Name a whole model as base")
    folder = fetch(info)
    there = [str(label) for label in (info.config.get("id2label") or {}).values()]
    has_head = any(name.endswith(class_end) for name in info.architectures)
    kept = has_head and sorted(there) == sorted(labels)
    named = there if kept else list(labels)
    transformers.set_seed(job.train.seed)
    auto = getattr(transformers, f"AutoModel{class_end}")
    problem = "multi_label_classification" if several else "single_label_classification"
    with loading(info.reference, what=head, hint="Check that its folder is complete"):
        tokenizer = load_tokenizer(folder)
        model, report = auto.from_pretrained(
            folder,
            dtype=torch.float32,
            id2label=dict(enumerate(named)),
            label2id={label: at for at, label in enumerate(named)},
            problem_type=problem if job.task.kind == "classify" else None,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )  # fmt: skip
        if has_head and not kept:
            _head_anew(model, auto.from_config(model.config))
    if own_pad_token(model.config) is None or not pads(model.config):
        raise JobError(
            f"base {info.reference} can't be trained in batches: "
            + ("its config.json names no pad_token_id" if own_pad_token(model.config) is None
               else f"padding changes what {model.config.model_type} computes"),
            hint="Name one, as a token that no text has"
            if own_pad_token(model.config) is None else "Take a base such as bert or roberta",
        )  # fmt: skip
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(own_pad_token(model.config))
    anew = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    if job.train.lora is not None:
        model = with_lora(model, job.train.lora, kind=job.task.kind, anew=anew)
    frozen = freeze(model, job.train.freeze)
    fixed = {name for name, one in model.named_parameters() if not one.requires_grad}
    random = sorted(fixed & anew)
    if random:
        raise JobError(
            f"base {info.reference} lacks {random[0]} and {len(random) - 1} more of what "
            "train.freeze would leave as it is, which is random",
            hint="Freeze less, or take a base that has them",
        )
    longest = longest_input(model.config, tokenizer, first_position=first_position(model.config))
    most = min(longest, job.train.max_tokens or longest)
    return made(model, tokenizer, named, several, frozen, kept, most, folder, info.reference)


def _head_anew(model: Any, fresh: Any) -> None:
    """Takes the parameters outside of a model's body from another model of its kind."""
    body = f"{model.base_model_prefix}."
    news = {name: p for name, p in fresh.named_parameters() if not name.startswith(body)}
    for name, parameter in model.named_parameters():
        if name in news:
            parameter.data.copy_(news[name].data)


def class_weights(job: TrainJob, learner: Learner, rows: Sequence[LabelledText]) -> Any:
    """How much a row of each label counts, of shape [labels]; None where all count the same.

    Raises:
        JobError: The job weighs a label that there is not.
    """
    import torch

    wanted = job.train.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = Counter(label for row in rows for label in row.labels)
        total = sum(counts.values())
        return torch.tensor([total / (len(counts) * counts[label]) for label in learner.labels])
    assert isinstance(wanted, dict)
    for label in wanted:
        if label not in learner.labels:
            raise JobError(
                f"train.class_weights: there is no label `{label}`; there are "
                f"{', '.join(learner.labels)}",
                hint="Name them as the label column does",
            )
    return torch.tensor([float(wanted.get(label, 1.0)) for label in learner.labels])


def _tokenizer_files(folder: Path) -> Iterator[Path]:
    """What of a model's folder is its tokenizer's."""
    begins = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spiece",
              "sentencepiece", "bpe", "chat_template")  # fmt: skip
    for path in sorted(folder.iterdir()):
        if path.is_file() and (path.name.startswith(begins) or path.suffix == ".model"):
            yield path
