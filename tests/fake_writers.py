"""Models that write, in plain Python: what tasks ask of one is the protocol and nothing else."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from pipeline.errors import RowError
from pipeline.models.batching import Sequences
from pipeline.models.decoding import Decoding, cut_at
from pipeline.models.heads import Generation, Generations
from pipeline.models.inference import Inference
from pipeline.models.resolve import ModelInfo
from pipeline.models.text.side import TextSide
from pipeline.tasks import TASKS

END = "</s>"


class FakeTokenizer:
    """What is asked of one of transformers. A word a token, or a byte a token."""

    pad_token_id = 0

    def __init__(
        self, words: Sequence[str], *, length: int, chat: bool = False, letters: bool = False
    ) -> None:
        special = ["<pad>", END, "<unk>"]
        if letters:
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
            vocabulary = {word: at for at, word in enumerate([*special, *alphabet])}
            made = Tokenizer(models.BPE(vocabulary, merges=[]))
            made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            made.decoder = decoders.ByteLevel()
        else:
            vocabulary = {word: at for at, word in enumerate([*special, ".", *words])}
            made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
            made.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(".", "isolated")]
            )
        made.add_special_tokens(special)
        if not chat and not letters:
            made.post_processor = processors.TemplateProcessing(
                single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)]
            )
        self.backend_tokenizer = made
        self.model_max_length = length
        self.chat_template = "fake" if chat else None

    def apply_chat_template(self, messages: Any, **how: Any) -> str:
        """A word for each role, what it says, and a word for who speaks next."""
        return " ".join(word for m in messages for word in (m["role"], m["content"])) + " assistant"

    def get_vocab(self) -> dict[str, int]:
        """Words and their numbers."""
        found: dict[str, int] = self.backend_tokenizer.get_vocab()
        return found


class FakeGenerator:
    """Writes what `says` makes of a prompt; `heard` keeps how it was asked.

    A prompt of which `says` raises a RowError fails.
    """

    def __init__(
        self,
        words: Sequence[str],
        says: Callable[[str], str],
        *,
        model_type: str = "llama",
        is_encoder_decoder: bool = False,
        length: int = 32,
        letters: bool = False,
        most_new_tokens: int | None = None,
        start_token: int | None = None,
    ) -> None:
        config = SimpleNamespace(model_type=model_type, pad_token_id=0)
        config.get_text_config = lambda: config
        chat = not is_encoder_decoder and not letters
        tokenizer = FakeTokenizer(words, length=length, chat=chat, letters=letters)
        self.text = TextSide(tokenizer, config, folder=Path("nowhere"))
        self.says = says
        self.is_encoder_decoder = is_encoder_decoder
        self.most_new_tokens = most_new_tokens
        self.start_token = start_token
        self.ends = frozenset({1})
        self.heard: list[tuple[list[str], Decoding]] = []

    def generate(self, prompts: Sequence[np.ndarray], decoding: Decoding) -> Generations:
        """Writes once per prompt."""
        read = [self.text.tokenizer.backend_tokenizer.decode(ids.tolist()) for ids in prompts]
        self.heard.append((read, decoding))
        out: Generations = Inference([None] * len(prompts))
        for at, prompt in enumerate(read):
            assert 0 < len(prompts[at]) <= self.text.max_tokens
            try:
                out.results[at] = self._written(self.says(prompt), decoding)
            except RowError as error:
                out.failures[at] = error
        out.tokens = sum(map(len, prompts)) + sum(len(one.ids) for one in out.results if one)
        out.padded_tokens = sum(map(len, prompts))
        return out

    def _written(self, said: str, decoding: Decoding) -> Generation:
        ids = self.text.tokens.ids(said)
        kept = ids[: decoding.max_new_tokens]
        # White space between words is no token, and what is cut is cut at a word or a letter.
        said = said if kept == ids else self.text.tokenizer.backend_tokenizer.decode(kept)
        text = cut_at(said, decoding.stops)
        return Generation(text.strip(), tuple(kept), kept == ids or text != said)


class FakeScorer:
    """Weighs an answer by how many of its tokens stand in the prompt."""

    def __init__(self, words: Sequence[str], *, length: int = 64) -> None:
        self.text = FakeGenerator(words, str, length=length).text

    def log_likelihoods(
        self, prompts: Sequences, answers: Sequence[Sequence[int]]
    ) -> Inference[np.ndarray]:
        """Float32 of shape [answers] for each prompt."""
        out: Inference[np.ndarray] = Inference([])
        for at in range(len(prompts)):
            ids, _ = prompts.flat([at])
            assert len(ids) + max(map(len, answers)) <= self.text.max_tokens
            seen = [sum(math.log(1 + (ids == token).sum()) for token in one) for one in answers]
            out.results.append(np.array(seen, dtype=np.float32))
        return out


class FakeModels:
    """A worker's models, of which there is one."""

    def __init__(self, head: Any, info: ModelInfo) -> None:
        self.infos = {info.reference: info}
        self.head = head

    def generator(self, reference: str) -> Any:
        """The one."""
        assert reference in self.infos
        return self.head

    answer_scorer = generator


def loaded(head: Any, **options: Any) -> Any:
    """A task of a job with the options of one that is named, loaded with a fake model."""
    writes_apart = getattr(head, "is_encoder_decoder", False)
    config = {
        "architectures": ["FakeForConditionalGeneration" if writes_apart else "FakeForCausalLM"],
        "is_encoder_decoder": writes_apart,
        "model_type": head.text.config.model_type,
    }
    info = ModelInfo("fake", config, chat_template=head.text.tokenizer.chat_template is not None)
    kind = TASKS[options["kind"]]
    task = kind(kind.Options.model_validate({"model": "fake", **options}))
    task.bind(info)
    task.check_model(info)
    return task.load(FakeModels(head, info))  # type: ignore[arg-type]
