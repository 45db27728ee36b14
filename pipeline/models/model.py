"""A model: tokenizer and weights on a device, shared by all tasks of a worker that name it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import JobError, OutOfMemory, RowError, ShardscribeError, WorkerLost
from pipeline.models.batching import batches
from pipeline.models.device import Device
from pipeline.models.resolve import ModelInfo, fetch

# How a head is called in this project -> the transformers class that loads it.
HEADS = {
    "sequence-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "encoder": "AutoModel",
    "seq2seq": "AutoModelForSeq2SeqLM",
    "causal": "AutoModelForCausalLM",
}

# A model that does not say how much it takes (T5's positions are relative) gets this much.
FALLBACK_MAX_TOKENS = 512

Forward = Callable[[Any, Any], Sequence[Any]]


@dataclass
class Inference:
    """What came out of the device, in the order of the sequences.

    Attributes:
        results: One per sequence; None where it failed.
        failures: Why, by sequence index.
        tokens: Tokens of the sequences, special tokens included, padding not.
        padded_tokens: The same with padding.
    """

    results: list[Any]
    failures: dict[int, RowError] = field(default_factory=dict)
    tokens: int = 0
    padded_tokens: int = 0


class Model:
    """Tokenizer and weights on a device.

    Args:
        module: The transformers model, in evaluation mode, on the device.
        tokenizer: Its fast tokenizer.
        device: Shared by all models of the worker.
        budget: The most padded tokens in a batch.
        folder: Where the files came from.
    """

    def __init__(
        self, module: Any, tokenizer: Any, *, device: Device, budget: int, folder: Path
    ) -> None:
        self.module = module
        self.config = module.config
        self.tokenizer = tokenizer
        self.device = device
        self.budget = budget
        self.folder = folder
        # A copy: truncation and padding are switched off on ours and stay as they are on theirs.
        self._backend = type(tokenizer.backend_tokenizer).from_str(
            tokenizer.backend_tokenizer.to_str()
        )
        self._backend.no_truncation()
        self._backend.no_padding()
        self.prefix, self.suffix = _special_tokens(self._backend)
        self.max_tokens = _max_tokens(module, tokenizer)

    @property
    def room(self) -> int:
        """Content tokens that fit beside the special tokens."""
        return self.max_tokens - len(self.prefix) - len(self.suffix)

    @property
    def labels(self) -> list[str]:
        """The head's labels, by class index."""
        return [str(self.config.id2label[i]) for i in range(self.config.num_labels)]

    def encode(self, texts: Sequence[str]) -> list[Any]:
        """Tokenizes texts whole, without special tokens, on all cores.

        Returns:
            One `tokenizers.Encoding` per text, with `ids` and character `offsets`.
        """
        encodings: list[Any] = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return encodings

    def wrap(self, ids: Sequence[int]) -> list[int]:
        """Content tokens -> the sequence the model was trained on, special tokens around it."""
        return [*self.prefix, *ids, *self.suffix]

    def infer(
        self,
        sequences: Sequence[Sequence[int]],
        forward: Forward,
        *,
        left_padded: bool = False,
        extra_tokens: int = 0,
        budget_factor: int = 1,
    ) -> Inference:
        """Runs sequences through the device in token-budgeted batches.

        A batch that raises is halved until the row that makes it raise stands alone; the others
        go on. One that does not fit the memory lowers the budget, for this call and all later.

        Args:
            sequences: Token ids, special tokens included.
            forward: Given ids and mask (both int64 of shape [rows, longest]; the mask is None
                when there is no padding), returns one result per row.
            left_padded: Pad on the left, as generation needs.
            extra_tokens: Tokens that each row will grow by, counted into the budget.
            budget_factor: How many times the model's own budget a batch may hold.

        Returns:
            Results in the order of `sequences`.
        """
        lengths = [len(sequence) + extra_tokens for sequence in sequences]
        out = Inference([None] * len(sequences))
        for index, sequence in enumerate(sequences):
            if not sequence:
                out.failures[index] = RowError("the model sees no token in it", code="no_tokens")
        good = [index for index in range(len(sequences)) if index not in out.failures]
        queue = self._cut(good, lengths, budget_factor)
        total, ended = max(1, sum(lengths)), 0
        while queue:
            batch = queue.popleft()
            try:
                rows = self._run(batch, sequences, forward, left_padded, out)
            except Exception as error:  # a model may raise anything for a row
                raise_if_fatal(error)
                half = len(batch) // 2
                if not half:
                    out.failures[batch[0]] = row_error(error)
                elif _is_out_of_memory(error):
                    fits = half * lengths[batch[0]] // budget_factor
                    self.budget = max(1, min(self.budget, fits))
                    rest = [index for other in queue for index in other]
                    queue = self._cut([*batch, *rest], lengths, budget_factor)
                else:
                    queue.extendleft([batch[half:], batch[:half]])
                continue
            for index, row in zip(batch, rows, strict=True):
                out.results[index] = row
            ended += sum(lengths[index] for index in batch)
            self.device.report(ended / total)
        return out

    def _cut(self, indices: Sequence[int], lengths: Sequence[int], factor: int) -> deque[list[int]]:
        cut = batches(
            [lengths[i] for i in indices],
            budget=self.budget * factor,
            slack=self.device.slack * factor,
        )
        return deque([indices[at] for at in batch] for batch in cut)

    def _run(
        self,
        batch: Sequence[int],
        sequences: Sequence[Sequence[int]],
        forward: Forward,
        left_padded: bool,
        out: Inference,
    ) -> Sequence[Any]:
        import torch

        lengths = [len(sequences[i]) for i in batch]
        longest, useful = max(lengths), sum(lengths)
        ids = np.full((len(batch), longest), self.pad_id, dtype=np.int64)
        for row, (index, length) in enumerate(zip(batch, lengths, strict=True)):
            at = longest - length if left_padded else 0
            ids[row, at : at + length] = sequences[index]
        mask = None
        if useful < ids.size:
            steps = np.arange(longest)
            ends = np.asarray(lengths)[:, None]
            mask = (steps >= longest - ends) if left_padded else (steps < ends)
        with self.device.hold(tokens=useful, padded=ids.size), torch.inference_mode():
            rows = forward(
                torch.from_numpy(ids).to(self.device.name),
                None
                if mask is None
                else torch.from_numpy(mask.astype(np.int64)).to(self.device.name),
            )
        out.tokens += useful
        out.padded_tokens += ids.size
        return rows

    @property
    def pad_id(self) -> int:
        """The padding token; any token serves where a model has none, as padding is masked."""
        for source in (self.tokenizer, self.config):
            token = getattr(source, "pad_token_id", None)
            if token is not None:
                return int(token)
        return 0


class Models:
    """The models of one worker, each loaded once per head.

    Args:
        infos: By reference, every model that the job names.
        device: Where they go.
        budget: Padded tokens per batch; None for the device's default.
    """

    def __init__(
        self, infos: Mapping[str, ModelInfo], *, device: Device, budget: int | None = None
    ) -> None:
        self.infos = dict(infos)
        self.device = device
        self.budget = budget or device.default_budget
        self._loaded: dict[tuple[str, str], Model] = {}
        self._lock = threading.Lock()

    def get(self, reference: str, *, head: str) -> Model:
        """The model with that head, loaded at the first call.

        Raises:
            JobError: transformers can't load it.
        """
        with self._lock:
            key = (reference, head)
            if key not in self._loaded:
                self._loaded[key] = self._load(self.infos[reference], head)
            return self._loaded[key]

    def _load(self, info: ModelInfo, head: str) -> Model:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        folder = fetch(info)
        auto = getattr(transformers, HEADS[head])
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            module, report = auto.from_pretrained(
                folder,
                dtype=self.device.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise_if_fatal(error)
            reason = " ".join(str(error).split())[:300]
            raise JobError(
                f"model {info.reference} can't be loaded for {head}: {reason}",
                mend="Check that the folder is complete and the architecture fits the task",
            ) from error
        if not getattr(tokenizer, "is_fast", False):
            raise JobError(
                f"model {info.reference} has no fast tokenizer (tokenizer.json), "
                "which exact offsets need",
                mend="Convert it once with AutoTokenizer.from_pretrained(...).save_pretrained(...)",
            )
        missing = sorted(key for key in report["missing_keys"] if "position_ids" not in key)
        if missing and head != "encoder":
            raise JobError(
                f"model {info.reference} lacks weights for {head} ({missing[0]} and "
                f"{len(missing) - 1} more), which would be random",
                mend="Fine-tune it for the task, or name a model that was",
            )
        module = module.to(self.device.name).eval()
        return Model(module, tokenizer, device=self.device, budget=self.budget, folder=folder)


def _special_tokens(backend: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before and after a single text, such as [CLS] and [SEP]."""
    probe = "a"
    bare = backend.encode(probe, add_special_tokens=False).ids
    full = backend.encode(probe, add_special_tokens=True).ids
    for at in range(len(full) - len(bare) + 1):
        if full[at : at + len(bare)] == bare:
            return full[:at], full[at + len(bare) :]
    return [], []


def _max_tokens(module: Any, tokenizer: Any) -> int:
    limits = []
    declared = getattr(tokenizer, "model_max_length", None)
    if declared is not None and declared < 10_000_000:  # transformers says 1e30 for "unknown"
        limits.append(int(declared))
    for name in ("max_position_embeddings", "n_positions"):
        positions = getattr(module.config, name, None)
        if isinstance(positions, int) and positions > 0:
            limits.append(positions - _first_position(module))
            break
    return min(limits) if limits else FALLBACK_MAX_TOKENS


def _first_position(module: Any) -> int:
    """RoBERTa's kind counts positions from padding_idx + 1, so it has that many fewer."""
    for name, part in module.named_modules():
        if name.endswith("position_embeddings") and getattr(part, "padding_idx", None) is not None:
            return int(part.padding_idx) + 1
    return 0


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    return isinstance(error, (torch.OutOfMemoryError, OutOfMemory, MemoryError))


def raise_if_fatal(error: Exception) -> None:
    """Lets through what no halving of a batch can heal.

    Raises:
        WorkerLost: The device is broken for the whole process, as after a failed assertion in a
            CUDA kernel.
        ShardscribeError: The error is of the split, the job or the run.
    """
    import torch

    if isinstance(error, ShardscribeError) and not isinstance(error, (RowError, OutOfMemory)):
        raise error
    broken = getattr(torch, "AcceleratorError", None)
    if broken is not None and isinstance(error, broken) and not _is_out_of_memory(error):
        raise WorkerLost(f"the device is broken: {error}") from error


def row_error(error: Exception, *, code: str = "model_error") -> RowError:
    """What a row's error is called.

    Args:
        error: What was raised for the row alone.
        code: For an error that has none of its own.
    """
    if isinstance(error, RowError):
        return error
    if _is_out_of_memory(error):
        return RowError("the text alone does not fit the device's memory", code="out_of_memory")
    reason = " ".join(str(error).split())[:300]
    return RowError(f"{type(error).__name__}: {reason}", code=code)
