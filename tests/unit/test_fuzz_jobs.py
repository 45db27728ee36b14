"""Job files broken at random: always an exit code of ours and a few lines, never a traceback.

``SHARDSCRIBE_FUZZ=2000`` tries that many.
"""

import copy
import faulthandler
import os
import random
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

from pipeline.cli.main import main
from pipeline.job import check
from pipeline.job.file import load_job, ready_jobs
from pipeline.models.resolve import ModelInfo, look_up

pytestmark = pytest.mark.unit

JOBS = ready_jobs(Path(__file__).parents[2] / "jobs")
CASES = int(os.environ.get("SHARDSCRIBE_FUZZ", "300"))
BATCHES = 10
PARTS = ("input", "output", "compute", "limits")
LINES = 5
# What a terminal should never get, and what no user should.
DANGEROUS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
FOREIGN = re.compile(
    r"Traceback|not foreseen|Input should|should have|after validation|valid (string|dictionary|"
    r"integer|number|tuple)|pydantic|<class |object at 0x"
)

VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 1.5, -0.0, 1e308,
    float("nan"), float("inf"), "", " ", "x", "yes", "null", "0", "~", "~/x", "~nobody-here/x", ".",
    "..", "/", "//", "/dev/null", "/dev/zero", "/proc/self/mem", "/proc", "data", "data/reviews",
    "data/reviews/a.parquet", "data/reviews/a.parquet/x", "data/[1]", "data/*", "*", "**/*", "[",
    "[!", "a\\b", "C:\\data", "x" * 300, "y" * 20_000, "a/" * 3_000, "s3:", "s3://", "s3:///x",
    "S3://x", "http://127.0.0.1:1/x", "file://", "file:///etc", "://", "x://y", "a\x1b[2Jb",
    "\u202ex", "\ud800", "a\x00b", "a\nb", "日本", "${env:NO_SUCH_VARIABLE}", "${env:HOME}",
    "${env:}", "{", "}", "{}", "{0}", "{text", "{text}", "{text.x}", "{text!r}", "{text:>9}",
    "{nosuch}", "text", "label", "id", "errors", "sentiment", "select 1", "n in (select 1)",
    "text = 'x'", "length(text) >", "1", "text", "mood.score < 0.5", "starter/", "starter/x",
    "starter/../x",
    "org/name", "org/name@", "@", "a/b/c", "./x", "auto", "cuda", "json", "5m", "1e9h", "infs",
    "nanm", [], {}, [[]], [{}], {"a": 1}, {1: 2}, {"": ""}, ["text"], ["text", "text"],
    [None], [1], {"path": "data"}, {"kind": "ner"},
    {"kind": "classify", "model": "starter/sentiment"},
    {"type": "object"}, {"type": ["string", "null"]}, {"$ref": "#"}, {"enum": []},
    {"type": "integer", "minimum": 9, "maximum": 1}, {"type": "string", "pattern": "("},
    {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]},
]  # fmt: skip
KEYS = [
    "",
    "a",
    "kind",
    "model",
    "text",
    "errors",
    "__class__",
    "<<",
    "a b",
    "\ud800",
    1,
    None,
    True,
]
SNIPPETS = [
    "\t", "- ", ": ", "{", "}", "[", "]", "&a ", "*a", "<<: *a\n", "!!int ",
    "!!python/name:os.system ",
    "? ", "| ", ">-\n", "'", '"', "#", "%YAML 9\n", "---\n", "...\n", "\\", "\0", "\x1b[2J", "\r",
    "\u2028", "\ufeff", "é", "@", "`", "!!binary x\n", "!!set {a}\n", "!!omap [a]\n", "2024-99-99",
    "1" * 5_000, "[" * 5_000, "0x", "0b2", "1:99:99", "  ",
]  # fmt: skip
HEADS = {
    "starter/sentiment": "BertForSequenceClassification",
    "starter/pii": "BertForTokenClassification",
    "starter/minilm": "BertModel",
    "starter/smollm2": "LlamaForCausalLM",
}


def places(data: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a job."""
    found = [at] if at else []
    items = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    for key, value in items:
        found += places(value, (*at, key))
    return found


def inside(data: Any, at: tuple[Any, ...]) -> Any:
    for key in at:
        data = data[key]
    return data


def change(draw: random.Random, data: Any) -> None:
    """Changes a job in one place."""
    where = places(data)
    if not where:
        return
    *above, last = draw.choice(where)
    holder = inside(data, tuple(above))
    match draw.randrange(6):
        case 0 | 1:
            holder[last] = copy.deepcopy(draw.choice(VALUES))
        case 2:
            del holder[last]
        case 3 if isinstance(holder, dict):
            holder[draw.choice([*KEYS, *map(str, VALUES[:40])])] = holder.pop(last)
        case 4 if isinstance(holder, dict):
            holder[draw.choice(KEYS)] = copy.deepcopy(draw.choice(VALUES))
        case _:
            holder[last] = copy.deepcopy(inside(data, draw.choice(where)))


def damage(draw: random.Random, raw: bytes) -> bytes:
    """Changes the file itself, in one place."""
    at, to = sorted(draw.randrange(len(raw) + 1) for _ in range(2))
    match draw.randrange(6):
        case 0:
            return raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :]
        case 1:
            return raw[:at]
        case 2:
            return raw[:at] + raw[to:]
        case 3:
            return raw[:to] + raw[at:to] * draw.choice([1, 2, 300]) + raw[to:]
        case 4:
            lines = raw.splitlines(keepends=True)
            draw.shuffle(lines)
            return b"".join(lines)
    return raw[:at] + draw.choice(SNIPPETS).encode() + raw[at:]


def broken(draw: random.Random) -> tuple[bytes, list[str]]:
    """A ready job with something wrong, and options beside it."""
    raw = draw.choice(JOBS).read_bytes()
    if draw.random() < 0.6:
        data = yaml.safe_load(raw)
        for _ in range(draw.choice([1, 1, 2, 5])):
            change(draw, data)
        raw = yaml.safe_dump(data, sort_keys=False).encode("utf-8", "surrogatepass")
    if draw.random() < 0.4:
        raw = damage(draw, raw)
    options = []
    if draw.random() < 0.3:
        data = yaml.safe_load(draw.choice(JOBS).read_bytes())
        field = ".".join(map(str, draw.choice(places(data))))
        value = draw.choice([*map(str, VALUES), *SNIPPETS])
        options = ["--set", draw.choice([f"{field}={value}", field, f"{field}.x={value}", value])]
    verb = draw.choice(["validate"] * 5 + ["status", "show", "verify"])
    return raw, [verb, "job.yaml", *options]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory in which the ready jobs are right, without weights."""
    monkeypatch.chdir(tmp_path)
    table = pa.table({"id": [1], "text": ["x"], "source": ["y"], "label": ["z"]})
    for job in JOBS:
        lake = tmp_path / yaml.safe_load(job.read_bytes())["input"]["path"]
        lake.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, lake / "a.parquet")

    def found(name: str, **how: Any) -> ModelInfo:
        if name in HEADS:
            config = {"architectures": [HEADS[name]], "hidden_size": 8}
            return ModelInfo(name, config, commit="c", chat_template=True)
        return look_up(name, **how)

    monkeypatch.setattr(check, "look_up", found)
    return tmp_path


def problem(done: Any) -> str:
    """What is wrong with how a command ended; nothing if all is well."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"raised {done.exception!r}"
    if done.exit_code not in range(5):
        return f"exit code {done.exit_code}"
    said = done.stderr
    if len(said.splitlines()) > LINES:
        return "too many lines"
    if done.exit_code and not done.output:
        return "an error without a word"
    for pattern in (DANGEROUS, FOREIGN):
        if found := pattern.search(done.output):
            return f"says {found[0]!r}"
    return "too long" if len(said) > 20_000 else ""


def test_the_ready_jobs_are_right_here(here: Path) -> None:
    for job in JOBS:
        (here / "job.yaml").write_bytes(job.read_bytes())
        done = CliRunner().invoke(main, ["validate", "job.yaml"])
        assert (done.exit_code, done.stderr) == (0, "")


def tried(here: Path, cases: Iterable[tuple[object, bytes, list[str]]]) -> None:
    """Asserts that all is well with how each case ends."""
    wrong = []
    for name, raw, arguments in cases:
        (here / "job.yaml").write_bytes(raw)
        # Says where it stands, should it stand still.
        faulthandler.dump_traceback_later(120)
        done = CliRunner().invoke(main, arguments)
        faulthandler.cancel_dump_traceback_later()
        if found := problem(done):
            wrong.append(f"{name}: {found}: {arguments[:3]}: {done.output[:600]}")
    assert not wrong, "\n".join([f"{len(wrong)} cases", *wrong[:15]])


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_job_file_broken_at_random_is_told_in_a_few_lines(here: Path, batch: int) -> None:
    seeds = range(batch, CASES, BATCHES)
    tried(here, ((f"seed {seed}", *broken(random.Random(seed))) for seed in seeds))


def fields() -> dict[str, list[tuple[Path, tuple[str, ...]]]]:
    """Every field that a part of a job or a kind of task has, in a ready job that has it."""
    found: dict[str, list[tuple[Path, tuple[str, ...]]]] = {}
    for path in JOBS:
        job = load_job(path)
        parts = {part: ((part,), getattr(job, part)) for part in PARTS}
        tasks = {o.kind: (("tasks", name), o) for name, o in job.options.items()}
        for kind, (at, options) in {**parts, **tasks}.items():
            found.setdefault(kind, [(path, (*at, name)) for name in type(options).model_fields])
    return found


def values(path: Path, at: tuple[str, ...]) -> Iterator[tuple[object, bytes, list[str]]]:
    """Values of the list in the place of a field: all of them, or some."""
    some = VALUES if 10 * len(VALUES) <= CASES else random.Random(str(at)).sample(VALUES, 4)
    for value in some:
        data = yaml.safe_load(path.read_bytes())
        holder = data
        for key in at[:-1]:
            holder = holder.setdefault(key, {})
        holder[at[-1]] = value
        raw = yaml.safe_dump(data, sort_keys=False).encode("utf-8", "surrogatepass")
        yield f"{'.'.join(at)} = {str(value)[:50]!r} in {path.name}", raw, ["validate", "job.yaml"]


@pytest.mark.parametrize("part", fields())
def test_any_value_of_any_field_is_taken_or_told_in_a_few_lines(here: Path, part: str) -> None:
    for path, at in fields()[part]:
        tried(here, values(path, at))
