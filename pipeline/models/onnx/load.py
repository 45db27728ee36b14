"""The models of a worker that onnxruntime computes, loaded once each."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn, Self

from pipeline.errors import JobError
from pipeline.models.device import Device
from pipeline.models.families import COMPARING_TYPES, ENCODERS, check_family, first_position, pads
from pipeline.models.faults import loading
from pipeline.models.heads import HeadName
from pipeline.models.inference import BatchRunner
from pipeline.models.onnx.files import whole_graph
from pipeline.models.onnx.heads import OnnxClassifier, OnnxEncoder, OnnxTokenClassifier
from pipeline.models.onnx.ports import TYPES, Ports
from pipeline.models.onnx.session import Session
from pipeline.models.resolve import ModelInfo, fetch
from pipeline.models.text.layout import TYPE_MASK, Layout, TokenTypes
from pipeline.models.text.side import TextSide
from pipeline.models.text.texts import Tokenizer
from pipeline.models.text.tokenizer import load_tokenizer


class OnnxModels:
    """The models of one worker: `pipeline.models.heads.Models`.

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
        self._loaded: dict[tuple[str, HeadName], tuple[Session, TextSide, BatchRunner]] = {}
        self._tokens: dict[str, Tokenizer] = {}
        self._lock = threading.Lock()

    def with_adapter(self, adapter: str | None) -> Self:
        """These, as long as there is no adapter."""
        if adapter is not None:
            raise JobError(f"adapter {adapter} can't be merged into an ONNX file")
        return self

    def classifier(self, reference: str) -> OnnxClassifier:
        """A model with a sequence-classification head."""
        return OnnxClassifier(*self._get(reference, "sequence-classification"))

    def token_classifier(self, reference: str) -> OnnxTokenClassifier:
        """A model with a token-classification head."""
        return OnnxTokenClassifier(*self._get(reference, "token-classification"))

    def encoder(self, reference: str) -> OnnxEncoder:
        """A model without a head."""
        return OnnxEncoder(*self._get(reference, "encoder"))

    def span_scorer(self, reference: str) -> NoReturn:
        """There is none."""
        raise _has_no_head(reference)

    def answer_scorer(self, reference: str) -> NoReturn:
        """There is none."""
        raise _has_no_head(reference)

    def generator(self, reference: str) -> NoReturn:
        """There is none."""
        raise _has_no_head(reference)

    def _get(self, reference: str, head: HeadName) -> tuple[Session, TextSide, BatchRunner]:
        with self._lock:
            key = (reference, head)
            if key not in self._loaded:
                self._loaded[key] = self._load(self.infos[reference], head)
            return self._loaded[key]

    def _load(self, info: ModelInfo, head: HeadName) -> tuple[Session, TextSide, BatchRunner]:
        import transformers

        transformers.logging.set_verbosity_error()
        check_family(info.config, head=head, reference=info.reference)
        folder = fetch(info)
        hint = "Export it anew, or leave compute.engine at torch"
        with loading(info.reference, what=f"{head} from {info.file}", hint=hint):
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            tokenizer = load_tokenizer(folder)
            ports = Ports.of(whole_graph(folder, info.file), head=head, file=info.file)
            types = replace(_token_types(config), told=TYPES in ports.inputs)
            if types.lost(Layout.of(tokenizer, texts=1)):
                raise ValueError(
                    f"its graph takes no {TYPES}, without which it reads texts wrongly"
                )
            text = TextSide(
                tokenizer,
                config,
                folder=folder,
                types=types,
                first_position=first_position(config),
            )
            if text.room < 1:
                raise ValueError(f"its special tokens alone fill the {text.max_tokens} it takes")
            session = Session(folder / info.file, ports, device=self.device)
            labels = None if head == "encoder" else len(text.labels)
            masks = session.try_out(text, labels=labels)
        text.tokens = self._tokens.setdefault(text.tokens.key, text.tokens)
        # A classifier that reads a row's last token finds it in any graph if none is padding.
        padded = pads(config) and masks and not ports.alone and config.model_type in ENCODERS
        budget = 1 if ports.alone else self.budget or self.device.default_budget
        return session, text, BatchRunner(self.device, budget=budget, padded=padded)


def _token_types(config: Any) -> TokenTypes:
    """Which token types a model tells apart, by its configuration."""
    if config.model_type in COMPARING_TYPES:
        return TokenTypes(TYPE_MASK, always=True)
    return TokenTypes(int(getattr(config, "type_vocab_size", 0) or 0))


def _has_no_head(reference: str) -> JobError:
    return JobError(
        f"model {reference}: compute.engine: onnxruntime has no such head",
        hint="Leave compute.engine at torch",
    )
