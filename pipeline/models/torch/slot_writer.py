"""What writes in slots: how many rows at once, and which of them together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from pipeline.models.decoding import Decoding
from pipeline.models.room import alike, free_memory, keep_freed, rows_at_once
from pipeline.models.torch.faults import own_errors
from pipeline.models.torch.model import Model
from pipeline.models.torch.rules import Rule
from pipeline.models.torch.steps import Steps, WritingRoom

# A batch's budget times this is what is kept of rows that are being written, at most.
CACHE_FACTOR = 16
MOST_ROWS = 4096


class SlotWriter(ABC):
    """A model that is written with in slots.

    Args:
        model: As it was loaded.

    Attributes:
        room: What fits the memory.
        in_runs: Whether a row may be given several tokens at once.
    """

    in_runs = False

    def __init__(self, model: Model) -> None:
        self.room = WritingRoom(tokens=model.runner.budget, rows=MOST_ROWS)
        self._budget = model.runner.budget * CACHE_FACTOR
        self._device = model.device.name
        if self._device == "cpu":
            keep_freed()

    @abstractmethod
    def token_bytes(self) -> int:
        """What the keys and values of a token take."""

    @abstractmethod
    def holds(self, capacity: int, decoding: Decoding) -> bool:
        """Whether rows of so many tokens, with what is written, come out right."""

    @abstractmethod
    def rules(self, prompts: Sequence[np.ndarray], decoding: Decoding) -> list[Rule]:
        """What the model itself asks of writing."""

    @abstractmethod
    def steps(
        self, prompts: Sequence[np.ndarray], rows: Sequence[int], decoding: Decoding, *, slots: int
    ) -> Steps:
        """Takes a lane's memory for rows of one group, as many at once as there are slots."""

    def call(self, prompts: Sequence[np.ndarray], decoding: Decoding, *, lanes: int) -> Call:
        """What the lanes of a call take their memory by."""
        return Call(self, prompts, decoding, lanes=lanes)

    def rows_at_once(self, capacities: np.ndarray) -> list[int]:
        """For each row, how many of its tokens, with what is written, the memory holds now."""
        import torch

        on_gpu = self._device != "cpu"
        free = torch.cuda.mem_get_info(self._device)[0] if on_gpu else free_memory()
        how = {"token_bytes": self.token_bytes(), "free": free, "budget": self._budget}
        return [rows_at_once(int(n), on_gpu=on_gpu, **how) for n in capacities]


class Call:
    """How much of the memory each lane of a call takes: together as much as one alone.

    Args:
        writer: What is written with.
        prompts: Of the call.
        decoding: How they are continued.
        lanes: How many threads write them.
    """

    def __init__(
        self,
        writer: SlotWriter,
        prompts: Sequence[np.ndarray],
        decoding: Decoding,
        *,
        lanes: int,
    ) -> None:
        self._writer = writer
        self._prompts = prompts
        self._decoding = decoding
        self._lanes = lanes
        self._slots: dict[int, int] = {}

    def groups(self) -> list[list[int]]:
        """Cuts the rows that have tokens into groups that are written together."""
        lengths = np.array([len(prompt) for prompt in self._prompts], dtype=np.int64)
        rows = np.flatnonzero(lengths > 0)
        with own_errors():
            slots = self._writer.rows_at_once(lengths[rows] + self._decoding.max_new_tokens)
        self._slots = dict(zip(rows.tolist(), slots, strict=True))
        capacities = lengths[rows] + self._decoding.max_new_tokens
        return [rows[group].tolist() for group in alike(capacities, np.array(slots, dtype=int))]

    def steps(self, rows: Sequence[int]) -> Steps:
        """Takes a lane's memory for rows of one group, the longest first."""
        together = min(self._slots[rows[0]], len(rows))
        slots = min(-(-together // self._lanes), self._writer.room.rows)
        return self._writer.steps(self._prompts, rows, self._decoding, slots=slots)
