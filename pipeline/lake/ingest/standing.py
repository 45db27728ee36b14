"""The file that is read, open from one shard to the next.

What is compressed can be read from its beginning alone: opened anew for each shard, it would be
unpacked as often as it has shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import RunError, one_line
from pipeline.lake.ingest.origin import Origin
from pipeline.lake.ingest.reading import Place, RowReader
from pipeline.lake.store.base import Entry


class Standing:
    """Opens parts of an origin, the last one only once.

    Args:
        origin: Whose parts they are.
    """

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self._part: Entry | None = None
        self._rows: RowReader | None = None

    @contextmanager
    def open(self, part: Entry, place: Place) -> Iterator[RowReader]:
        """Gives a part's rows from a place on, and keeps them open.

        Raises:
            RunError: It can't be read.
        """
        try:
            if self._rows is None or self._part != part or self._rows.place != place:
                self.close()
                self._rows = self.origin.open(part, place)
                self._part = part
            yield self._rows
        except (OSError, EOFError, ValueError) as error:
            raise RunError(
                f"{self.origin.where(part)} can't be read: {one_line(error)}",
                hint="Check it, and run the same command again",
            ) from error

    def close(self) -> None:
        """Lets go of it."""
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()
