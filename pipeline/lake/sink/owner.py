"""Whose an output is, by marks that need no clock: the highest one names the fingerprint.

The lease is timed, and may be deleted, spoiled or taken over by a machine whose clock is wrong. A
mark is made once and stays: a job of another fingerprint has to make a higher one before it looks
at the output, and every worker looks at the marks right before it commits. What one commits before
the other's mark is there, the other sees when it looks.
"""

from __future__ import annotations

import json
import re
import socket

from pipeline.errors import OutputBusy, ShardscribeError, SplitError
from pipeline.lake.sink.base import Sink

DIRECTORY = "owner"
# A directory each, so that one request lists them all; two of one number go by their fingerprint.
MARK = re.compile(r"^(\d{6,})-(\w+)$")


class Owner:
    """What a job of some fingerprint may do to an output.

    Args:
        sink: The output.
        fingerprint: Of the job.
    """

    def __init__(self, sink: Sink, fingerprint: str) -> None:
        self.sink = sink
        self.fingerprint = fingerprint

    @property
    def is_marked(self) -> bool:
        """Whether the highest mark is this job's; runs of one fingerprint share it."""
        return self._highest()[1] == self.fingerprint

    def claim(self, run: str) -> None:
        """Makes the output this job's, unless it is already.

        Whoever was at work on it commits nothing more from here on.

        Raises:
            OutputBusy: Another job did so at the same moment.
        """
        if self.is_marked:
            return
        number = self._highest()[0] + 1
        who = {"run": run, "host": socket.gethostname(), "fingerprint": self.fingerprint}
        path = f"{DIRECTORY}/{number:06}-{self.fingerprint}/run.json"
        self.sink.own.create(path, json.dumps(who).encode())
        self.refuse_loss()

    def refuse_loss(self) -> None:
        """Looks whether the output is still this job's.

        Raises:
            OutputBusy: It is another's.
        """
        number, fingerprint = self._highest()
        if fingerprint in ("", self.fingerprint):
            return  # if somebody removed the marks, whoever comes next makes one
        raw = self.sink.own.read(f"{DIRECTORY}/{number:06}-{fingerprint}/run.json")
        try:
            who = json.loads(raw or b"{}")
            named = f"run {who['run']} on {who['host']}"
        except (ValueError, KeyError, TypeError):
            named = "a run"
        raise OutputBusy(
            f"{named}, of a job with other results ({fingerprint}), has taken the output "
            f"{self.sink.address}",
            hint="Choose another output directory for one of the two jobs",
        )

    def guard(self) -> None:
        """As `refuse_loss`, for a worker about to commit: a store that is away fails the split.

        Raises:
            OutputBusy: The output is another's.
            SplitError: The marks can't be read.
        """
        try:
            self.refuse_loss()
        except OutputBusy:
            raise
        except (OSError, ShardscribeError) as error:
            raise SplitError(f"whose {self.sink.address} is can't be read: {error}") from error

    def _highest(self) -> tuple[int, str]:
        marks = map(MARK.match, self.sink.own.names(DIRECTORY))
        return max(((int(mark[1]), mark[2]) for mark in marks if mark), default=(0, ""))
