"""What an ONNX file says of itself, read without its weights and without onnxruntime.

The file is one Protocol Buffers message, of which a handful of fields is looked at; weights are
stepped over. So a job is checked at once, and on machines where onnxruntime is not installed.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Kinds of fields in Protocol Buffers; other kinds are not in ONNX's schema.
VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5
POINTER = b"version https://git-lfs"
# Graphs in graphs, as in If and Loop; a file that nests them deeper is made to break readers.
DEEPEST = 16


@dataclass(frozen=True)
class Value:
    """An input or an output of a graph.

    Attributes:
        name: Of the tensor.
        kind: Its element type, as ONNX numbers them.
        shape: Each dimension's size, or 0 where it is open; None if nothing is said.
    """

    name: str
    kind: int
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class Graph:
    """What an ONNX file says of itself.

    Attributes:
        inputs: What it takes; weights that old files list among the inputs are left out.
        outputs: What it gives.
        operators: The operators it is made of, each once: domain (the standard's is empty), name.
        outside: Files that hold weights, relative to the folder of the ONNX file, each with how
            many bytes it must have at least.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: frozenset[tuple[str, str]]
    outside: dict[str, int]


@dataclass(frozen=True)
class _Bytes:
    """A run of bytes of the file."""

    data: mmap.mmap | bytes
    start: int
    stop: int

    def text(self) -> str:
        return bytes(self.data[self.start : self.stop]).decode()

    def fields(self) -> Iterator[tuple[int, int | _Bytes]]:
        """The fields of a message, by number.

        Raises:
            ValueError: It is no message, or is cut short.
        """
        at = self.start
        while at < self.stop:
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            if number == 0:
                raise ValueError("is no ONNX file")
            if kind == VARINT:
                value, at = self._varint(at)
                yield number, value
                continue
            if kind == BYTES:
                length, at = self._varint(at)
            elif kind in (EIGHT_BYTES, FOUR_BYTES):
                length = 8 if kind == EIGHT_BYTES else 4
            else:
                raise ValueError("is no ONNX file")
            if length > self.stop - at:
                raise ValueError("is cut short")
            yield number, _Bytes(self.data, at, at + length)
            at += length

    def inner(self, number: int) -> Iterator[_Bytes]:
        """The messages and texts of one field."""
        return (v for n, v in self.fields() if n == number and isinstance(v, _Bytes))

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if at >= self.stop:
                raise ValueError("is cut short")
            byte = self.data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise ValueError("is no ONNX file")


def read_graph(path: Path) -> Graph:
    """Reads an ONNX file without its weights.

    Raises:
        ValueError: The file is broken, said without its name.
        OSError: It can't be read.
    """
    with path.open("rb") as file:
        head = file.read(len(POINTER))
        if head == POINTER:
            raise ValueError("is a pointer to the model, not the model: `git lfs pull` fetches it")
        if not head:
            raise ValueError("is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return parse(data)


def parse(data: mmap.mmap | bytes) -> Graph:
    """Reads the bytes of an ONNX file.

    Raises:
        ValueError: They are broken, said without the file's name.
    """
    whole = _Bytes(data, 0, len(data))
    graphs = list(whole.inner(7))
    if len(graphs) != 1:
        raise ValueError("holds no graph" if not graphs else "holds several graphs")
    (graph,) = graphs
    operators: set[tuple[str, str]] = set()
    outside: dict[str, int] = {}
    # A function of the model has nodes as a graph has, in another field.
    own = {(_first_text(function, 10), _first_text(function, 1)) for function in whole.inner(25)}
    for function in whole.inner(25):
        for node in function.inner(7):
            _node(node, operators, outside, deep=1)
    _walk(graph, operators, outside, deep=0)
    weights = {_first_text(tensor, 8) for tensor in graph.inner(5)}
    inputs = tuple(value for value in map(_value, graph.inner(11)) if value.name not in weights)
    return Graph(inputs, tuple(map(_value, graph.inner(12))), frozenset(operators - own), outside)


def _walk(
    graph: _Bytes, operators: set[tuple[str, str]], outside: dict[str, int], *, deep: int
) -> None:
    if deep > DEEPEST:
        raise ValueError(f"nests graphs more than {DEEPEST} deep")
    for number, part in graph.fields():
        if not isinstance(part, _Bytes):
            continue
        if number == 1:
            _node(part, operators, outside, deep=deep)
        elif number == 5:
            _tensor(part, outside)
        elif number == 15:
            _sparse(part, outside)


def _node(
    node: _Bytes, operators: set[tuple[str, str]], outside: dict[str, int], *, deep: int
) -> None:
    operators.add((_first_text(node, 7), _first_text(node, 4)))
    for attribute in node.inner(5):
        for number, part in attribute.fields():
            if not isinstance(part, _Bytes):
                continue
            if number in (5, 10):
                _tensor(part, outside)
            elif number in (6, 11):
                _walk(part, operators, outside, deep=deep + 1)
            elif number in (22, 23):
                _sparse(part, outside)


def _sparse(tensor: _Bytes, outside: dict[str, int]) -> None:
    for at in (1, 2):  # its values, and where they are
        for dense in tensor.inner(at):
            _tensor(dense, outside)


def _tensor(tensor: _Bytes, outside: dict[str, int]) -> None:
    said = {_first_text(pair, 1): _first_text(pair, 2) for pair in tensor.inner(13)}
    if not said:
        return
    try:
        first, length = (int(said.get(name) or 0) for name in ("offset", "length"))
    except ValueError:
        raise ValueError("says nonsense of where its weights are") from None
    where = said.get("location", "")
    outside[where] = max(outside.get(where, 0), first + length)


def _value(value: _Bytes) -> Value:
    kind, shape = 0, None
    for outer in value.inner(2):
        for tensor in outer.inner(1):
            for number, part in tensor.fields():
                if number == 1 and isinstance(part, int):
                    kind = part
                elif number == 2 and isinstance(part, _Bytes):
                    shape = tuple(map(_size, part.inner(1)))
    return Value(_first_text(value, 1), kind, shape)


def _size(dimension: _Bytes) -> int:
    found = [part for number, part in dimension.fields() if number == 1]
    return next((part for part in found if isinstance(part, int)), 0)


def _first_text(message: _Bytes, number: int) -> str:
    for part in message.inner(number):
        try:
            return part.text()
        except UnicodeDecodeError:
            raise ValueError("is no ONNX file") from None
    return ""
