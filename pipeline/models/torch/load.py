"""The models of a worker: loaded once each, laid out and timed for their device."""

from __future__ import annotations

import copy
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from pipeline.errors import JobError
from pipeline.models.adapters import Brought, label_fields, look_into
from pipeline.models.device import Device
from pipeline.models.families import WEIGHTS_READ, check_family, pads
from pipeline.models.faults import loading
from pipeline.models.heads import WRITING_HEADS, HeadName, writing_head
from pipeline.models.inference import BatchRunner
from pipeline.models.resolve import ModelInfo, fetch
from pipeline.models.text.side import TextSide, own_pad_token
from pipeline.models.text.texts import Tokenizer
from pipeline.models.text.tokenizer import load_tokenizer
from pipeline.models.torch.auto import auto_class
from pipeline.models.torch.calibrate import CPU_BUDGETS, GPU_BUDGETS, Budgets, find_budget
from pipeline.models.torch.faults import own_errors
from pipeline.models.torch.first_token import shorten
from pipeline.models.torch.generation import TorchGenerator
from pipeline.models.torch.heads import (
    TorchClassifier,
    TorchEncoder,
    TorchSpanScorer,
    TorchTokenClassifier,
)
from pipeline.models.torch.inputs import first_position, read_to_the_end, token_types
from pipeline.models.torch.int8_twin import Int8Layers, measured
from pipeline.models.torch.likelihood import TorchAnswerScorer
from pipeline.models.torch.linear import lay_out
from pipeline.models.torch.merge import merged
from pipeline.models.torch.model import Model
from pipeline.models.torch.packed import Packed, packed
from pipeline.models.torch.sparse import keep_sparse
from pipeline.models.torch.watch import watch

# Texts of about this length are what budgets are timed with: the mean of real paragraphs.
PROBE_TOKENS = 64


class TorchModels:
    """The models of one worker, each loaded once per head: `pipeline.models.heads.Models`.

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
        self.budget = budget
        self.adapter: str | None = None
        self._loaded: dict[tuple[str, HeadName, str | None], Model] = {}
        self._twins: dict[tuple[str, HeadName, str | None], Model] = {}
        self._tokens: dict[str, Tokenizer] = {}
        self._lock = threading.Lock()
        # By name, what was measured of models, where these are their twins in int8.
        self._measured: Mapping[str, Any] | None = None

    def with_adapter(self, adapter: str | None) -> Self:
        """The same models with an adapter's weights merged into each that is got from here."""
        if adapter is None:
            return self
        view = copy.copy(self)
        view.adapter = adapter
        return view

    def classifier(self, reference: str) -> TorchClassifier:
        """A model with a sequence-classification head."""
        return TorchClassifier(self.get(reference, head="sequence-classification"))

    def token_classifier(self, reference: str) -> TorchTokenClassifier:
        """A model with a token-classification head."""
        return TorchTokenClassifier(self.get(reference, head="token-classification"))

    def span_scorer(self, reference: str) -> TorchSpanScorer:
        """A model with a question-answering head."""
        return TorchSpanScorer(self.get(reference, head="question-answering"))

    def encoder(self, reference: str) -> TorchEncoder:
        """A model without a head."""
        return TorchEncoder(self.get(reference, head="encoder"))

    def get(self, reference: str, *, head: HeadName) -> Model:
        """The model with that head, loaded at the first call.

        Raises:
            JobError: transformers can't load it.
        """
        with self._lock:
            key = (reference, head, self.adapter)
            if key not in self._loaded:
                self._loaded[key] = self._load(self.infos[reference], head)
            model = self._loaded[key]
            if self._measured is None:
                return model
            if key not in self._twins:
                self._twins[key] = model.in_int8(self._measured.get(_name(key)))
            return self._twins[key]

    def measured(self, infer: Callable[[], None]) -> dict[str, Any]:
        """What the twins in int8 need to be known of the models, as JSON takes it."""
        known = {_name(key): model for key, model in self._loaded.items() if model.int8}
        return measured(known, infer)

    def in_int8(self, measured: Mapping[str, Any]) -> Self:
        """The twins."""
        view = copy.copy(self)
        view._measured, view._twins = measured, {}
        return view

    def answer_scorer(self, reference: str) -> TorchAnswerScorer:
        """A decoder that weighs answers."""
        return TorchAnswerScorer(self.get(reference, head="causal"))

    def generator(self, reference: str) -> TorchGenerator:
        """A model that writes."""
        return TorchGenerator(self.get(reference, head=writing_head(self.infos[reference])))

    def _load(self, info: ModelInfo, head: HeadName) -> Model:
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        check_family(info.config, head=head, reference=info.reference)
        folder = fetch(info)
        auto = auto_class(info, head)
        adapter = self.infos[self.adapter] if self.adapter is not None else None
        brought = look_into(adapter, info) if adapter is not None else None
        with _loading(info, head):
            tokenizer = load_tokenizer(folder)
            module, report = auto.from_pretrained(
                folder,
                dtype=self.device.dtype,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **({} if brought is None else _for_head(brought, head)),
            )
        # What was left out for its size is as random as what was not there.
        unset = {key for key, *_ in report["mismatched_keys"]}
        if head != "encoder":
            unset |= {key for key in report["missing_keys"] if "position_ids" not in key}
        missing = sorted(unset) if brought is None else brought.lacking(unset)
        if missing:
            raise JobError(
                f"model {info.reference} lacks weights for {head} ({missing[0]} and "
                f"{len(missing) - 1} more), which would be random",
                hint="Fine-tune it for the task, or name a model that was",
            )
        if adapter is not None and brought is not None:
            module = merged(module, adapter, brought.names)
        with _loading(info, head):
            model = ready(
                module,
                tokenizer,
                head=head,
                device=self.device,
                budget=self.budget or self.device.default_budget,
                folder=folder,
            )
            text = model.text
            if text.room < 1:
                raise ValueError(f"its special tokens alone fill the {text.max_tokens} it takes")
        text.tokens = self._tokens.setdefault(text.tokens.key, text.tokens)
        if self.budget is None and head not in WRITING_HEADS:
            model.runner.budget = self._calibrated(model, info, head)
        return model

    def _calibrated(self, model: Model, info: ModelInfo, head: HeadName) -> int:
        """The batch size that this model likes on this device, timed once per machine."""
        import torch

        on_gpu = self.device.name != "cpu"
        lanes = 1 if model.runner.lanes > 1 else None
        what = {
            "config": info.config,
            "head": head,
            "device": torch.cuda.get_device_name(self.device.name) if on_gpu else "cpu",
            "dtype": self.device.dtype_name,
            "lanes": model.runner.lanes,
            **({"sharing": self.device.sharing} if self.device.sharing > 1 else {}),
            "torch": torch.__version__,
        }
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
        remembered = Budgets().get(key)
        if remembered is not None:
            return remembered
        length = min(PROBE_TOKENS, model.text.max_tokens)

        def run(budget: int) -> None:
            rows = max(1, budget // length)
            ids = torch.full((rows, length), model.text.pad_id)
            with self.device.hold(lanes=lanes), torch.inference_mode():
                if model.packed is not None:
                    counts = np.full(rows, length)
                    batch = Packed.place(ids.numpy().ravel(), counts, place=model.transfer.place)
                    model.packed.forward(batch)
                else:
                    model.module(input_ids=ids.to(self.device.name))
                if on_gpu:
                    torch.cuda.synchronize(self.device.name)

        budgets = tuple(budget // self.device.sharing for budget in GPU_BUDGETS)
        found = find_budget(run, budgets if on_gpu else CPU_BUDGETS)
        if found is None:
            return self.device.default_budget
        Budgets().put(key, found)
        return found


def _name(key: tuple[str, HeadName, str | None]) -> str:
    """What a loaded model is called in what is measured of it."""
    return " ".join(part for part in key if part)


@contextmanager
def _loading(info: ModelInfo, head: HeadName) -> Iterator[None]:
    hint = "Check that the folder is complete and the architecture fits the task"
    with loading(info.reference, what=head, hint=hint), own_errors():
        yield


def _for_head(brought: Brought, head: HeadName) -> dict[str, Any]:
    """How a model is loaded for the head that its adapter brings: with as many labels."""
    if brought.labels is None or not head.endswith("-classification"):
        return {}
    return {**label_fields(brought.labels), "ignore_mismatched_sizes": True}


def ready(
    module: Any, tokenizer: Any, *, head: HeadName, device: Device, budget: int, folder: Path
) -> Model:
    """A model to infer with, from what transformers loaded.

    Args:
        module: Changed in place.
        tokenizer: Its fast tokenizer.
        head: How it was loaded.
        device: Where it goes.
        budget: Padded tokens per batch.
        folder: Where the files came from.
    """
    module = module.to(device.name).eval()
    padded, int8 = pads(module.config), None
    if head == "sequence-classification" and own_pad_token(module.config) is None:
        read_to_the_end(module)
        padded = False
    if device.name == "cpu":
        shorten(module)
        if module.config.model_type not in WEIGHTS_READ:
            if device.dtype_name == "int8" and head not in WRITING_HEADS:
                int8 = Int8Layers(module)
            lay_out(module)
    watch(module, device)
    text = TextSide(
        tokenizer,
        module.config,
        folder=folder,
        types=token_types(module),
        first_position=first_position(module),
    )
    model = Model(module, text, BatchRunner(device, budget=budget, padded=padded))
    if device.name != "cpu" and not text.typed:
        model.packed = packed(module)
    model.runner.depth = model.transfer.depth
    model.int8 = int8
    changes = keep_sparse(module)
    # A module that changes itself by the length of a batch computes one batch at a time.
    if changes or head in WRITING_HEADS:
        model.runner.lanes = 1
    if head in WRITING_HEADS:
        model.runner.depth = 1  # a batch is written when it was given
    return model
