"""Who stands still and who only waits: signs of life, and what is made of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from helpers import PATIENCE, wait_for
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine.driver.stillness import LONGEST_LOOK, Stillness, WatchedTime
from pipeline.models.device import Device
from pipeline.models.torch.watch import watch
from pipeline.moves import Moves, line, moved, working

pytestmark = pytest.mark.unit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def judged(signs: list[Any], *, limit: float, every: float = 1.0) -> list[bool]:
    """Whether a line stands still, one look a second, given its sign at each."""
    still = Stillness()
    still.start("s", 0, limit=limit)
    out = []
    for second, sign in enumerate(signs):
        still.hear({"s": sign}, second * every)
        out.append(still.judge(second * every) is not None)
    return out


def test_a_line_that_shows_nothing_new_stands_still_after_the_limit() -> None:
    assert judged([(0, 0, 0)] * 7, limit=5) == [False] * 6 + [True]


@given(st.integers(0, 2), st.integers(1, 40))
def test_whatever_part_of_the_sign_changes_the_line_moves(part: int, seconds: int) -> None:
    signs = [tuple(second if at == part else 7 for at in range(3)) for second in range(seconds)]
    assert not any(judged(signs, limit=2))


def test_one_line_that_stands_still_is_seen_whatever_the_other_does() -> None:
    still = Stillness()
    still.start("moves", 0, limit=3)
    still.start("hangs", 0, limit=3)
    for second in range(5):
        still.hear({"moves": (second, 0, 0), "hangs": (1, 0, 0)}, second)
        found = still.judge(second)
    assert found == 3


def test_a_line_that_has_ended_is_not_judged() -> None:
    still = Stillness()
    still.start("s", 0, limit=1)
    still.end("s")
    assert still.judge(50) is None
    still.hear({"s": (1, 0, 0)}, 50)
    assert still.judge(100) is None


def test_a_line_is_judged_from_its_own_start() -> None:
    still = Stillness()
    still.start("s", 1000, limit=5)
    assert still.judge(1005) is None
    assert still.judge(1006) == 5


def test_time_in_which_the_driver_did_not_look_is_no_proof() -> None:
    time = WatchedTime()
    still = Stillness()
    still.start("s", time.look(7), limit=4 * LONGEST_LOOK)
    assert still.judge(time.look(3600)) is None, "one look after an hour"
    assert time.seconds == LONGEST_LOOK
    assert still.judge(time.look(3600 + LONGEST_LOOK)) is None
    for look in range(2, 5):
        found = still.judge(time.look(3600 + look * LONGEST_LOOK))
    assert found == 4 * LONGEST_LOOK


@contextmanager
def in_another_thread(work: Any) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield thread
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_who_waits_for_the_device_moves_with_who_holds_it() -> None:
    device = Device("cpu")
    holder, waiter = Moves(), Moves()
    waits = threading.Event()

    def work() -> None:
        with working(waiter):
            waits.set()
            with device.hold():
                pass

    with working(holder), device.hold():
        with in_another_thread(work):
            waits.wait(PATIENCE)
            wait_for(lambda: waiter._waiting)  # it is between the event and the lock
            first = waiter.sign(device.moves)
            assert waiter.sign(device.moves) == first, "the holder stands still, so it does too"
            device.moved()
            assert waiter.sign(device.moves) != first
            with device._changed:
                device._free += device.lanes
                device._changed.notify_all()
        with device._changed:
            device._free -= device.lanes


def test_who_hangs_without_waiting_does_not_move_with_the_device() -> None:
    device = Device("cpu")
    hangs, works = Moves(), Moves()
    before = hangs.sign(device.moves)
    for _ in range(5):
        with working(works), device.hold():
            device.moved()
    assert hangs.sign(device.moves) == before


def test_batches_side_by_side_move_the_line_that_started_them() -> None:
    device, mine = Device("cpu"), Moves()
    seen: list[bool] = []

    def work() -> None:
        with device.hold(lanes=1):
            seen.append(line() is mine)

    with working(mine):
        device.side_by_side(work, lanes=device.lanes)
    assert seen == [True] * device.lanes
    assert mine.count > 0


def test_a_long_forward_moves_with_each_of_its_layers() -> None:
    """A prefill is one forward, and may last longer than a worker may stand still."""

    class Stack(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(5))

        def forward(self, given: Any) -> Any:
            for layer in self.layers:
                given = layer(given)
                counts.append(mine.count)
            return given

    device, mine, counts = Device("cpu"), Moves(), []  # type: ignore[var-annotated]
    stack = Stack()
    plain = stack(torch.ones(1, 2))
    counts.clear()
    watch(stack, device)
    with working(mine), device.hold():
        assert torch.equal(stack(torch.ones(1, 2)), plain)
    assert len(counts) == len(set(counts)) == 5


def test_an_upload_is_vouched_for_as_long_as_its_bytes_may_need() -> None:
    clock = Clock()
    mine = Moves(clock)
    mine.vouch(1000)
    signs = []
    for _ in range(1100):
        clock.now += 1
        signs.append(mine.sign(Moves()))
    still = judged(signs, limit=60)
    assert still.index(True) == pytest.approx(1060, abs=2)


def test_who_works_for_no_line_moves_none() -> None:
    mine = Moves()
    moved()
    with working(mine):
        moved()
        with working(Moves()):
            moved()
    moved()
    assert mine.count == 1
