"""What goes into an ONNX graph and what is taken of what comes out, by the graph's own names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.models.heads import HeadName
from pipeline.models.onnx.graph import Graph, Value
from pipeline.models.text.layout import ID_MASK, TYPE_BIT, TYPE_MASK

IDS, MASK, TYPES, POSITIONS = "input_ids", "attention_mask", "token_type_ids", "position_ids"
# Element types of ONNX.
WHOLE_NUMBERS: Mapping[int, type[np.integer[Any]]] = {6: np.int32, 7: np.int64}
REAL_NUMBERS = (1, 10, 11)  # float32, float16, float64
# By head: what exporters call the output, the best first, and its dimensions. A vector of a text is
# pooled in the graph; those of its tokens are what other engines pool too.
OUTPUTS: Mapping[HeadName, tuple[tuple[str, int], ...]] = {
    "sequence-classification": (("logits", 2),),
    "token-classification": (("logits", 3),),
    "encoder": (("last_hidden_state", 3), ("token_embeddings", 3), ("sentence_embedding", 2)),
}
# They scale a whole batch by its largest number, so that a row's result depends on its neighbours.
SCALED_BY_BATCH = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul"})


@dataclass(frozen=True)
class Ports:
    """How a graph is fed and read.

    Attributes:
        inputs: The type of each input, by name.
        output: The name of the output.
        dimensions: Of the output.
        width: The output's last dimension, if the graph says.
        alone: Whether each row has to be a batch of its own.
    """

    inputs: Mapping[str, type[np.integer[Any]]]
    output: str
    dimensions: int
    width: int | None
    alone: bool

    @classmethod
    def of(cls, graph: Graph, *, head: HeadName, file: str) -> Ports:
        """Finds them.

        Raises:
            ValueError: The graph is of another kind.
        """
        try:
            return cls._of(graph, head)
        except ValueError as error:
            raise ValueError(f"{file} {error}") from error

    @classmethod
    def _of(cls, graph: Graph, head: HeadName) -> Ports:
        inputs = {value.name: _whole_number(value) for value in graph.inputs}
        strange = sorted(inputs.keys() - {IDS, MASK, TYPES, POSITIONS})
        if strange:
            raise ValueError(f"wants an input {strange[0]!r:.60}, which a text does not give")
        if IDS not in inputs:
            raise ValueError(f"has no input called {IDS}")
        output, dimensions = _output(graph, head)
        return cls(
            inputs,
            output.name,
            dimensions,
            (output.shape[-1] or None) if output.shape else None,
            any(name in SCALED_BY_BATCH for _, name in graph.operators),
        )

    def feed(
        self, ids: np.ndarray, mask: np.ndarray | None, *, typed: bool
    ) -> dict[str, np.ndarray]:
        """A batch -> the graph's inputs.

        Args:
            ids: Int64 of shape [rows, longest].
            mask: Of the same shape, 0 on padding; None where there is none.
            typed: Whether the ids have token types in their upper bits.
        """
        types = ids >> TYPE_BIT & TYPE_MASK if typed else np.zeros_like(ids)
        given = {
            IDS: ids & ID_MASK if typed else ids,
            MASK: np.ones_like(ids) if mask is None else mask,
            TYPES: types,
            POSITIONS: np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
        }
        return {
            name: np.ascontiguousarray(given[name], dtype=kind)
            for name, kind in self.inputs.items()
        }

    def check(self, found: np.ndarray, ids: np.ndarray) -> None:
        """Refuses an output that is not of the shape that the head gives.

        Raises:
            ValueError: Naming the output.
        """
        rows = found.shape[: self.dimensions - 1]
        if found.ndim != self.dimensions or rows != ids.shape[: self.dimensions - 1]:
            raise ValueError(
                f"gives {self.output!r:.60} of the shape {list(found.shape)} for "
                f"{ids.shape[0]} rows of {ids.shape[1]} tokens"
            )


def _whole_number(value: Value) -> type[np.integer[Any]]:
    if value.kind not in WHOLE_NUMBERS:
        raise ValueError(f"wants an input {value.name!r:.60} that is not of whole numbers")
    if value.shape is not None and (len(value.shape) != 2 or any(value.shape)):
        sizes = " x ".join(str(size or "any") for size in value.shape)
        raise ValueError(
            f"takes batches of one shape only ({value.name!r:.60}: {sizes}): export it with "
            "open rows and tokens (dynamic axes)"
        )
    return WHOLE_NUMBERS[value.kind]


def _output(graph: Graph, head: HeadName) -> tuple[Value, int]:
    """The output that a head is read from, and its dimensions."""
    by_name = {value.name: value for value in graph.outputs}
    for name, dimensions in OUTPUTS[head]:
        if name in by_name:
            return _fitting(by_name[name], dimensions), dimensions
    names = [name for name, _ in OUTPUTS[head]]
    if len(by_name) == 1:  # whatever it is called
        (value,) = by_name.values()
        return _fitting(value, OUTPUTS[head][0][1]), OUTPUTS[head][0][1]
    given = ", ".join(f"{name!r:.40}" for name in sorted(by_name)[:4])
    raise ValueError(
        f"gives {given or 'nothing'}, and for {head} there has to be {' or '.join(names)}"
    )


def _fitting(value: Value, dimensions: int) -> Value:
    if value.kind not in (0, *REAL_NUMBERS):
        raise ValueError(f"gives {value.name!r:.60} that is not of real numbers")
    if value.shape is not None and len(value.shape) != dimensions:
        raise ValueError(
            f"gives {value.name!r:.60} of {len(value.shape)} dimensions, and not {dimensions}"
        )
    return value
