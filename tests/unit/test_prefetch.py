"""Reading ahead: the same items in the same order, one ahead, and no thread left behind."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest
from helpers import PATIENCE

from pipeline.engine.worker.prefetch import prefetch

pytestmark = pytest.mark.unit


def readers() -> int:
    return sum(thread.name == "read ahead" for thread in threading.enumerate())


def test_items_come_in_order_and_all() -> None:
    assert list(prefetch(iter(range(100)))) == list(range(100))
    assert list(prefetch(iter(()))) == []
    assert readers() == 0


def test_the_next_item_is_made_while_one_is_used_and_no_more_than_that() -> None:
    taken, ahead_by = 0, []
    third = threading.Event()

    def items() -> Iterator[int]:
        for number in range(20):
            ahead_by.append(number - taken)
            if number == 2:
                third.set()
            yield number

    with closing(prefetch(items())) as ahead:
        assert next(ahead) == 0
        # Beside the one in use, one that waits and one that can't be handed over yet.
        assert third.wait(PATIENCE)
        for number in range(1, 20):
            taken = number
            assert next(ahead) == number
    assert max(ahead_by) <= 2


def test_an_error_while_reading_comes_where_the_items_are_used() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk is gone")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(OSError, match="the disk is gone"):
        next(ahead)
    assert readers() == 0


def test_who_stops_early_leaves_no_thread_and_closes_what_is_read() -> None:
    closed = threading.Event()

    def items() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    with closing(prefetch(items())) as ahead:
        assert next(ahead) == 0
    assert closed.is_set()
    assert readers() == 0
