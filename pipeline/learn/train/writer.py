"""What is trained to write: an encoder-decoder and its tokenizer, both made from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.learn.train.data import LabelledText
from pipeline.learn.train.job import ScratchOptions, TrainJob

PAD, END, START = "<pad>", "</s>", "<s>"
# Of a text that should have ended, this many tokens more than the longest that was learned.
MORE = 8


@dataclass
class Writer:
    """A model that is to learn to write, and what it needs to know of texts.

    Attributes:
        model: From `pipeline.models.torch.scratch`.
        tokenizer: Trained on what the model learns from.
        max_tokens: To which longer texts are cut, read or written.
        longest: The most tokens of a target that was encoded, so far.
        cut: How many texts have been cut, so far.
    """

    model: Any
    tokenizer: Any
    max_tokens: int
    longest: int = 0
    cut: int = 0
    inexact: int = 0
    labels: Sequence[str] = ()
    frozen: Sequence[Any] = ()
    head_kept: bool = False

    def encode(self, rows: Sequence[LabelledText]) -> tuple[dict[str, list[list[int]]], list[Any]]:
        """Texts as the model takes them, and the tokens that it should write."""
        read = self._tokens([row.text for row in rows])
        targets = self._tokens([row.labels[0] for row in rows])
        self.longest = max(self.longest, *map(len, targets))
        return {"input_ids": read}, targets

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        made = self.tokenizer(list(texts), truncation=True, max_length=self.max_tokens)
        self.cut += sum(bool(encoding.overflowing) for encoding in made.encodings)
        return list(made["input_ids"])

    def collate(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch: sources padded, targets as the decoder is given them and as it should go on."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        from pipeline.models.torch.scratch import shifted

        read = [torch.tensor(row["input_ids"]) for row in rows]
        labels = pad_sequence(
            [torch.tensor(row["labels"]) for row in rows], batch_first=True, padding_value=-100
        )
        return {
            "input_ids": pad_sequence(read, batch_first=True, padding_value=0),
            "attention_mask": pad_sequence(
                [torch.ones_like(one) for one in read], batch_first=True
            ),
            "decoder_input_ids": shifted(labels, self.model.config),
            "labels": labels,
        }

    def answers(self, rows: Sequence[LabelledText], *, batch: int) -> list[dict[str, Any]]:
        """What the model writes, as the tasks that write have it: ``text``."""
        import torch

        tokens, targets = self.encode(rows)
        order = sorted(range(len(rows)), key=lambda row: len(tokens["input_ids"][row]))
        found: list[dict[str, Any]] = [{}] * len(rows)
        self.model.eval()
        for at in range(0, len(rows), batch):
            some = order[at : at + batch]
            made = self.collate(
                [{"input_ids": tokens["input_ids"][row], "labels": targets[row]} for row in some]
            )
            with torch.inference_mode():
                written = self.model.generate(
                    input_ids=made["input_ids"].to(self.model.device),
                    attention_mask=made["attention_mask"].to(self.model.device),
                    max_new_tokens=min(self.longest + MORE, self.max_tokens - 1),
                    do_sample=False,
                )
            texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
            for row, text in zip(some, texts, strict=True):
                found[row] = {"text": text.strip()}
        return found

    def save(self, folder: Path) -> None:
        """Writes the model and its tokenizer as an ordinary model folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def new_writer(job: TrainJob, rows: Sequence[LabelledText]) -> Writer:
    """A model of random weights, and a tokenizer of the rows' texts.

    Args:
        job: Says how large the model is.
        rows: What is learned from.
    """
    import transformers

    from pipeline.models.torch.scratch import ScratchConfig, ScratchForConditionalGeneration

    options = job.scratch or ScratchOptions()
    most = job.train.max_tokens or options.max_tokens
    tokenizer = train_tokenizer(
        [text for row in rows for text in (row.text, row.labels[0])],
        vocabulary=options.vocabulary,
        max_tokens=most,
    )
    transformers.set_seed(job.train.seed)
    config = ScratchConfig(
        vocab_size=len(tokenizer),
        d_model=options.d_model,
        nhead=options.heads,
        num_encoder_layers=options.encoder_layers,
        num_decoder_layers=options.decoder_layers,
        dim_feedforward=options.feed_forward,
        dropout=options.dropout,
        max_position_embeddings=most,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    return Writer(ScratchForConditionalGeneration(config), tokenizer, most)


def train_tokenizer(texts: Sequence[str], *, vocabulary: int, max_tokens: int) -> Any:
    """A byte-level BPE of texts: any text has tokens, and they give it back. A digit is a token.

    Args:
        texts: What it learns from.
        vocabulary: The most tokens that it has.
        max_tokens: The most that the model takes at once.
    """
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END, START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", pair=f"$A $B {END}", special_tokens=[(END, made.token_to_id(END))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, eos_token=END, bos_token=START,
        model_max_length=max_tokens, clean_up_tokenization_spaces=False,
    )  # fmt: skip
