"""What writes in slots: how many rows at once, and which of them together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from pipeline.models.decoding import Decoding
from pipeline.models.room import alike, free_memory, rows_at_once
from pipeline.models.torch.loop import Steps, WritingRoom
from pipeline.models.torch.model import Model
from pipeline.models.torch.rules import Rule

# A batch's budget times this is what is kept of rows that are being written, at most.
CACHE_FACTOR = 16
MOST_ROWS = 4096


class SlotWriter(ABC):
    """A model that is written with in slots.

    Args:
        model: As it was loaded.

    Attributes:
        room: What fits the memory.
    """

    def __init__(self, model: Model) -> None:
        self.room = WritingRoom(tokens=model.runner.budget, rows=MOST_ROWS)
        self._budget = model.runner.budget * CACHE_FACTOR
        self._device = model.device.name
        self._slots: dict[int, int] = {}

    @abstractmethod
    def token_bytes(self) -> int:
        """What the keys and values of a token take."""

    @abstractmethod
    def holds(self, capacity: int, decoding: Decoding) -> bool:
        """Whether rows of so many tokens, with what is written, come out right."""

    @abstractmethod
    def rules(self, decoding: Decoding) -> list[Rule]:
        """What the model itself asks of writing."""

    @abstractmethod
    def steps(
        self, prompts: Sequence[np.ndarray], rows: Sequence[int], decoding: Decoding
    ) -> Steps:
        """Takes the memory for rows of one group."""

    def groups(self, capacities: np.ndarray) -> list[list[int]]:
        """Cuts rows into groups that are written together.

        Args:
            capacities: Tokens of each, with what is written.
        """
        import torch

        on_gpu = self._device != "cpu"
        free = torch.cuda.mem_get_info(self._device)[0] if on_gpu else free_memory()
        token_bytes = self.token_bytes()
        rows = np.array(
            [
                rows_at_once(
                    int(capacity),
                    token_bytes=token_bytes,
                    free=free,
                    budget=self._budget,
                    on_gpu=on_gpu,
                )
                for capacity in capacities
            ],
            dtype=np.int64,
        )
        self._slots = dict(zip(capacities.tolist(), rows.tolist(), strict=True))
        return alike(capacities, rows)

    def slots_for(self, capacity: int, rows: int) -> int:
        """How many slots are taken for rows whose longest has so many tokens."""
        return min(self._slots[capacity], self.room.rows, rows)
