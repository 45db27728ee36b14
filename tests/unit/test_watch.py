"""A run is watched from outside: by its record, and by the lease that tells whether it lives."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import PATIENCE, wait_for
from rich.console import Console

from pipeline.cli import watch as cli
from pipeline.cli.display import status_line
from pipeline.cli.main import main
from pipeline.engine.driver import lease
from pipeline.engine.driver.lease import Lease
from pipeline.errors import SplitError
from pipeline.lake.store.local import LocalStore
from pipeline.records.schema import InFlight, Progress, Summary, WorkerInFlight
from pipeline.records.writer import RunRecord
from pipeline.watch import SILENT_SECONDS, View, watch_output

pytestmark = pytest.mark.unit

RUN = "20260101T000000Z-abcdef"
FAR = Progress("annotating", 9, 3, 0, 420, 9000, 0.4, 60.0, 2, 90.0)


class CutOff(Exception):
    """The test has seen enough."""


class Scene:
    """An output, and what happens to it between the looks of whoever watches it."""

    def __init__(self, output: Path) -> None:
        self.address = str(output)
        self.own: Any = LocalStore(self.address).own
        self.now = 0.0

    def watch(self, *steps: Callable[[], object], every: float = 2.0) -> list[View]:
        """All views, with a step after each; a watch that goes on after the last is cut off."""
        pending = iter(steps)

        def wait() -> None:
            self.now += every
            step = next(pending, None)
            if step is None:
                raise CutOff
            step()

        found: list[View] = []
        views: Iterator[View] = watch_output(self.address, wait=wait, clock=lambda: self.now)
        with suppress(CutOff):
            for view in views:
                found.append(view)
        return found

    def hold(self, run: str = RUN, **fields: object) -> None:
        """The lease as a living run of this machine has it, or as another machine would."""
        said = json.loads(Lease(self.own, run)._content())
        self.own.put("lease.json", json.dumps({**said, **fields}).encode())

    def let_go(self) -> None:
        self.own.delete("lease.json")

    def say(self, rows: int = 420, *, run: str = RUN, ago: float = 0.0) -> None:
        """A line of progress."""
        said = json.dumps(
            {
                "time": (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(),
                "progress": {**vars(FAR), "rows": rows},
            }
        )
        self.own.put(f"runs/{run}/progress.json", said.encode())

    def end(self, state: Any = "done", *, run: str = RUN) -> None:
        summary = Summary(
            run=run, job="j", state=state, exit_code=0, started="", seconds=9, input="", output=""
        )
        self.own.put(f"runs/{run}/summary.json", summary.model_dump_json().encode())


def nothing() -> None:
    """Happens."""


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "out")


def test_a_run_is_waited_for_found_and_followed_to_its_end(scene):
    def ended() -> None:
        scene.end()
        scene.let_go()

    views = scene.watch(
        nothing, scene.hold, scene.say, lambda: scene.say(500), nothing, lambda: ended()
    )
    assert [view.told for view in views] == [
        f"{scene.address} has no run yet; waiting for one to begin",
        f"{scene.address} has no run yet; waiting for one to begin",
        "is looking at input and output",
        "",
        "",
        "",
        "",
    ]
    assert [view.line.progress.rows if view.line else None for view in views] == [
        None, None, None, 420, 500, 500, 500,
    ]  # fmt: skip
    assert [view.run for view in views] == ["", "", *[RUN] * 5]
    assert [view.ended for view in views] == [*[False] * 6, True]


def test_the_run_that_holds_the_lease_is_watched_and_not_the_last_one(scene):
    scene.end(run="20250101T000000Z-aaaaaa")
    scene.hold()
    scene.say()
    assert scene.watch()[0].run == RUN


def test_where_no_run_is_under_way_one_is_given_a_moment_to_begin_and_the_last_is_shown(scene):
    scene.end()
    views = scene.watch(*[nothing] * 5)
    assert [view.run for view in views] == [*[""] * 5, RUN]
    assert views[0].told == "no run is under way; 10 s for one to begin"
    assert views[-1].ended


def test_a_run_that_begins_in_that_moment_is_the_one(scene):
    scene.end(run="20250101T000000Z-aaaaaa")
    views = scene.watch(nothing, scene.hold)
    assert [view.run for view in views] == ["", "", RUN]


def test_a_run_with_nothing_to_do_ends_the_watch_too(scene):
    scene.hold()
    views = scene.watch(nothing, scene.let_go)
    assert views[-1].ended
    assert views[-1].told == ("ended without a summary: nothing was to be done, or it was refused")


def test_a_run_whose_process_is_dead_is_known_to_have_died(scene):
    scene.hold()
    scene.say()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    views = scene.watch(nothing, lambda: scene.hold(pid=dead.pid))
    assert views[-1].ended
    assert views[-1].told == "ended without a summary: it has died"
    assert views[-1].line.progress.rows == 420


def test_a_run_that_was_killed_and_started_again_is_not_taken_for_the_new_one(scene):
    scene.hold()
    scene.say()
    views = scene.watch(nothing, lambda: scene.hold("20270101T000000Z-bbbbbb"))
    assert (views[-1].run, views[-1].ended) == (RUN, True)


@pytest.mark.parametrize(
    ("late", "told"),
    [
        (-30.0, ""),
        (30.0, "may have died: its lease has run out"),
        (lease.SKEW + 60, "ended without a summary: it has died"),
    ],
)
def test_of_a_run_on_another_machine_the_lease_tells(scene, late, told):
    scene.hold(host="another", expires=time.time() - late)
    scene.say()
    scene.own.put(f"runs/{RUN}/job.yaml", b"name: x\n")
    found = scene.watch(*[nothing] * 6)[-1]
    assert (found.run, found.told) == (RUN, told)


def test_a_lease_that_is_renewed_after_all_takes_the_doubt_back(scene):
    scene.hold(host="another", expires=time.time() - 5)
    scene.say()
    views = scene.watch(lambda: scene.hold(host="another", expires=time.time() + 60))
    assert [view.told for view in views] == ["may have died: its lease has run out", ""]


def test_a_run_that_lives_and_says_nothing_new_is_called_silent(scene):
    scene.hold()
    scene.say()
    views = scene.watch(*[nothing] * 40, lambda: scene.say(421))
    silent = "is silent, though its lease is kept: it may stand still"
    assert [view.age > SILENT_SECONDS for view in views] == [bool(v.told) for v in views]
    assert {view.told for view in views} == {"", silent}
    assert (views[-1].told, views[-1].age) == ("", 0)


def test_a_line_that_was_there_before_is_as_old_as_it_says(scene):
    scene.hold()
    scene.say(ago=100)
    first, second = scene.watch(lambda: scene.say(421, ago=5000))
    assert 99 < first.age < 99 + PATIENCE
    assert second.age == 0, "another machine's clock is not trusted where ours will do"


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"[]", b"\xff", b"{}", b'{"time": 3, "progress": {}}',
        b'{"time": "x", "progress": {"rows": "many"}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_progress_that_makes_no_sense_is_named_and_the_watch_goes_on(scene, content):
    scene.hold()
    scene.own.put(f"runs/{RUN}/progress.json", content)
    first, second = scene.watch(scene.say)
    assert "progress.json" in first.told
    assert (first.line, first.ended) == (None, False)
    assert (second.told, second.line.progress.rows) == ("", 420)


STRANGE = {
    "not finite": {"eta": float("inf"), "seconds": float("nan"), "fraction": float("nan")},
    "huge": {"eta": 1e300, "seconds": 1e300, "rows": 10**40, "tokens": 10**40, "fraction": 1e300},
    "negative": {"eta": -5, "seconds": -5, "rows": -5, "tokens": -5, "fraction": -5.0},
    "steers the terminal": {"phase": "\x1b[2J\u202e\nx"},
    "newer": {"cached": 7},
}


@pytest.mark.parametrize("fields", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("screen", [cli.LineScreen, cli.JsonScreen, None])
@pytest.mark.parametrize("when", ["now", "", "0001-01-01", "9999-12-31T23:59:59+14:00", "\x1b[2J"])
def test_whatever_a_record_says_is_shown_in_a_few_harmless_lines(
    scene, fields, screen, when, capsys
):
    scene.hold()
    in_flight = {
        "worker": "\x1b[2J",
        "splits": 1,
        "some": [
            {"split": "s", "path": "x", "told": "\u202e\x1b[2J\n", "fraction": 1e99, "rows": -1}
        ],
    }
    said = {
        "time": when,
        "progress": {**vars(FAR), **fields},
        "in_flight": [in_flight],
        "splits_in_flight": 10**9,
    }
    scene.own.put(f"runs/{RUN}/progress.json", json.dumps(said).encode())
    [view] = scene.watch()
    assert view.line is not None
    if screen is not None:
        screen().show(view)
        shown = capsys.readouterr().out
    else:
        terminal = Console(file=io.StringIO(), force_terminal=True, width=120, height=30)
        with cli.LiveScreen(terminal) as live:
            live.show(view)
            shown = terminal.file.getvalue()
    assert "\x1b[2J" not in shown
    assert "\u202e" not in shown
    assert 0 < len(shown.splitlines()) < 10


def test_a_store_that_does_not_answer_is_told_and_asked_again(scene, monkeypatch):
    scene.hold()
    scene.say()

    def refuse(self: LocalStore, path: str) -> bytes:
        raise SplitError(f"{path} can't be read: the store is away", hint="wait")

    def away() -> None:
        monkeypatch.setattr(LocalStore, "read", refuse)

    views = scene.watch(away, monkeypatch.undo)
    assert [view.told.partition(":")[0] for view in views] == ["", "can't be looked at", ""]
    assert [view.line.progress.rows for view in views] == [420] * 3


def test_a_place_that_can_t_be_read_from_the_start_is_an_error(scene, monkeypatch):
    def refuse(self: LocalStore, path: str) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LocalStore, "read", refuse)
    done = CliRunner().invoke(main, ["status", scene.address, "--watch"])
    assert done.exit_code == 2
    assert "can't be looked at: " in done.stderr
    assert "Permission denied" in done.stderr


# --- on the command line


def status(scene: Scene, monkeypatch: pytest.MonkeyPatch, *steps: Any, options: Any = ()) -> str:
    """What ``status --watch`` writes, with a step between two looks."""
    pending = iter(steps)
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: next(pending)())
    done = CliRunner().invoke(main, ["status", scene.address, "--watch", *options])
    assert done.exit_code == 0, done.output
    return done.stdout


def over(scene: Scene) -> Callable[[], None]:
    def step() -> None:
        scene.end()
        scene.let_go()

    return step


def test_elsewhere_than_on_a_terminal_there_is_a_line_for_each_change(scene, monkeypatch):
    scene.hold()
    lines = status(
        scene, monkeypatch, nothing, nothing, scene.say, nothing, lambda: scene.say(500),
        over(scene),
    ).splitlines()  # fmt: skip
    watched = [line[9:] for line in lines[:3]]
    assert watched[0] == f"{RUN} is looking at input and output"
    assert watched[1] == f"{RUN} {status_line(FAR)}", "the numbers that the run's own bar shows"
    assert "500 rows" in watched[2]
    assert lines[3].startswith("output  "), "then what status says without --watch"
    assert f"run     {RUN}: done in 9 s" in lines


def test_as_json_each_change_is_an_object_and_the_last_is_the_status(scene, monkeypatch):
    scene.hold()
    out = status(scene, monkeypatch, scene.say, over(scene), options=["--json"])
    *seen, last = [json.loads(line) for line in out.splitlines()]
    assert [(view["event"], view["told"], view["ended"]) for view in seen][:2] == [
        ("watch", "is looking at input and output", False),
        ("watch", "", False),
    ]
    assert seen[1]["line"]["progress"] == vars(FAR)
    assert [run["state"] for run in last["runs"]] == ["done"]


def test_ctrl_c_ends_a_watch_quietly_as_it_ends_other_programs_that_watch(tmp_path):
    out = tmp_path / "said"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "status", str(tmp_path / "out"), "--watch"],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        wait_for(lambda: b"waiting" in out.read_bytes(), what=out.read_bytes)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0
    [line] = out.read_text().splitlines()
    assert line[9:].endswith("/out has no run yet; waiting for one to begin")


def test_status_says_of_a_run_without_a_summary_whether_it_lives_and_how_far_it_is(scene):
    (Path(scene.address)).mkdir()
    scene.say()
    scene.hold()
    alive = CliRunner().invoke(main, ["status", scene.address]).stdout
    assert f"run     {RUN}: is running" in alive
    assert status_line(FAR) in alive
    scene.let_go()
    assert f"run     {RUN}: died" in CliRunner().invoke(main, ["status", scene.address]).stdout


def has(worker: str, *paths: str) -> WorkerInFlight:
    some = [InFlight(split=p, path=p, told=p, fraction=0.5, rows=1) for p in paths]
    return WorkerInFlight(worker=worker, splits=len(paths), some=some)


@pytest.mark.parametrize("height", range(12))
def test_a_screen_of_any_height_is_not_overrun_and_what_is_left_out_is_counted(scene, height):
    with RunRecord(scene.own, RUN) as record:
        some = [has("w1", "a", "b"), has("w2", "c"), has("w3", "d")]
        record.progress(FAR, splits_in_flight=40, in_flight=some)
    scene.hold()
    [view] = scene.watch()
    lines = cli.worker_lines(view.line, most=height)
    assert len(lines) <= max(1, height)
    named = sum(" rows " in line for line in lines)
    assert f"and {40 - named:,} more splits in flight" in lines[-1]
