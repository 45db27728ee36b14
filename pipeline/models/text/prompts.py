"""Prompts: what a model that writes is given of a text, laid out around it and cut to fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pipeline.errors import JobError
from pipeline.models.text.passages import passages
from pipeline.models.text.side import TextSide

# Stands for the text while a chat template is laid out; the private-use letters are in no prompt.
MARK = "\ue000\ue001"

Long = Literal["windows", "end", "middle"]


@dataclass(frozen=True)
class PromptFrame:
    """What stands around every text.

    Attributes:
        before: Before the text; tokenized together with it, as transformers would.
        after: Behind the text.
        prefix: Special tokens at the very start.
        suffix: Special tokens at the very end.
    """

    before: str = ""
    after: str = ""
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()


@dataclass
class Prompts:
    """The prompts of some texts.

    Attributes:
        ids: The tokens of each prompt, special tokens included.
        owner: The text that it is of; each text has at least one prompt.
        gaps: White space that stood before the prompt's piece of the text.
        cut: Texts of which the prompts leave something out.
    """

    ids: list[np.ndarray] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    cut: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[int] | np.ndarray, *, owner: int, gap: str = "") -> None:
        """One more prompt."""
        self.ids.append(np.asarray(ids, dtype=np.int64))
        self.owner.append(owner)
        self.gaps.append(gap)


def has_chat(text: TextSide) -> bool:
    """Whether the tokenizer says how to lay out a chat."""
    return bool(getattr(text.tokenizer, "chat_template", None))


def chat_frame(text: TextSide, instruction: str = "", *, system: str = "") -> PromptFrame:
    """The chat template around a user's message: the text, then the instruction.

    Args:
        text: Of a model with a chat template.
        instruction: Stands behind the text: small models lose sight of one before a long text.
            With SmolLM2, 2 of 5 reviews were answered instead of summarized, after it none.
        system: The system's message; without it, whatever the template puts there by itself.

    Raises:
        JobError: The template can't be laid out, or drops the text.
    """
    content = f"{MARK}\n\n{instruction}" if instruction else MARK
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    from jinja2 import TemplateError

    try:
        laid_out: str = text.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, ValueError) as error:
        raise JobError(
            f"the model's chat template can't be laid out: {error}",
            hint="Leave `system` away if the model knows no such role" if system else "",
        ) from error
    before, mark, after = laid_out.partition(MARK)
    if not mark:
        raise JobError("the model's chat template drops the user's text")
    return PromptFrame(before, after)


def plain_frame(text: TextSide, before: str = "", after: str = "") -> PromptFrame:
    """The tokenizer's own special tokens around the text."""
    return PromptFrame(before, after, tuple(text.prefix), tuple(text.suffix))


class PromptMaker:
    """Lays texts out as prompts that a model takes.

    A text that fits is tokenized together with its frame, so that the prompt is what transformers
    makes of the whole string. Of one that does not fit, only the text is ever cut.

    Args:
        text: The model's tokenizer and its longest input.
        frame: What stands around each text.
        reserve: Tokens of the model's longest input that stay free, for what it writes.
        language: ISO 639 code by which long texts are cut into sentences.

    Attributes:
        limit: The most tokens of a prompt.
        room: The most tokens of a text in it.
    """

    def __init__(
        self, text: TextSide, frame: PromptFrame, *, reserve: int = 0, language: str = "en"
    ) -> None:
        self.tokens = text.tokens
        self.frame = frame
        self.language = language
        self.limit = text.max_tokens - reserve
        self._before = [*frame.prefix, *self.tokens.ids(frame.before)]
        self._after = [*self.tokens.ids(frame.after), *frame.suffix]
        self.room = self.limit - len(self._before) - len(self._after)

    def lay_out(
        self,
        texts: Sequence[str],
        *,
        long: Long | Sequence[Long],
        most: int | None = None,
        window: int | None = None,
    ) -> Prompts:
        """Makes at least one prompt of each text.

        Args:
            texts: Any texts.
            long: What becomes of a text that does not fit, for all or for each. ``windows``: a
                prompt for each piece, cut between sentences. ``end``: its end is left out.
                ``middle``: its middle is left out, as instructions stand at either end (as
                LongBench does it, Bai et al., 2023, arXiv 2308.14508, section 4.1).
            most: Texts of more tokens than that are cut although they would fit.
            window: The most tokens of a piece of a long text; `most` if None.
        """
        frame, out = self.frame, Prompts()
        whole = self.tokens.encode([f"{frame.before}{text}{frame.after}" for text in texts])
        around = len(frame.prefix) + len(frame.suffix)
        room = self.room if most is None else min(self.room, most)
        # The frame's tokens are counted alone; where they melt with the text's, that is a guess.
        limit = min(self.limit, room + self.limit - self.room)
        rules: Sequence[Long] = [long] * len(texts) if isinstance(long, str) else long
        for row, (text, rule) in enumerate(zip(texts, rules, strict=True)):
            if len(whole.row(row)) + around <= limit:
                out.add([*frame.prefix, *whole.row(row), *frame.suffix], owner=row)
            elif rule == "windows":
                self._add_windows(out, row, text, min(room, window or room))
            else:
                self._add_cut(out, row, text, rule, room)
        return out

    def _add_windows(self, out: Prompts, row: int, text: str, room: int) -> None:
        gap = ""
        for piece in passages(text, self.tokens, room=room, language=self.language):
            core = piece.strip()
            gap += piece[: len(piece) - len(piece.lstrip())]
            if not core:
                continue
            found = self.tokens.ids(f"{self.frame.before}{core}{self.frame.after}")
            if len(found) + len(self.frame.prefix) + len(self.frame.suffix) <= self.limit:
                out.add([*self.frame.prefix, *found, *self.frame.suffix], owner=row, gap=gap)
            else:  # a single character of more tokens than there is room for, or tokens that melt
                self._add_cut(out, row, core, "end", room, gap=gap)
            gap = piece[len(piece.rstrip()) :]
        if not out.owner or out.owner[-1] != row:
            self._add_cut(out, row, text, "end", room)

    def _add_cut(
        self, out: Prompts, row: int, text: str, long: Long, room: int, *, gap: str = ""
    ) -> None:
        ids = self.tokens.ids(text)
        if len(ids) > room:
            out.cut.add(row)
            tail = room // 2 if long == "middle" else 0
            ids = ids[: room - tail] + ids[len(ids) - tail :]
        out.add([*self._before, *ids, *self._after], owner=row, gap=gap)
