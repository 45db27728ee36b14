"""Output that is not what was committed is noticed, named, and annotated anew."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from helpers import commit_file

from pipeline import verify
from pipeline.cli.main import main
from pipeline.job.job import Job
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.footers import look
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.source.base import Listing
from pipeline.lake.source.cut import splits_of
from pipeline.lake.source.open import open_source
from pipeline.lake.store.local import LocalStore
from pipeline.planning import Choices, plan_run, remember

pytestmark = pytest.mark.unit

FINGERPRINT = "f"


def damage(path: Path, how: str) -> None:
    """Spoils a file as a disk, a copy or a person would."""
    raw = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "half": raw[: len(raw) // 2],
            "last byte lost": raw[:-1],
            "magic word alone": b"PAR1",
            "zeros": bytes(len(raw)),
            "middle lost": raw[:100] + raw[200:],
            "longer": raw + bytes(100),
            "other text": b"<html>503 Slow Down</html>" * 20,
        }[how]
    )


SPOILT = (
    "empty", "half", "last byte lost", "magic word alone", "zeros", "middle lost", "longer",
    "other text",
)  # fmt: skip


def write(path: Path, name: str, rows: int) -> None:
    noise = np.random.default_rng(ord(name))
    texts = [f"{name} {noise.bytes(20).hex()}" for _ in range(rows)]
    pq.write_table(pa.table({"text": texts, "n": range(rows)}), path)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for name in ("a", "b", "c"):
        write(tmp_path / f"lake/{name}.parquet", name, 50)
    return tmp_path / "lake"


@pytest.fixture
def out(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "out"))


JOB = Job.model_validate(
    {
        "name": "test",
        "input": {"path": "lake"},
        "output": {"path": "out"},
        "tasks": {"label": {"kind": "classify", "model": "none"}},
    }
)
LABEL = pa.struct([("label", pa.string()), ("score", pa.float32())])
SCHEMA = pa.schema([("text", pa.string()), ("n", pa.int64()), ("label", LABEL)])


def pinned_job(lake: Path, out: LocalStore) -> Any:
    """What planning and verifying ask of a checked job."""
    dataset = open_source(str(lake))
    files = dataset.listing().files
    return SimpleNamespace(
        splits=lambda *_, **__: list(splits_of(dataset.store, files, fingerprint=FINGERPRINT)),
        checked=SimpleNamespace(
            listing=Listing(files), source=dataset, sink=FileSink(out), job=JOB
        ),
        fingerprint=FINGERPRINT,
        parts={},
    )


def work(lake: Path, out: LocalStore, **choices: bool) -> list[str]:
    """Plans and does everything, as a run does; tells what was planned, and the notices."""
    notices: list[str] = []
    plan = plan_run(
        pinned_job(lake, out), choices=Choices(**choices), notice=notices.append
    )  # fmt: skip
    sizes = {}
    for split in plan.todo:
        table = pq.read_table(lake / split.path)
        labels = [{"label": "yes", "score": row / 100} for row in range(len(table))]
        table = table.append_column("label", pa.array(labels, LABEL))
        file = OutputFile(FileSink(out), split.output_path, SCHEMA, compression="zstd")
        file.write(table)
        footer = {"split": split.id, "input": split.path, "fingerprint": FINGERPRINT}
        assert commit_file(file, footer, rows=len(table), replace=split.replace)
        sizes[split.output_path] = (out.base / split.output_path).stat().st_size
        for path in plan.outdated.pop(split.path, []):
            out.delete(path)
    remember(FileSink(out), sizes)
    return [*sorted(split.path for split in plan.todo), *notices]


def outputs(out: LocalStore) -> dict[str, bytes]:
    return {entry.path: (out.base / entry.path).read_bytes() for entry in out.entries()}


@pytest.mark.parametrize("how", SPOILT)
@pytest.mark.parametrize("known", [True, False], ids=["size known", "size not known"])
def test_a_run_annotates_damaged_output_anew(
    lake: Path, out: LocalStore, how: str, known: bool
) -> None:
    work(lake, out)
    before = outputs(out)
    spoilt = sorted(before)[1]
    damage(out.base / spoilt, how)
    same_size = len(outputs(out)[spoilt]) == len(before[spoilt])
    if not known:
        (out.own.base / "memory/outputs").unlink()  # type: ignore[attr-defined]
    elif same_size:
        return  # as a listing shows it; `verify` reads more
    done = work(lake, out)
    assert done[0] == "b.parquet"
    assert len(done) == 2
    assert f"1 output files are damaged and are annotated anew ({spoilt} is the first: " in done[1]
    assert outputs(out) == before
    assert work(lake, out) == []


@pytest.mark.parametrize("how", ["empty", "half", "zeros"])
def test_damaged_output_of_a_changed_input_blocks_nothing(
    lake: Path, out: LocalStore, how: str
) -> None:
    work(lake, out)
    before = sorted(outputs(out))
    damage(out.base / before[0], how)
    write(lake / "a.parquet", "z", 70)
    assert work(lake, out) == ["a.parquet"]
    after = sorted(outputs(out))
    assert after[1:] == before[1:]
    assert after[0] != before[0]
    assert work(lake, out) == []


def test_where_sizes_are_known_no_output_file_is_opened(
    lake: Path, out: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(lake, out)

    def refuse(path: str) -> None:
        raise AssertionError(f"{path} was opened")

    monkeypatch.setattr(out, "open", refuse)
    assert work(lake, out) == []


def test_a_killed_run_costs_one_look_at_what_it_committed(
    lake: Path, out: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(lake, out)
    (out.own.base / "memory/outputs").unlink()  # type: ignore[attr-defined]
    opened: list[str] = []
    plainly = out.open
    monkeypatch.setattr(out, "open", lambda path: opened.append(path) or plainly(path))
    assert work(lake, out) == []
    assert sorted(opened) == sorted(outputs(out))
    opened.clear()
    assert work(lake, out) == []
    assert opened == []


def test_output_that_a_disk_does_not_give_is_named_and_left_alone(
    lake: Path, out: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(lake, out)
    (out.own.base / "memory/outputs").unlink()  # type: ignore[attr-defined]
    before = outputs(out)
    sick = sorted(before)[0]
    plainly = out.open

    def answer(path: str) -> Any:
        if path == sick:
            raise OSError(errno.EIO, "Input/output error")
        return plainly(path)

    monkeypatch.setattr(out, "open", answer)
    (notice,) = work(lake, out)
    assert notice.startswith(f"1 output files can't be checked and stay ({sick}: ")
    assert "Input/output error" in notice
    assert outputs(out) == before


@pytest.mark.parametrize("rows", [0, 1, 1000])
@pytest.mark.parametrize("groups", [1, 3])
def test_whole_files_of_all_shapes_are_not_taken_for_damaged(
    out: LocalStore, rows: int, groups: int
) -> None:
    schema = pa.schema([("n", pa.int64()), ("text", pa.string()), ("none", pa.null())])
    file = OutputFile(FileSink(out), "a-all-0123456789abcdef.parquet", schema, compression="zstd")
    for _ in range(groups):
        file.write(pa.table([range(rows), ["x"] * rows, [None] * rows], schema=schema))
    assert commit_file(file, {"split": "s"}, rows=rows * groups)
    (entry,) = out.entries()
    found = look(out, entry)
    assert (found.said, found.damage, found.unread) == ({"split": "s"}, "", "")


@pytest.fixture
def verdict(lake: Path, out: LocalStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Verifies the output, of which no model is known."""
    monkeypatch.setattr(verify, "check", lambda job: pinned_job(lake, out).checked)
    monkeypatch.setattr(verify, "pin", lambda checked, like: pinned_job(lake, out))
    return lambda: verify.verify_job(JOB)


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1 << (at % 8)
    path.write_bytes(raw)


def test_a_bit_that_flips_anywhere_in_a_file_is_found(
    lake: Path, out: LocalStore, verdict: Any
) -> None:
    write(lake / "a.parquet", "a", 3)
    work(lake, out)
    path = out.base / sorted(outputs(out))[0]
    whole = path.read_bytes()
    for at in range(0, len(whole), 5):
        flip(path, at)
        found = verdict()
        assert len(found.problems) == found.damaged == 1, at
        assert found.problems[0].startswith(f"{path.name} is damaged: "), at
        path.write_bytes(whole)
    assert verdict().problems == []


def test_pages_have_checksums_that_other_readers_check_too(lake: Path, out: LocalStore) -> None:
    work(lake, out)
    path = out.base / sorted(outputs(out))[0]
    column = pq.ParquetFile(path).metadata.row_group(0).column(0)
    flip(path, column.data_page_offset + column.total_compressed_size // 2)
    with pytest.raises(OSError, match="CRC checksum"):
        pq.read_table(path, page_checksum_verification=True)


def test_every_wrong_file_is_named_in_one_pass_and_one_command_annotates_them_anew(
    lake: Path, out: LocalStore, verdict: Any
) -> None:
    for name in ("d", "e", "f", "g"):
        write(lake / f"{name}.parquet", name, 50)
    work(lake, out)
    before = outputs(out)
    paths = [out.base / path for path in sorted(before)]
    assert (verdict().problems, verdict().rows) == ([], 350)
    flip(paths[0], 200)
    damage(paths[1], "empty")
    damage(paths[2], "half")
    paths[3].write_bytes(before[paths[4].name])
    table = pq.read_table(paths[5]).slice(1)
    said = {b"shardscribe": pq.ParquetFile(paths[5]).metadata.metadata[b"shardscribe"]}
    pq.write_table(table.replace_schema_metadata(said), paths[5])
    found = verdict()
    assert found.damaged == 5
    assert [problem.partition(".parquet")[0] for problem in found.problems] == [
        path.stem for path in (paths[0], paths[1], paths[2], paths[3], paths[5])
    ]
    assert found.rows == 100
    assert found.problems[3].partition(" ")[2].startswith("says it is of split ")
    assert found.problems[4].endswith("has 49 rows, f.parquet has 50")

    # A run sees sizes alone.
    *again, notice = work(lake, out)
    assert again == ["b.parquet", "c.parquet", "d.parquet"]
    assert "3 output files" in notice
    *again, notice = work(lake, out, retry_damaged=True)
    assert again == ["a.parquet", "f.parquet"]
    assert "2 output files are damaged and are annotated anew" in notice
    assert outputs(out) == before
    assert verdict().problems == []
    assert work(lake, out, retry_damaged=True) == []


def test_a_full_run_annotates_what_is_done_again_and_gives_the_same_bytes(
    lake: Path, out: LocalStore, verdict: Any
) -> None:
    work(lake, out)
    before = outputs(out)
    assert work(lake, out) == []
    assert sorted(work(lake, out, full=True)) == ["a.parquet", "b.parquet", "c.parquet"]
    assert outputs(out) == before
    assert verdict().problems == []


def test_an_input_that_can_not_be_read_is_named_and_its_output_is_left_alone(
    lake: Path, out: LocalStore, verdict: Any
) -> None:
    work(lake, out)
    before = outputs(out)
    stat = (lake / "b.parquet").stat()
    damage(lake / "b.parquet", "zeros")
    os.utime(lake / "b.parquet", ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    found = verdict()
    assert (found.damaged, found.splits, found.rows) == (0, 3, 100)
    (problem,) = found.problems
    assert "b.parquet is not a readable Parquet file" in problem
    (notice,) = work(lake, out, retry_damaged=True)
    assert "b.parquet is not a readable Parquet file" in notice
    assert outputs(out) == before


def test_text_that_is_no_utf8_any_more_is_a_difference_and_no_traceback() -> None:
    good = pa.chunked_array([pa.array(["abc", "d"])])
    spoilt = pa.StringArray.from_buffers(
        2, pa.py_buffer(b"\0\0\0\0\3\0\0\0\4\0\0\0"), pa.py_buffer(b"ab\xffd")
    )
    assert not verify._equal(good, pa.chunked_array([spoilt]))


def test_status_names_damaged_files_and_counts_none_of_their_rows(
    lake: Path, out: LocalStore
) -> None:
    work(lake, out)
    paths = sorted(outputs(out))
    damage(out.base / paths[0], "half")
    damage(out.base / paths[1], "middle lost")
    done = CliRunner().invoke(main, ["status", out.root])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].startswith(f"output  {out.root}: 1 files, ")
    assert [line for line in lines if line.startswith("damaged ")] == [
        line for path in paths[:2] for line in lines if line.startswith(f"damaged {path}: ")
    ]
    assert len([line for line in lines if line.startswith("damaged ")]) == 2
    assert "bytes, " in lines[3]
    assert "were committed" in lines[3]


def test_what_verify_says_to_do_names_the_job_as_it_was_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = verify.Verdict(problems=["a.parquet is damaged"], damaged=1)
    monkeypatch.setattr(verify, "verify_job", lambda job: found)
    job = str(Path(__file__).parents[2] / "jobs/movie_reviews.yaml")
    done = CliRunner().invoke(main, ["verify", job, "--set", "output.path=data/the other"])
    assert f"`shardscribe retry {job} --set 'output.path=data/the other' --damaged`" in done.output
    assert done.exit_code == 1
