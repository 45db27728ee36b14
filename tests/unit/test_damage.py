"""Output that is not what was committed is noticed, named, and annotated anew."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.lake.dataset import Dataset, splits_of
from pipeline.lake.footers import look
from pipeline.lake.plan import Plan
from pipeline.lake.publish import OutputFile
from pipeline.lake.store import LocalStore
from pipeline.planning import plan_run, remember

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


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake").mkdir()
    for name in ("a", "b", "c"):
        pq.write_table(pa.table({"text": [name]}), tmp_path / f"lake/{name}.parquet")
    return tmp_path / "lake"


@pytest.fixture
def out(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "out"))


def planned(lake: Path, out: LocalStore, notices: list[str]) -> Plan:
    dataset = Dataset.open(str(lake))
    files = dataset.files()
    pinned: Any = SimpleNamespace(
        splits=lambda memory: list(splits_of(dataset.store, files, fingerprint=FINGERPRINT)),
        checked=SimpleNamespace(missed={}, files=files),
        fingerprint=FINGERPRINT,
        parts={},
    )
    return plan_run(pinned, out, notice=notices.append)


def work(lake: Path, out: LocalStore) -> list[str]:
    """Plans and does everything, as a run does; tells what was planned, and the notices."""
    notices: list[str] = []
    plan = planned(lake, out, notices)
    schema = pa.schema([("n", pa.int64()), ("noise", pa.string())])
    noise = [np.random.default_rng(n).bytes(20).hex() for n in range(50)]
    sizes = {}
    for split in plan.todo:
        file = OutputFile(out, split.output_path, schema, compression="none")
        file.write(pa.table({"n": range(50), "noise": noise}, schema=schema))
        footer = {"split": split.id, "input": split.path, "fingerprint": FINGERPRINT}
        assert file.publish(footer, rows=50, replace=split.replace)
        sizes[split.output_path] = (out.base / split.output_path).stat().st_size
        for path in plan.outdated.pop(split.path, []):
            out.delete(path)
    remember(out, sizes)
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
    pq.write_table(pa.table({"text": ["longer", "than", "before"]}), lake / "a.parquet")
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
    assert notice.startswith(f"1 output files can't be read and stay ({sick}: ")
    assert "Input/output error" in notice
    assert outputs(out) == before


@pytest.mark.parametrize("rows", [0, 1, 1000])
@pytest.mark.parametrize("groups", [1, 3])
def test_whole_files_of_all_shapes_are_not_taken_for_damaged(
    out: LocalStore, rows: int, groups: int
) -> None:
    schema = pa.schema([("n", pa.int64()), ("text", pa.string()), ("none", pa.null())])
    file = OutputFile(out, "a-all-0123456789abcdef.parquet", schema, compression="zstd")
    for _ in range(groups):
        file.write(pa.table([range(rows), ["x"] * rows, [None] * rows], schema=schema))
    assert file.publish({"split": "s"}, rows=rows * groups)
    (entry,) = out.entries()
    found = look(out, entry)
    assert (found.said, found.damage, found.unread) == ({"split": "s"}, "", "")
