"""How a model goes about writing: what a task asks for, whatever the engine."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from pipeline.models.text.grammar import Grammar


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Draws belong to the row: the same whatever the batch or the worker.

    Attributes:
        seed: Another seed, another text.
        temperature: Divides the scores, above 0.
        top_k: Only that many of the likeliest tokens are drawn from.
        top_p: Only the likeliest tokens that together have this probability are.
    """

    seed: int = 0
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def key(self, prompt: np.ndarray) -> int:
        """What a row's draws depend on, as a signed 64-bit integer.

        Args:
            prompt: Its tokens, without padding.
        """
        content = np.asarray(prompt, dtype="<i8").tobytes()
        salt = str(self.seed).encode()
        digest = hashlib.blake2b(salt + b"\0" + content, digest_size=8).digest()
        return int.from_bytes(digest, "little", signed=True)


@dataclass(frozen=True)
class Decoding:
    """How prompts are continued.

    Attributes:
        max_new_tokens: The most tokens to write.
        stops: Strings that end a text; they are no part of it.
        sampling: How tokens are drawn; the likeliest each time if None.
        grammar: What is written must follow it.
        start_token: What an encoder-decoder starts to write from; its own start token if None.
        first_token: What it writes first, whatever its scores; no part of the text.
    """

    max_new_tokens: int
    stops: tuple[str, ...] = ()
    sampling: Sampling | None = None
    grammar: Grammar | None = None
    start_token: int | None = None
    first_token: int | None = None


def cut_at(text: str, stops: tuple[str, ...]) -> str:
    """The text before the first stop string."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return text[: min(found)] if found else text
