"""Files of a table whose rows another program has only moved, as compaction does.

What was annotated of the files before is what would be annotated of those after. So a plan goes by
the files before, as long as their output is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from pipeline.lake.split import OUTPUT_NAME, Split
from pipeline.lake.store.base import Entry


@dataclass(frozen=True)
class Commit:
    """What one commit did to a table's files.

    Attributes:
        version: That it made.
        added: Files that came, or came anew with other rows deleted.
        removed: Files that went.
        moves: Whether it says that it changed no row.
    """

    version: int
    added: Set[str]
    removed: Set[str]
    moves: bool


@dataclass(frozen=True)
class Move:
    """Files that hold what others held.

    Attributes:
        added: Those that hold it.
        before: Those that held it, as they were.
        version: The last one that had them.
    """

    added: Set[str]
    before: Mapping[str, Entry]
    version: int


@dataclass
class Unmoved:
    """The files to go by.

    Attributes:
        files: By path.
        version: Of those that the table does not have any more, the last one that had them.
    """

    files: dict[str, Entry]
    version: dict[str, int] = field(default_factory=dict)


def outputs_gone(files: Sequence[Entry], there: Set[str]) -> set[str]:
    """What names of output files begin with that are of no file of a table."""
    known = {Split.of(entry, fingerprint="").stem_path for entry in files}
    found = set()
    for path in there:
        directory, slash, name = path.rpartition("/")
        ours = OUTPUT_NAME.match(name)
        if ours and (stem := f"{directory}{slash}{ours['stem']}") not in known:
            found.add(stem)
    return found


def unmoved(
    files: Sequence[Entry],
    gone: set[str],
    commits: Iterable[Commit],
    before: Callable[[Commit], Mapping[str, Entry] | None],
    *,
    done: Callable[[Entry], bool],
    readable: Callable[[str], bool],
) -> Unmoved:
    """The files to go by, in the place of those that hold what they held.

    A commit is gone back over if something of what it moved is annotated, and all else of it can be
    read still.

    Args:
        files: Of a version of a table, all of them.
        gone: What names of output files begin with whose input is gone.
        commits: That led to it, the last one first; read as far as is needed.
        before: The files that a commit has removed, as they were.
        done: Whether all of a file is annotated, as it was.
        readable: Whether a file is there still.
    """
    moves = _moves(files, set(gone), commits, before)
    while True:
        found = _after(files, moves)
        bad = _refused(found, moves, done=done, readable=readable)
        if not bad:
            return found
        moves = [move for move in moves if move not in bad]


def _moves(
    files: Sequence[Entry],
    gone: set[str],
    commits: Iterable[Commit],
    before: Callable[[Commit], Mapping[str, Entry] | None],
) -> list[Move]:
    """What was moved, the last one first, that may be gone back over."""
    current = {entry.path for entry in files}
    settled: set[str] = set()  # of which it is known where they come from
    moves = []
    for commit in commits:
        if not gone:
            break
        open_ones = current - settled
        if commit.moves and commit.added <= open_ones and not commit.removed & current:
            known = before(commit)
            if known is not None:
                moves.append(Move(commit.added, known, commit.version - 1))
                current = (current - commit.added) | known.keys()
                gone -= {Split.of(entry, fingerprint="").stem_path for entry in known.values()}
                continue
        settled |= commit.added
        gone -= {Split.of(Entry(path, 0, ""), fingerprint="").stem_path for path in commit.removed}
    return moves


def _after(files: Sequence[Entry], moves: Sequence[Move]) -> Unmoved:
    found = Unmoved({entry.path: entry for entry in files})
    for move in moves:
        if not move.added <= found.files.keys():
            continue
        for path in move.added:
            del found.files[path]
            found.version.pop(path, None)
        found.files |= move.before
        found.version |= dict.fromkeys(move.before, move.version)
    return found


def _refused(
    found: Unmoved,
    moves: Sequence[Move],
    *,
    done: Callable[[Entry], bool],
    readable: Callable[[str], bool],
) -> list[Move]:
    """Those that it is no use, or no way, to go back over."""
    bad = []
    of_others = {path for move in moves for path in move.added}
    for move in moves:
        left = [entry for path, entry in move.before.items() if path not in of_others]
        applied = all(found.version.get(e.path) == move.version for e in left)
        is_done = {entry.path: done(entry) for entry in left}
        of_use = len(left) < len(move.before) or any(is_done.values())
        can_be = all(good or readable(path) for path, good in is_done.items())
        if not (applied and of_use and can_be):
            bad.append(move)
    return bad
