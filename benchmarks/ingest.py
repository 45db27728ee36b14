"""`shardscribe import` of a 1 GB JSON-lines file: memory, time, and killed ten times on its way.

python benchmarks/ingest.py
"""

import hashlib
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.dataset as pads
from texts import machine

BYTES = 1_000_000_000
BROKEN_EVERY = 10_000
KILLS = 10
SEED = 3


def main() -> None:
    """Prints a table for RESULTS.md."""
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        source = top / "a.jsonl"
        lines = write(source)
        broken = lines // BROKEN_EVERY
        seconds, processor = run(source, top / "whole")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
        killed = kill(source, top / "killed", seconds)
        run(source, top / "killed")
        whole, again = (digests(top / name) for name in ("whole", "killed"))
        assert whole == again, "other shards after the kills"
        table = pads.dataset(str(top / "whole"), format="parquet")
        ids = table.to_table(columns=["id"])["id"].to_pylist()
        assert ids == [i for i in range(lines) if i % BROKEN_EVERY != BROKEN_EVERY - 1]
        print(f"{machine()}\n")
        print("| lines | of them broken | shards of 64 MB | s | processor s | peak memory, MB |")
        print("|---:|---:|---:|---:|---:|---:|")
        print(
            f"| {lines:,} | {broken:,} | {len(whole)} | {seconds:.0f} | {processor:.0f} "
            f"| {peak:.0f} |"
        )
        print(f"\nKilled {killed} times and run once more: the same bytes in all shards.")


def write(path: Path) -> int:
    """Writes the file; gives its lines."""
    chance = random.Random(SEED)
    words = [
        hashlib.md5(str(i).encode()).hexdigest()[: chance.randint(2, 9)] for i in range(20_000)
    ]
    texts = [" ".join(chance.choices(words, k=chance.randint(20, 220))) for _ in range(20_000)]
    size = lines = 0
    with path.open("wb") as file:
        while size < BYTES:
            row = {"id": lines, "text": texts[chance.randrange(len(texts))][lines % 7 :],
                   "stars": chance.randint(1, 5), "score": chance.random(),
                   "meta": {"lang": "en", "tags": chance.choices(words, k=2)}}  # fmt: skip
            line = json.dumps(row).encode()
            line = line[:50] if lines % BROKEN_EVERY == BROKEN_EVERY - 1 else line
            size += file.write(line + b"\n")
            lines += 1
    return lines


def command(source: Path, out: Path) -> list[str]:
    """As it would be called."""
    program = str(Path(sys.executable).with_name("shardscribe"))
    return [program, "import", str(source), str(out), "--size", "64MB"]


def run(source: Path, out: Path) -> tuple[float, float]:
    """Imports all; gives seconds, and seconds of the processor."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    subprocess.run(command(source, out), check=True, capture_output=True)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return time.perf_counter() - begin, processor


def kill(source: Path, out: Path, seconds: float) -> int:
    """Starts it again and again, and kills it each time; gives how often it was still at work."""
    chance = random.Random(SEED)
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(source, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(chance.uniform(0.1, 0.6) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    return killed


def digests(out: Path) -> dict[str, str]:
    """Of all shards."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}


if __name__ == "__main__":
    main()
