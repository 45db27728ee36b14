"""A program that runs a job without models, and kills itself at the step of a table's transaction
that it is given, or is killed; and what starts it.
"""

import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from helpers import PATIENCE
from table_jobs import run, step

from pipeline.lake.sink import ledger, table_commit
from pipeline.records.writer import RunRecord

ROOT = Path(__file__).parents[1]
# About as long as a run takes when it is imported.
A_RUN = 0.5
BEFORE = ("while it annotates", "before its list", "after its list", "before its transaction")
AFTER = ("after its transaction", "before it writes its summary")


def main(job: str) -> None:
    commit, listed = table_commit._commit, ledger.write

    def dying(*arguments: Any) -> Any:
        *given, guard = arguments

        def last() -> None:
            guard()
            step("before its transaction")

        step("before its list")
        done = commit(*given, last)
        step("after its transaction")
        return done

    def listing(*arguments: Any, **named: Any) -> int:
        at = listed(*arguments, **named)
        step("after its list")
        return at

    class Record(RunRecord):
        def write(self, name: str, content: Any) -> None:
            if name == "summary.json":
                step("before it writes its summary")
            super().write(name, content)

    from pipeline import run as running

    table_commit._commit, ledger.write, running.RunRecord = dying, listing, Record
    print("ready", flush=True)
    summary = run(job)
    sys.exit(summary.exit_code)


def start(job: str, dies_at: str = "") -> subprocess.Popen[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [sys.executable, __file__, job],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "DIES_AT": dies_at},
    )


def die_at(step: str, job: str) -> None:
    process = start(job, step)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL, said


def kill_at_random(job: str, chance: random.Random, *, seconds: float = A_RUN) -> bool:
    """Starts a run and kills it some time after it is imported; whether that was before its end."""
    process = start(job)
    assert process.stdout is not None
    process.stdout.readline()
    with suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0.05, seconds))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


if __name__ == "__main__":
    main(sys.argv[1])
