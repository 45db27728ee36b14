"""YAML from anywhere -> plain data: in bounded time and memory, and what is wrong has its line."""

from __future__ import annotations

from typing import Any

import yaml

from pipeline.errors import JobError
from pipeline.escape import visible

# A job file has some kilobytes; one with thousands of labels stays far below these.
MOST_BYTES = 1024 * 1024
MOST_VALUES = 50_000  # with what aliases stand for
MOST_LEVELS = 64

NO_MAPPING = "Start from one of the files in jobs/"


def decoded(raw: bytes, where: str) -> str:
    """The text of a file, in UTF-8 or, with a byte order mark, in UTF-16.

    Raises:
        JobError: It is no text.
    """
    marks = (b"\xff\xfe", b"\xfe\xff")
    try:
        return raw.decode("utf-16" if raw.startswith(marks) else "utf-8-sig")
    except UnicodeDecodeError as error:
        what = "a Parquet file" if raw.startswith(b"PAR1") else f"no text in UTF-8 ({error.reason})"
        raise JobError(f"{where} is {what}, and no job file", hint=NO_MAPPING) from error


def read_yaml(text: str, where: str) -> tuple[yaml.Node | None, Any]:
    """One document.

    Args:
        text: The YAML.
        where: Where it stands, for messages.

    Returns:
        The nodes, which know their lines, and the data; ``None, None`` if there is nothing.

    Raises:
        JobError: It is not YAML, too much of it, or says something twice.
    """
    if len(text) > MOST_BYTES:
        raise _too_much(where, f"is larger than {MOST_BYTES // 1024:,} kB")
    try:
        loader = _Loader(text, where)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _refuse_double_keys(node, where)
        return node, loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        said = ", ".join(filter(None, [error.context, error.problem]))
        raise JobError(
            f"{where}:{line}: this is not valid YAML: {said}", hint=_hint(said)
        ) from error
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise JobError(
            f"{where}:{line}: this is not valid YAML: the character "
            f"{visible(chr(error.character))} must not be in it",
            hint="Remove it, or write it as an escape in double quotes",
        ) from error


class _Loader(yaml.SafeLoader):
    """Counts while it reads, so that what is too much ends at once."""

    def __init__(self, text: str, where: str) -> None:
        super().__init__(text)
        self.where = where
        self.level = 0
        self.values: dict[yaml.Node, int] = {}
        self.levels: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self.level += 1
        if self.level > MOST_LEVELS:
            raise self._refusal(mark, "levels")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.level -= 1
        if node is None or node in self.values:
            return node
        if not isinstance(node, yaml.ScalarNode) and node.end_mark is None:
            raise JobError(
                f"{self.where}:{mark.line + 1}: this contains itself",
                hint="Remove the alias (*...)",
            )
        inner = _inner(node)
        self.values[node] = 1 + sum(self.values[one] for one in inner)
        self.levels[node] = 1 + max((self.levels[one] for one in inner), default=0)
        if self.values[node] > MOST_VALUES or len(self.values) > MOST_VALUES:
            raise self._refusal(mark, "values")
        if self.levels[node] > MOST_LEVELS:
            raise self._refusal(mark, "levels")
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if not isinstance(value, str) or not any("\ud800" <= c <= "\udfff" for c in value):
            return value
        # JSON writes what is beyond 16 bits as two escapes; one alone is no character.
        return value.encode("utf-16", "surrogatepass").decode("utf-16")

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
            kind = str(node.tag).rpartition(":")[2].replace("str", "text")
            raise yaml.constructor.ConstructorError(
                None, None, f"'{visible(node.value, most=40)}' is no {kind}", node.start_mark
            ) from error

    def _refusal(self, mark: Any, what: str) -> JobError:
        most = {"values": f"{MOST_VALUES:,} values", "levels": f"{MOST_LEVELS} levels"}[what]
        return _too_much(f"{self.where}:{mark.line + 1}", f"has more than {most}")


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _too_much(where: str, what: str) -> JobError:
    return JobError(
        f"{where}: this {what}, with what its aliases stand for: it is no job file",
        hint=NO_MAPPING,
    )


def _refuse_double_keys(node: yaml.Node, where: str) -> None:
    """YAML keeps the last of two equal keys without a word; a task would be lost."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise JobError(
                    f"{where}:{key.start_mark.line + 1}: `{visible(key.value, most=60)}` stands "
                    "twice here",
                    hint="Remove or rename one of them",
                )
            seen.add(str(key.value))
    for one in _inner(node):
        _refuse_double_keys(one, where)


def _hint(said: str) -> str:
    if "\\t" in said:
        return "Indent with spaces: YAML takes no tabs"
    if said.endswith(" is no text"):
        return "It holds half a character: write the character itself"
    if " is no " in said:
        return "Put it in quotes if it is text"
    if "escape character" in said:
        return "A backslash in double quotes begins an escape: use single quotes, or / in paths"
    if "another document" in said:
        return "Keep one job in a file: remove what follows ---"
    if "undefined alias" in said or "while scanning an alias" in said:
        return "Put the value in quotes if it begins with *"
    return "Check indentation, quotes and brackets there"
