"""What the host costs beside the device: the whole path, with a device that answers at once.

Parquet -> rows -> tokens -> windows -> batches -> (null device) -> results -> committed Parquet, in
a worker as the driver uses it: two calls in flight, small files several to a call. The null device
takes batches as a GPU is given them, packed, and its answers were made before. Two figures a task:

- the processor time of a token, all threads together, apart by the tokenizer (its own library),
  the null device, and all else. Tokenizers run in the threads that call them meanwhile, so that
  their time can be told from ours;
- the share of the time in which a device of 300,000 tokens/s has nothing to do, from the first
  read to the last commit, with tokenizers on all cores.

Says where all else is beyond 60 ns a token or the idle share beyond 2 %; fails if a row or a token
is missing.

    python benchmarks/host.py
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from texts import lengths, machine, paragraphs, write_lake, write_section

from pipeline.engine.driver.member import SHARED_SPLITS
from pipeline.engine.messages import IN_FLIGHT, SplitResult, WorkPlan
from pipeline.engine.worker.annotator import Annotator
from pipeline.job.check import check, pin
from pipeline.job.job import Job
from pipeline.models.device import GPU_BUDGET, Device
from pipeline.models.heads import HeadName, Pooling
from pipeline.models.resolve import ModelInfo
from pipeline.models.results import strongest
from pipeline.models.text import texts as texts_module
from pipeline.models.torch.engine import TorchEngine
from pipeline.models.torch.load import TorchModels
from pipeline.models.torch.model import Model
from pipeline.models.torch.packed import Packed

RATE = 300_000
MOST_NS = 60.0
MOST_IDLE = 0.02
TASKS: Mapping[str, Mapping[str, Any]] = {
    "classify": {"kind": "classify", "model": "starter/sentiment"},
    "ner": {"kind": "ner", "model": "starter/pii"},
    "embed": {"kind": "embed", "model": "starter/minilm"},
}
# Of tokens, that begin an entity; as starter/pii finds in reviews and letters.
ENTITIES = 0.03


@dataclass
class Clock:
    """Processor seconds of a kind, of all threads."""

    seconds: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> None:
        _started.at = time.thread_time()

    def __exit__(self, *_: object) -> None:
        spent = time.thread_time() - _started.at
        with self._lock:
            self.seconds += spent


_started = threading.local()


class NullEncoder:
    """A packed encoder whose answers are there already.

    Args:
        width: Labels, or numbers of a vector.
        clock: Of what it takes all the same.
        rate: Tokens a second; as many as may be if None.
        tags: Whether it is asked about tokens.
    """

    def __init__(self, width: int, clock: Clock, *, rate: float | None, tags: bool) -> None:
        self.clock = clock
        self.rate = rate
        chance = np.random.default_rng(0)
        logits = chance.normal(size=(GPU_BUDGET, width)).astype(np.float32)
        self.texts = torch.from_numpy(logits)
        # Of an encoder they would be a hundred megabytes that nobody asks for.
        tokens = logits.copy() if tags else logits[:1].copy()
        tokens[:, 0] = 12.0  # "O", and now and then another
        begins = chance.random(len(tokens)) < ENTITIES
        tokens[begins, 0] = -12.0
        scores = torch.from_numpy(tokens).softmax(dim=-1).numpy()
        self.tokens = torch.from_numpy(strongest(scores))
        self.seen = 0

    def classify_logits(self, batch: Packed) -> torch.Tensor:
        """Of shape [texts, labels]."""
        return self._answer(batch, self.texts, len(batch.borders) - 1)

    def strongest_labels(self, batch: Packed) -> torch.Tensor:
        """Of shape [tokens, 3]."""
        return self._answer(batch, self.tokens, len(batch.ids))

    def pooled(self, batch: Packed, *, how: Pooling) -> torch.Tensor:
        """Of shape [texts, dim]."""
        return self._answer(batch, self.texts, len(batch.borders) - 1)

    def _answer(self, batch: Packed, ready: torch.Tensor, rows: int) -> torch.Tensor:
        with self.clock:
            self.seen += len(batch.ids)
            if self.rate is not None:
                time.sleep(len(batch.ids) / self.rate)
            if rows > len(ready):
                ready = ready.repeat(-(-rows // len(ready)), 1)
            return ready[:rows]


class NullModels(TorchModels):
    """Real models, whose text side alone is used."""

    def __init__(self, *arguments: Any, clock: Clock, rate: float | None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.clock, self.rate = clock, rate

    def _load(self, info: ModelInfo, head: HeadName) -> Model:
        model = super()._load(info, head)
        width = model.config.hidden_size if head == "encoder" else model.config.num_labels
        null: Any = NullEncoder(
            width, self.clock, rate=self.rate, tags=head == "token-classification"
        )
        model.packed = null
        model.runner.lanes = 1
        return model


class NullEngine(TorchEngine):
    """What opens them."""

    def __init__(self, clock: Clock, *, rate: float | None = None) -> None:
        self.clock, self.rate = clock, rate

    def open(
        self, infos: Mapping[str, ModelInfo], *, device: Device, budget: int | None = None
    ) -> NullModels:
        """The models of a worker."""
        return NullModels(infos, device=device, budget=budget, clock=self.clock, rate=self.rate)


class Timed:
    """A tokenizer of the library, with a clock."""

    def __init__(self, tokenizer: Any, clock: Clock) -> None:
        self.tokenizer, self.clock = tokenizer, clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.tokenizer, name)
        if not name.startswith("encode"):
            return found

        def timed(*arguments: Any, **more: Any) -> Any:
            with self.clock:
                return found(*arguments, **more)

        return timed


@dataclass
class Measured:
    """A job's time.

    Attributes:
        rows: Annotated.
        tokens: Given to the device.
        splits: Committed.
        seconds: By the clock.
        processor: Processor seconds of the process.
        tokenizer: Of which the tokenizer had.
        device: And the null device.
        busy: Seconds for which the device was held.
    """

    rows: int
    tokens: int
    splits: int
    seconds: float
    processor: float
    tokenizer: float
    device: float
    busy: float

    @property
    def rest(self) -> float:
        """Nanoseconds a token of all else."""
        return (self.processor - self.tokenizer - self.device) / self.tokens * 1e9

    @property
    def idle(self) -> float:
        """The share of the time in which the device had nothing to do."""
        return 1 - self.busy / self.seconds


def calls(splits: Sequence[Any]) -> Iterator[list[Any]]:
    """Splits as the driver hands them out: small ones together, fewer towards the end."""
    at = 0
    while at < len(splits):
        fair = (len(splits) - at) // (2 * IN_FLIGHT)
        most = max(1, min(SHARED_SPLITS, fair))
        yield list(splits[at : at + most])
        at += most


def measure(lake: Path, output: Path, task: Mapping[str, Any], *, rate: float | None) -> Measured:
    """A job, from the first read to the last commit; loading and planning are not counted."""
    job = Job.model_validate(
        {
            "name": "host",
            "input": {"path": str(lake)},
            "output": {"path": str(output)},
            "tasks": {"task": dict(task)},
            "compute": {"device": "cpu", "batch_tokens": GPU_BUDGET},
        }
    )
    pinned = pin(check(job))
    splits = pinned.splits()
    tokenizer, device = Clock(), Clock()
    engine = NullEngine(device, rate=rate)
    annotator = Annotator(WorkPlan.of(pinned, device="cpu", threads=1), engine=engine)
    for tokens in tokenizers(annotator):
        tokens.backend = Timed(tokens.backend, tokenizer)
        if tokens.pieces is not None and tokens.pieces.library is not None:
            tokens.pieces.library = Timed(tokens.pieces.library, tokenizer)
    waiting: SimpleQueue[list[Any]] = SimpleQueue()
    for call in calls(splits):
        waiting.put(call)
    answers: list[Any] = []

    def work() -> None:
        while True:
            try:
                call = waiting.get_nowait()
            except Empty:
                return
            answers.extend(annotator.annotate_all(call))

    threads = [threading.Thread(target=work) for _ in range(IN_FLIGHT)]
    started, processor = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    good = [answer for answer in answers if isinstance(answer, SplitResult)]
    if len(good) < len(splits):
        raise SystemExit(f"{len(splits) - len(good)} splits failed: {answers}")
    return Measured(
        sum(result.rows.annotated for result in good),
        sum(result.tokens for result in good),
        len(good),
        seconds,
        processor,
        tokenizer.seconds,
        device.seconds,
        annotator.device.busy_seconds,
    )


def tokenizers(annotator: Annotator) -> list[texts_module.Tokenizer]:
    """Those of all tasks."""
    found = {}
    for annotate in annotator.rows.annotates.values():
        text = getattr(annotate, "text", None) or annotate.encoder.text  # type: ignore[attr-defined]
        found[text.tokens.key] = text.tokens
    return list(found.values())


def repeated(texts: Sequence[str], times: int) -> list[str]:
    """The texts, numbered from the second round on, so that no two are equal."""
    return [f"{text} {turn}" if turn else text for turn in range(times) for text in texts]


def main() -> int:
    """Measures, checks, prints, and writes the results down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=10_000, help="small ones")
    parser.add_argument("--file-rows", type=int, default=20, help="of a small one")
    parser.add_argument("--slowed-rows", type=int, default=160_000, help="for the slowed device")
    parser.add_argument("--only", choices=[*TASKS, "files", "slowed"], action="append")
    parser.add_argument("--no-write", action="store_true", help="leave RESULTS.md alone")
    options = parser.parse_args()
    wanted = options.only or [*TASKS, "files", "slowed"]
    texts = paragraphs(options.rows)
    short = paragraphs(min(options.rows, 10_000))
    lines = [
        "| what | rows | files | tokenizer, ns a token | all else, ns a token "
        "| null device, tokens/s | slowed device idle |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    over: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        lakes = {name: write_lake(work / "lake", texts, files=8) for name in TASKS}
        if "files" in wanted:
            many = repeated(short, -(-options.files * options.file_rows // len(short)))
            many = many[: options.files * options.file_rows]
            lakes["files"] = write_lake(work / "files", many, files=options.files)
        if "slowed" in wanted:
            many = repeated(texts, -(-options.slowed_rows // len(texts)))[: options.slowed_rows]
            slow = write_lake(work / "slow", many, files=16)
        number = 0
        for name in [name for name in (*TASKS, "files") if name in wanted]:
            task = TASKS.get(name, TASKS["classify"])
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
            rounds = []
            for _ in range(options.rounds if name in TASKS else 1):
                number += 1
                rounds.append(measure(lakes[name], work / f"out-{number}", task, rate=None))
            if name in TASKS:
                expect(rounds[0], texts, task)
            found = sorted(rounds, key=lambda each: each.rest)[len(rounds) // 2]
            idle = ""
            if "slowed" in wanted and name in TASKS:
                os.environ["TOKENIZERS_PARALLELISM"] = "true"
                number += 1
                share = measure(slow, work / f"out-{number}", task, rate=RATE).idle
                idle = f"{share:.1%}"
                if share > MOST_IDLE:
                    over.append(f"{name}: the slowed device idles {share:.1%}")
            if found.rest > MOST_NS:
                over.append(f"{name}: {found.rest:.0f} ns a token")
            tokenizer = statistics.median(r.tokenizer / r.tokens for r in rounds) * 1e9
            rate = statistics.median(r.tokens / r.seconds for r in rounds)
            lines.append(
                f"| {name} | {found.rows:,} | {found.splits:,} | {tokenizer:.0f} "
                f"| {found.rest:.0f} | {rate:,.0f} | {idle} |"
            )
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if not options.no_write and not options.only:
        command = shlex.join(["python", "benchmarks/host.py", *sys.argv[1:]])
        told = f"    {command}\n\n{machine()}.\n\n" + "\n".join(lines)
        write_section("The host beside a null device", told)
    for line in over:
        print(f"over: {line}", file=sys.stderr)
    return 0


def expect(found: Measured, texts: Sequence[str], task: Mapping[str, Any]) -> None:
    """Fails unless every row was annotated and, where texts fit the model, every token seen."""
    if found.rows != len(texts):
        raise SystemExit(f"{len(texts)} rows expected, {found.rows} annotated")
    if task["kind"] != "ner" and found.tokens != int(lengths(texts).sum()):
        raise SystemExit(f"{int(lengths(texts).sum())} tokens expected, {found.tokens} seen")


if __name__ == "__main__":
    sys.exit(main())
