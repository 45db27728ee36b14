"""Lakes as they are: broken files, files that change, disks that fill up or can't be written.

What fails is named in one line, the rest is annotated, and the same command goes on later.
"""

import errno
import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chaos_jobs import SLOW, Job, rows_by_id, some_text
from helpers import PATIENCE, QuietDisplay, commit_file, own, wait_for

from pipeline.job.check import check, pin
from pipeline.job.file import load_job
from pipeline.lake.sink.files import FileSink
from pipeline.lake.sink.scratch import OutputFile
from pipeline.lake.store.local import LocalStore
from pipeline.planning import Choices
from pipeline.run import run_job

pytestmark = pytest.mark.chaos

ONE_WORKER = {"workers": 1, "cpus_per_worker": 1}


def write(path: Path, first: int, *, rows: int = 10, words: int = 5, padding: int = 0) -> None:
    """A file of rows with ids from `first`; `padding` bytes a row that can't be compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = random.Random(first)
    table = pa.table(
        {
            "id": range(first, first + rows),
            "text": [some_text(draw, words) for _ in range(rows)],
            "padding": [draw.randbytes(padding) for _ in range(rows)],
        }
    )
    pq.write_table(table, path, compression="none")


def failed_line(said: str, name: str) -> str:
    """What the summary says of a file that failed; it says it once."""
    (line,) = [line for line in said.splitlines() if line.startswith(f"  failed  {name}: ")]
    return line


def summary_of(job: Job) -> dict:
    return job.summaries()[-1]


@pytest.fixture
def lake(tmp_path) -> Path:
    return tmp_path / "lake"


@pytest.fixture
def job(tmp_path, lake, tiny_model):
    """Makes the job; afterwards nothing that it printed may be a traceback."""
    made: list[Job] = []

    def make(**sections) -> Job:
        fields = {"compute": ONE_WORKER, **sections}
        made.append(Job(tmp_path / "job", lake=lake, model=tiny_model, **fields))
        return made[-1]

    yield make
    for each in made:
        assert "Traceback" not in each.said(), each.said()


def test_broken_files_fail_by_name_and_the_others_are_annotated(cluster, job, lake):
    for number in range(3):
        write(lake / f"good-{number}.parquet", number * 10)
    write(lake / "whole.parquet", 100, padding=3000)
    whole = (lake / "whole.parquet").read_bytes()
    (lake / "whole.parquet").unlink()
    broken = {
        "zero-bytes.parquet": b"",
        "truncated.parquet": whole[: len(whole) // 2],
        "without-its-head.parquet": whole[len(whole) // 2 :],
        "no-parquet.parquet": b"id,text\n1,a fine film\n" * 50,
        "only-magic.parquet": b"PAR1PAR1",
        "endless-footer.parquet": b"PAR1" + b"\xff\xff\xff\x7fPAR1",
        "data-zeroed.parquet": whole[:4] + bytes(200) + whole[204:],
        "footer-zeroed.parquet": whole[:-60] + bytes(50) + whole[-10:],
    }
    for name, content in broken.items():
        (lake / name).write_bytes(content)
    pq.write_table(pa.table({"id": [1], "body": ["x"]}), lake / "no-text.parquet")
    pq.write_table(pa.table({"id": [1], "text": [7]}), lake / "numbers.parquet")
    pq.write_table(pa.table({"id": [1], "text": [["x"]]}), lake / "lists.parquet")
    pq.write_table(pa.table({}), lake / "no-columns.parquet")
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    pq.write_table(schema.empty_table(), lake / "no-rows.parquet")
    with pq.ParquetWriter(lake / "no-row-groups.parquet", schema):
        pass
    (lake / "directory.parquet").mkdir()
    (lake / "to-nowhere.parquet").symlink_to(lake / "nowhere")
    (lake / "notes.txt").write_text("not read")

    this = job()
    assert this.finish("--address", cluster.address) == 1, this.said()
    summary = summary_of(this)
    assert (summary["state"], summary["exit_code"]) == ("some splits failed", 1)
    bad = {*broken, "no-text.parquet", "numbers.parquet", "lists.parquet", "no-columns.parquet"}
    assert summary["splits"] == {
        "total": 5 + len(bad), "done_before": 0, "done": 5, "failed": len(bad), "left": 0,
    }  # fmt: skip
    reasons = {failed["path"]: failed["reason"] for failed in summary["failed_splits"]}
    assert reasons.keys() == bad
    for name, reason in reasons.items():
        assert str(lake / name) in reason
        assert "\n" not in reason
    for name in broken:
        assert "rite it again" in reasons[name], "what to do about it"
    assert "has no column `text`; it has id, body" in reasons["no-text.parquet"]
    assert "column `text` is int64, not text" in reasons["numbers.parquet"]
    assert "column `text` is list<" in reasons["lists.parquet"]
    assert "has no column `text`" in reasons["no-columns.parquet"]
    said = this.said()
    for failed in summary["failed_splits"][:10]:
        assert failed_line(said, failed["path"]).endswith(failed["reason"])
    assert f"and {len(bad) - 10} more in the record" in said
    assert summary["workers_lost"] == 0
    assert f"splits  {5 + len(bad)} = 5 done now + 0 before + {len(bad)} failed + 0 left" in said
    assert sorted(rows_by_id(this.output)) == list(range(30))
    assert this.scratch() == []
    for name in ("no-rows", "no-row-groups"):
        (path,) = this.output.glob(f"{name}-all-*.parquet")
        assert pq.read_metadata(path).num_rows == 0
        assert pq.read_schema(path).names == ["id", "text", "padding", "mood", "errors"]

    before = {name: (this.output / name).stat().st_mtime_ns for name in this.outputs()}
    assert f"{lake / 'to-nowhere.parquet'} can't be read: No such file" in said
    for name in (*bad, "to-nowhere.parquet"):
        (lake / name).unlink()
    write(lake / "truncated.parquet", 100)
    assert this.finish("--address", cluster.address) == 0, this.said()
    assert summary_of(this)["splits"]["done"] == 1
    after = {name: (this.output / name).stat().st_mtime_ns for name in this.outputs()}
    assert {name: after[name] for name in before} == before
    assert sorted(rows_by_id(this.output)) == [*range(30), *range(100, 110)]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is not a readable Parquet file"), (None, "has no column `text`; it has id, body")],
    ids=["broken", "no text column"],
)
def test_a_lake_of_which_no_file_will_do_is_a_mistake_of_the_job(job, lake, content, message):
    lake.mkdir()
    for number in range(3):
        path = lake / f"{number}.parquet"
        pq.write_table(pa.table({"id": [1], "body": ["x"]}), path)
        if content is not None:
            path.write_bytes(content)
    this = job()
    assert this.finish() == 2
    (line,) = this.said().splitlines()
    assert line.startswith(f"Error: {lake / '0.parquet'} {message}")
    assert not this.output.exists()


def test_files_that_change_while_they_are_read_are_not_published_and_the_next_run_has_them(
    cluster, job, lake
):
    write(lake / "in-place.parquet", 1000, rows=1000)
    write(lake / "renamed.parquet", 3000, rows=1000)
    write(lake / "small.parquet", 0)
    this = job(compute={**ONE_WORKER, **SLOW})
    with this.process("--address", cluster.address) as process:
        # The large ones start first; each has a scratch file when it is read.
        wait_for(lambda: len(this.scratch()) == 2, what=this.said)
        write(lake / "in-place.parquet", 500, rows=7)
        write(lake / ".new", 600, rows=7)
        (lake / ".new").replace(lake / "renamed.parquet")
        assert process.wait(PATIENCE) == 1, this.said()
    for name in ("in-place.parquet", "renamed.parquet"):
        line = failed_line(this.said(), name)
        assert f"{lake / name} has changed since the run was planned" in line
        assert "Run the same command again" in line
    assert sorted(rows_by_id(this.output)) == list(range(10))
    assert this.scratch() == []

    assert this.finish("--address", cluster.address) == 0, this.said()
    assert summary_of(this)["splits"]["done_before"] == 1
    found = sorted(rows_by_id(this.output))
    assert found == [*range(10), *range(500, 507), *range(600, 607)]


def test_files_that_are_touched_deleted_or_cut_short_in_the_middle_of_a_run_fail_by_name(
    cluster, job, lake
):
    names = ["touched.parquet", "deleted.parquet", "cut-short.parquet"]
    for at, name in enumerate(names):
        write(lake / name, 1000 * (at + 1), rows=1000 - at * 10)
    write(lake / "small.parquet", 0)
    this = job(compute={**ONE_WORKER, **SLOW})
    with this.process("--address", cluster.address) as process:
        wait_for(lambda: len(this.scratch()) == 2, what=this.said)
        os.utime(lake / "touched.parquet")
        (lake / "deleted.parquet").unlink()
        os.truncate(lake / "cut-short.parquet", 5000)
        assert process.wait(PATIENCE) == 1, this.said()
    assert "has changed since the run was planned" in failed_line(this.said(), names[0])
    assert "is not there any more" in failed_line(this.said(), names[1])
    assert str(lake / names[2]) in failed_line(this.said(), names[2])
    assert sorted(rows_by_id(this.output)) == list(range(10))
    assert this.scratch() == []


# Disks.


def may_mount(where: Path) -> bool:
    where.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(where)]
    try:
        done = subprocess.run(command, capture_output=True)
    except FileNotFoundError:
        return False
    if done.returncode == 0:
        subprocess.run(["umount", str(where)], check=True)
    return done.returncode == 0


class Disk:
    """A small file system of its own; where none can be mounted, an ordinary directory.

    There, files of the run's processes may not grow beyond a limit instead, and a file stands in
    the way of what should not be written.
    """

    def __init__(self, where: Path) -> None:
        self.where = where
        self.mounts = may_mount(where)

    def mount(self, size: int) -> None:
        if self.mounts:
            options = f"size={size}"
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.where)], check=True
            )

    def remount(self, options: str) -> None:
        if self.mounts:
            subprocess.run(["mount", "-o", f"remount,{options}", str(self.where)], check=True)

    def environment(self, size: int) -> dict[str, str]:
        """For the run, so that it meets a limit where no disk could be mounted."""
        if self.mounts:
            return {}
        hook = self.where.parent / "hook"
        hook.mkdir(exist_ok=True)
        (hook / "sitecustomize.py").write_text(
            "import resource, sys\n"
            "if any('default_worker' in word for word in sys.orig_argv):\n"
            f"    resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
        )
        return {"PYTHONPATH": str(hook)}

    def close(self) -> None:
        """A lazy end, which takes with it what is mounted below."""
        if self.mounts:
            subprocess.run(["umount", "-lR", str(self.where)], capture_output=True)


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


def test_a_file_that_does_not_fit_the_disk_fails_alone_and_its_space_is_free_again(
    disk, cluster, job, lake
):
    for number in range(4):
        write(lake / f"small-{number}.parquet", number * 10)
    write(lake / "large.parquet", 100, rows=10, padding=200_000)
    disk.mount(1_000_000)
    this = job(output={"path": str(disk.where / "annotated"), "compression": "none"})
    this.output = disk.where / "annotated"
    # A limit is for the run's own processes; a disk is full for the cluster's as well.
    where = ("--address", cluster.address) if disk.mounts else ()
    assert this.finish(*where, **disk.environment(500_000)) == 1, this.said()
    line = failed_line(this.said(), "large.parquet")
    assert str(this.output) in line
    assert "can't be written" in line
    assert "free space" in line
    assert summary_of(this)["splits"]["done"] == 4
    assert sorted(rows_by_id(this.output)) == list(range(40))
    assert this.scratch() == []
    assert not (own(this.output) / "lease.json").exists()

    disk.remount("size=10000000")
    assert this.finish(*where) == 0, this.said()
    assert summary_of(this)["splits"]["done_before"] == 4
    assert sorted(rows_by_id(this.output)) == [*range(40), *range(100, 110)]


def test_a_disk_that_is_filled_to_the_last_byte_keeps_what_is_committed(disk, cluster, job, lake):
    for number in range(120):
        write(lake / f"part-{number:03}.parquet", number * 2, rows=2)
    disk.mount(500_000)
    this = job(output={"path": str(disk.where / "annotated"), "compression": "none"})
    this.output = disk.where / "annotated"
    if not disk.mounts:
        environment = disk.environment(3_000)
        assert this.finish(**environment) == 1, this.said()
        return
    assert this.finish("--address", cluster.address) == 1, this.said()
    done = len(this.outputs())
    assert 10 < done < 120
    assert f"splits  120 = {done} done now + 0 before + " in this.said()
    assert "No space left on device" in this.said()
    assert len(rows_by_id(this.output)) == 2 * done
    assert this.scratch() == []

    disk.remount("size=10000000")
    assert this.finish("--address", cluster.address) == 0, this.said()
    assert summary_of(this)["splits"]["done"] == 120 - done
    assert sorted(rows_by_id(this.output)) == list(range(240))
    assert this.finish(verb="verify") == 0


def test_a_disk_without_room_for_a_lease_is_said_before_anything_starts(disk, job, lake):
    write(lake / "a.parquet", 0)
    disk.mount(64 * 1024)
    this = job(output={"path": str(disk.where / "annotated")})
    if disk.mounts:
        with (disk.where / "filler").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
    else:
        own(disk.where / "annotated").parent.write_text("in the way")
    assert this.finish() == 2
    (line,) = this.said().splitlines()
    assert line.startswith(f"Error: output.path {disk.where / 'annotated'} can't be written: ")
    assert "Check the permissions and free space there" in line


def test_an_output_that_is_read_only_is_said_before_anything_starts(disk, job, lake):
    write(lake / "a.parquet", 0)
    disk.mount(64 * 1024)
    disk.remount("ro")
    if not disk.mounts:
        disk.where.rmdir()
        disk.where.write_text("in the way")
    this = job(output={"path": str(disk.where / "annotated")})
    for verb in ("run", "retry"):
        before = this.said()
        assert this.finish(verb=verb) == 2
        (line,) = this.said().removeprefix(before).splitlines()
        assert line.startswith(f"Error: output.path {disk.where / 'annotated'} can't be written: ")


@pytest.mark.parametrize("below", ["", "deep/down"])
def test_an_output_below_a_file_is_said_before_anything_starts(job, lake, tmp_path, below):
    write(lake / "a.parquet", 0)
    (tmp_path / "file").write_text("a file")
    output = tmp_path / "file" / below if below else tmp_path / "file"
    this = job(output={"path": str(output)})
    assert this.finish() == 2
    (line,) = this.said().splitlines()
    assert line.startswith(f"Error: output.path {output} ")
    assert (tmp_path / "file").read_text() == "a file"


def test_an_output_that_turns_read_only_in_the_middle_loses_nothing_that_is_committed(
    disk, cluster, job, lake
):
    for number in range(12):
        write(lake / f"part-{number:02}.parquet", number * 100, rows=100)
    disk.mount(10_000_000)
    this = job(output={"path": str(disk.where / "annotated")}, compute={**ONE_WORKER, **SLOW})
    this.output = disk.where / "annotated"
    with this.process("--address", cluster.address) as process:
        wait_for(lambda: len(this.outputs()) >= 2, what=this.said)
        if disk.mounts:
            # Over itself: what is open for writing stays so, and what comes now is refused. Made
            # read-only elsewhere first, where nobody writes: a mount in use can't be.
            aside = disk.where.parent / "aside"
            aside.mkdir()
            for command in (
                ["mount", "--bind", str(this.output), str(aside)],
                ["mount", "-o", "remount,bind,ro", str(aside)],
                ["mount", "--bind", str(aside), str(this.output)],
            ):
                subprocess.run(command, check=True)
        else:
            process.terminate()
        code = process.wait(PATIENCE)
    if disk.mounts:
        for mounted in (this.output, aside):
            subprocess.run(["umount", str(mounted)], check=True)
    assert code == (1 if disk.mounts else 3), this.said()
    done = len(this.outputs())
    assert 2 <= done < 12
    assert f"12 = {done} done now + 0 before" in this.said()
    if disk.mounts:
        assert "Read-only file system" in this.said()
        failed = [line for line in this.said().splitlines() if line.startswith("  failed  ")]
        assert failed
        assert all(str(this.output) in line for line in failed)
        assert not any("damaged" in line for line in failed), "the input is not to blame"
    assert this.finish("--address", cluster.address) == 0, this.said()
    assert sorted(rows_by_id(this.output)) == list(range(1200))
    assert this.scratch() == []


def test_output_that_can_not_be_removed_is_named_and_the_rest_is_pruned(job, lake, monkeypatch):
    this = job()
    for number in range(3):
        write(lake / f"part-{number}.parquet", number * 10)
    loaded = load_job(this.file)
    pinned = pin(check(loaded))
    store = LocalStore(str(this.output))
    paths = [split.output_path for split in pinned.splits()]
    for split in pinned.splits():
        file = OutputFile(FileSink(store), split.output_path, pa.schema([]), compression="none")
        footer = {"split": split.id, "input": split.path, "fingerprint": pinned.fingerprint}
        commit_file(file, {**footer, "rows": {"rows": 0}}, rows=0)
    for number in range(2):
        (lake / f"part-{number}.parquet").unlink()
    delete = LocalStore.delete

    def refuse(self: LocalStore, path: str) -> None:
        if path == paths[0]:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        delete(self, path)

    display = QuietDisplay()
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "delete", refuse)
        summary = run_job(loaded, display=display, choices=Choices(prune=True))
    assert "Permission denied" in summary.error + " ".join(display.notices)
    assert paths[0] in summary.error + " ".join(display.notices)
    assert paths[0] in this.outputs()
    assert paths[1] not in this.outputs()
    # The next one that may removes it.
    run_job(loaded, display=display, choices=Choices(prune=True))
    assert this.outputs() == [paths[2]]
