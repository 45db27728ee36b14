"""What the chaos tests share: lakes, jobs, a Ray cluster of their own, and ways to kill.

Every process that is started here leads a session of its own and is killed with everything below
it, so that no test leaves a process behind and none touches another's.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from helpers import PATIENCE, own, wait_for

ROOT = Path(__file__).parents[1]
WORDS = [f"w{i}" for i in range(200)]
# One row a batch: slow enough to be hit in the middle, and no batch differs from run to run.
SLOW = {"workers": 1, "batch_tokens": 8}
ENVIRONMENT = dict(os.environ)
# How often what goes by a die is thrown anew: SHARDSCRIBE_ROUNDS=4 is some 170 kills.
ROUNDS = range(int(os.environ.get("SHARDSCRIBE_ROUNDS", "1")))
# Below what Linux gives out by itself, to Ray as well: what is free now stays so.
OWN_PORTS = range(20_000, 32_000)


def some_text(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(WORDS, k=words))


def write_lake(directory: Path, *, files: int, rows: int, words: int, seed: int) -> Path:
    """Files of rows with ids that rise over the whole lake."""
    chance = random.Random(seed)
    directory.mkdir(parents=True)
    for number in range(files):
        ids = range(number * rows, (number + 1) * rows)
        texts = [some_text(chance, words) for _ in ids]
        table = pa.table({"id": list(ids), "text": texts})
        pq.write_table(table, directory / f"part-{number:03}.parquet")
    return directory


def take(lake: Path, directory: Path, files: int) -> Path:
    """A lake of the first files of another."""
    directory.mkdir(parents=True)
    for path in sorted(lake.glob("*.parquet"))[:files]:
        shutil.copy2(path, directory)
    return directory


def rows_by_id(directory: Path) -> dict[int, dict]:
    """All rows of a lake or an output; an id that stands twice fails."""
    rows: dict[int, dict] = {}
    for path in sorted(directory.glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            assert row["id"] not in rows, f"row {row['id']} stands twice, once in {path.name}"
            rows[row["id"]] = row
    return rows


class Job:
    """A job file, of one classify task if not told otherwise, and what becomes of it."""

    def __init__(self, folder: Path, *, lake: Path, model: Path | None = None, **sections) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.lake = lake
        self.output = folder / "annotated"
        self.file = folder / "job.yaml"
        self.log = folder / "log.txt"
        self.said_before = 0
        content = {
            "name": "chaos",
            "input": {"path": str(lake)},
            "output": {"path": str(self.output)},
            "tasks": {"mood": {"kind": "classify", "model": str(model)}},
            **sections,
        }
        self.file.write_text(yaml.safe_dump(content), encoding="utf-8")

    def start(self, *options: str, verb: str = "run", **environment: str) -> subprocess.Popen:
        """Starts ``python -m pipeline run``; what it says goes to the log."""
        self.said_before = len(self.said())
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pipeline", verb, str(self.file), *options],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**ENVIRONMENT, **environment},
                start_new_session=True,
            )

    def finish(self, *options: str, verb: str = "run", **environment: str) -> int:
        """The exit code of a run to its end."""
        with self.process(*options, verb=verb, **environment) as process:
            return process.wait(PATIENCE)

    @contextmanager
    def process(
        self, *options: str, verb: str = "run", **environment: str
    ) -> Iterator[subprocess.Popen]:
        """A run that is gone, with all it started, when the block ends."""
        process = self.start(*options, verb=verb, **environment)
        try:
            yield process
        finally:
            kill_all(process)

    def said(self) -> str:
        """Everything that runs of this job printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def said_last(self) -> str:
        """What the last run printed."""
        return self.said()[self.said_before :]

    def outputs(self) -> list[str]:
        """The committed files."""
        return sorted(path.name for path in self.output.glob("*.parquet"))

    def scratch(self) -> list[str]:
        directory = own(self.output) / "scratch"
        return sorted(p.name for p in directory.iterdir()) if directory.is_dir() else []

    def summaries(self) -> list[dict]:
        """Of the runs that ended, oldest first."""
        found = sorted(own(self.output).glob("runs/*/summary.json"))
        return [json.loads(path.read_text()) for path in found]

    def assert_right(self, expected: dict[int, dict], *, note: str = "") -> None:
        """Verified by the program, and by looking: the rows, one file per input, no scratch."""
        assert self.finish(verb="verify") == 0, f"{note}\n{self.said()[-2000:]}"
        found = rows_by_id(self.output)
        wanted = {row: expected[row] for row in rows_by_id(self.lake)}
        wrong = [row for row in wanted if found.get(row) != wanted[row]]
        assert not wrong, (
            f"{note}: {len(wrong)} rows differ, the first is {found.get(wrong[0])} and should be "
            f"{wanted[wrong[0]]}"
        )
        assert len(found) == len(wanted), note
        stems = Counter(name.rsplit("-", 2)[0] for name in self.outputs())
        assert stems == Counter(path.stem for path in self.lake.glob("*.parquet")), note
        assert self.scratch() == [], note


# Processes


def parents() -> dict[int, int]:
    """Parent by process, zombies left out."""
    found = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    found[int(entry.name)] = int(fields[1])
    return found


def below(pid: int) -> list[int]:
    """The living processes that a process started, and that those started."""
    table = parents()
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in table.items() if parent in frontier]
        found += frontier
    return found


def command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def actors(pid: int) -> list[int]:
    """The shardscribe workers below a process."""
    return [child for child in below(pid) if command(child).startswith("ray::Worker")]


def kill_all(process: subprocess.Popen) -> None:
    """SIGKILL to a process and everything below it; returns when they are gone."""
    doomed = below(process.pid)
    if process.poll() is None:
        process.kill()
    for pid in doomed:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait(PATIENCE)
    wait_for(lambda: not parents().keys() & set(doomed))


def free_port() -> int:
    """One that nobody has, and that nobody is given who does not ask for it."""
    for port in random.sample(OWN_PORTS, 100):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise AssertionError(f"no free port in {OWN_PORTS}")


class Cluster:
    """A Ray cluster of our own. Its folder has a short name: socket names may not be long.

    Args:
        cpus: Cores of the head, and of each node that joins it, all on this machine.
    """

    def __init__(self, *, cpus: tuple[int, ...] = (2,)) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.address = ""
        self.process: subprocess.Popen | None = None
        self._cpus = cpus
        self._joined: list[subprocess.Popen] = []
        self._starts = 0

    def start(self) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.process = self._node(
            "--head", f"--port={port}", f"--ray-client-server-port={free_port()}",
            "--include-dashboard=false", f"--temp-dir={self.folder}", cpus=self._cpus[0],
        )  # fmt: skip
        for cpus in self._cpus[1:]:
            self.join(cpus=cpus)

    def join(self, *, cpus: int, **environment: str) -> subprocess.Popen:
        """Starts another node, which goes with the cluster or is killed before it."""
        node = self._node(f"--address={self.address}", cpus=cpus, **environment)
        self._joined.append(node)
        return node

    def _node(self, *options: str, cpus: int, **environment: str) -> subprocess.Popen:
        self._starts += 1
        log = self.folder / f"node-{self._starts}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [
                    str(Path(sys.executable).with_name("ray")), "start", "--block",
                    "--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}",
                    "--object-store-memory=100000000",
                    "--min-worker-port=0", "--max-worker-port=0", *options,
                ],
                stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
                env={**ENVIRONMENT, **environment},
            )  # fmt: skip
        wait_for(
            lambda: b"Ray runtime started" in log.read_bytes() or process.poll() is not None,
            what=log.read_text,
        )
        assert process.poll() is None, log.read_text()
        return process

    def kill(self) -> None:
        """Every process of the cluster at once."""
        for process in (self.process, *self._joined):
            if process is not None:
                kill_all(process)
        self.process, self._joined = None, []

    def actors(self) -> list[int]:
        return actors(self.process.pid) if self.process is not None else []

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
