"""The exceptions of shardscribe, one class per consequence.

    ShardscribeError
    ├── JobError      the job, its input or a model is wrong: nothing starts      exit 2
    ├── RowError      one row can't be annotated: null and an entry in `errors`
    ├── SplitError    one split can't be finished: tried again, then failed       exit 1
    ├── WorkerLost    a worker died or made no progress: its splits go back
    ├── OutOfMemory   the device is full: the token budget is halved
    └── RunError      the run as a whole can't go on                              exit 1
        ├── Interrupted                                                           exit 3
        └── OutputBusy    another run holds the output                            exit 4

An error is told apart by its class, never by its text.
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class ShardscribeError(Exception):
    """Base of all errors that shardscribe raises on purpose.

    Args:
        message: What is wrong, naming the file, the field or the row.
        hint: What the user can do about it, as one imperative sentence.
        also: Other mistakes that were found at the same time, in a sentence or two each.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", also: Sequence[str] = ()) -> None:
        super().__init__(message, hint, also)
        self.message = message
        self.hint = hint
        self.also = tuple(also)

    @property
    def lines(self) -> list[str]:
        """What is wrong, one line for each mistake."""
        end = "" if not self.hint or self.message.endswith((".", "!", "?")) else "."
        return [f"{self.message}{end} {self.hint}".strip(), *self.also]

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.also))


def _rebuild(
    kind: type[ShardscribeError], message: str, hint: str, also: Sequence[str]
) -> ShardscribeError:
    return kind(message, hint=hint, also=also)


class JobError(ShardscribeError):
    """The job file, its input or one of its models is wrong."""

    exit_code = 2


class RowError(ShardscribeError):
    """One row can't be annotated.

    Args:
        message: What is wrong with the row.
        code: A short stable word for the kind of trouble, such as ``model_error``.
    """

    def __init__(self, message: str, *, code: str = "model_error", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_row, (self.message, self.code, self.hint))


def _rebuild_row(message: str, code: str, hint: str) -> RowError:
    return RowError(message, code=code, hint=hint)


class SplitError(ShardscribeError):
    """One split can't be finished by this attempt."""


class WorkerLost(ShardscribeError):
    """A worker died or made no progress."""


class OutOfMemory(ShardscribeError):
    """The device has no memory left for a batch."""


class RunError(ShardscribeError):
    """The run as a whole can't go on."""


class Interrupted(RunError):
    """The user or the cluster manager asked the run to stop."""

    exit_code = 3


class OutputBusy(RunError):
    """Another run holds the output."""

    exit_code = 4


def one_line(error: object, *, most: int = 300) -> str:
    """What an error of a library says, on one line of at most so many characters."""
    return " ".join(str(error).split())[:most]


def near(name: str, known: Iterable[str]) -> str:
    """The hint for a name that is not there: the likely one that is, or any."""
    by_letters = {other.casefold(): other for other in known}
    found = get_close_matches(name.casefold(), by_letters, n=1)
    return f"Name `{by_letters[found[0]]}`, or another of them," if found else "Name one of them"
