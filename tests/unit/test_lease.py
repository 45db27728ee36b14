"""One run at a time on an output: who gets the lease, who keeps it, who lets it go."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, wait_for

from pipeline.engine.driver import lease as leases
from pipeline.engine.driver.lease import PATH, Lease
from pipeline.errors import Interrupted, OutputBusy
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.process import token

pytestmark = pytest.mark.unit

SHORT = 0.3  # renewed every 0.1 s


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(str(tmp_path / "out"))


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LOOK_EVERY", 0.02)
    monkeypatch.setattr(leases, "WATCH", 0.2)


@pytest.fixture(scope="module")
def alive() -> Iterator[int]:
    """The number of another process that lives."""
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    )
    yield process.pid
    process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(timeout=PATIENCE)
    return process.pid


def held(store: LocalStore) -> dict[str, Any]:
    raw = store.read(PATH)
    assert raw is not None
    found: dict[str, Any] = json.loads(raw)
    return found


def leave(store: LocalStore, **fields: Any) -> None:
    """What another run has written and not taken away."""
    content = {
        "run": "other",
        "host": "elsewhere",
        "pid": 7,
        "process": "elsewhere.7",
        "expires": time.time() + 60,
        **fields,
    }
    store.put(PATH, json.dumps(content).encode())


def test_a_lease_says_who_holds_the_output_and_goes_when_it_ends(store: LocalStore) -> None:
    before = time.time()
    with Lease(store, "one"):
        lease = held(store)
        assert (lease["run"], lease["host"], lease["pid"]) == (
            "one", socket.gethostname(), os.getpid(),
        )  # fmt: skip
        assert before <= lease["expires"] - leases.SECONDS <= time.time()
    assert store.read(PATH) is None


def test_a_lease_goes_when_the_run_raises(store: LocalStore) -> None:
    with pytest.raises(KeyboardInterrupt), Lease(store, "one"):
        raise KeyboardInterrupt
    assert store.read(PATH) is None


def test_a_second_run_is_kept_out_and_told_who_holds_the_output(store: LocalStore) -> None:
    with Lease(store, "one"):
        before = store.read(PATH)
        with pytest.raises(OutputBusy) as caught, Lease(store, "two"):
            raise AssertionError("unreachable")
        told = str(caught.value)
        assert f"run one on {socket.gethostname()} (process {os.getpid()}) holds" in told
        assert store.root in told
        assert "--wait" in told
        assert caught.value.exit_code == 4
        assert store.read(PATH) == before
    with Lease(store, "two"):
        assert held(store)["run"] == "two"


def test_a_run_that_waits_says_so_and_gets_the_output_when_it_is_free(store: LocalStore) -> None:
    notices: list[str] = []
    first = Lease(store, "one").__enter__()

    def end_the_first(notice: str) -> None:
        notices.append(notice)
        assert held(store)["run"] == "one"
        first.__exit__(None, None, None)

    with Lease(store, "two", wait=True, notice=end_the_first):
        assert held(store)["run"] == "two"
    (notice,) = notices
    assert notice.startswith("waiting: run one on ")


def test_a_run_that_waits_says_so_again_from_time_to_time(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "SAY_EVERY", 0.05)
    notices: list[str] = []
    leave(store)

    def hear(notice: str) -> None:
        notices.append(notice)
        if len(notices) == 3:
            store.delete(PATH)

    with Lease(store, "two", wait=True, notice=hear):
        assert held(store)["run"] == "two"
    assert len(notices) == 3


def test_of_several_runs_that_wait_one_at_a_time_holds_the_output(store: LocalStore) -> None:
    inside: list[str] = []
    together: list[list[str]] = []

    def work(run: str) -> None:
        with Lease(store, run, wait=True):
            inside.append(run)
            time.sleep(0.03)  # so that another could come in
            together.append(list(inside))
            inside.remove(run)

    threads = [threading.Thread(target=work, args=(f"run {i}",)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE)
    assert len(together) == 5
    assert all(len(runs) == 1 for runs in together)
    assert store.read(PATH) is None


def test_an_expired_lease_of_another_machine_is_taken_over(store: LocalStore) -> None:
    leave(store, expires=time.time() - 0.1)
    with Lease(store, "two"):
        assert held(store)["run"] == "two"


def test_a_lease_of_another_machine_that_is_still_good_is_respected(store: LocalStore) -> None:
    # Nothing is known of processes there, not even if one of the same number runs here.
    leave(store, pid=os.getpid())
    with pytest.raises(OutputBusy, match=r"run other on elsewhere"), Lease(store, "two"):
        pass
    assert held(store)["run"] == "other"


def test_a_lease_of_a_living_process_of_this_machine_is_respected(
    store: LocalStore, alive: int
) -> None:
    leave(store, host=socket.gethostname(), pid=alive, process=token(alive))
    with pytest.raises(OutputBusy, match=f"process {alive}"), Lease(store, "two"):
        pass


def test_a_lease_of_a_dead_process_of_this_machine_is_taken_over_at_once(
    store: LocalStore, dead: int
) -> None:
    leave(store, host=socket.gethostname(), pid=dead, process="12345678.99")
    with Lease(store, "two"):
        assert held(store)["run"] == "two"


def test_a_process_that_got_a_dead_ones_number_does_not_keep_its_lease(
    store: LocalStore, alive: int
) -> None:
    boot, _, start = token(alive).rpartition(".")
    leave(store, host=socket.gethostname(), pid=alive, process=f"{boot}.{int(start) - 1}")
    with Lease(store, "two"):
        assert held(store)["run"] == "two"


def test_a_killed_run_does_not_keep_its_lease(store: LocalStore) -> None:
    program = (
        "import os, signal, sys\n"
        "from pipeline.engine.driver.lease import Lease\n"
        "from pipeline.lake.store.local import LocalStore\n"
        "Lease(LocalStore(sys.argv[1]), 'killed').__enter__()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, store.root], cwd=root, timeout=PATIENCE)
    assert held(store)["run"] == "killed"
    with Lease(store, "two"):
        assert held(store)["run"] == "two"


def test_a_lease_is_renewed_while_the_run_lives(store: LocalStore) -> None:
    with Lease(store, "one", seconds=SHORT) as lease:
        first = held(store)["expires"]
        wait_for(lambda: held(store)["expires"] > first + SHORT)
        with pytest.raises(OutputBusy), Lease(store, "two"):
            pass
        assert lease.lost is None


def test_a_deleted_lease_is_made_anew_by_its_holder(store: LocalStore) -> None:
    with Lease(store, "one", seconds=SHORT) as lease:
        store.delete(PATH)
        wait_for(lambda: store.read(PATH) is not None)
        assert held(store)["run"] == "one"
        assert lease.lost is None


def test_a_run_whose_lease_was_taken_over_knows_it_and_leaves_the_other_alone(
    store: LocalStore,
) -> None:
    with Lease(store, "one", seconds=SHORT) as lease:
        leave(store)
        wait_for(lambda: lease.lost is not None)
        assert "run other on elsewhere" in str(lease.lost)
        assert lease.lost is not None
        assert lease.lost.exit_code == 4
    assert held(store)["run"] == "other"


def test_a_store_that_is_away_for_a_moment_does_not_end_the_run(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Lease(store, "one", seconds=SHORT) as lease:
        calls = []

        def away(*_: Any) -> None:
            calls.append(1)
            raise OSError("the disk is gone")

        with monkeypatch.context() as patch:
            patch.setattr(store, "read", away)
            wait_for(lambda: len(calls) > 1)
        assert lease.lost is None
        before = held(store)["expires"]
        wait_for(lambda: held(store)["expires"] > before)
    assert store.read(PATH) is None


GARBAGE = {
    "empty": b"",
    "half": b'{"run": "oth',
    "binary": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a word": b'"lease"',
    "no fields": b"{}",
    "expires is a word": b'{"run": "other", "expires": "soon"}',
    "expires is null": b'{"run": "other", "expires": null}',
    "expires is endless": b'{"run": "other", "host": "elsewhere", "expires": Infinity}',
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_lease_file_that_makes_no_sense_is_taken_for_over(
    store: LocalStore, content: bytes
) -> None:
    store.put(PATH, content)
    with Lease(store, "two"):
        assert held(store)["run"] == "two"
    assert store.read(PATH) is None


def test_a_process_number_that_is_none_is_taken_for_over(store: LocalStore) -> None:
    leave(store, host=socket.gethostname(), pid="seven")
    with Lease(store, "two"):
        assert held(store)["run"] == "two"


def test_a_holder_whose_lease_file_was_spoiled_writes_it_again(store: LocalStore) -> None:
    with Lease(store, "one", seconds=SHORT) as lease:
        store.put(PATH, b"spoiled")
        wait_for(lambda: b"one" in (store.read(PATH) or b""))
        assert lease.lost is None
    assert store.read(PATH) is None


def test_a_living_process_of_this_machine_is_never_taken_for_dead_because_of_a_clock(
    store: LocalStore, alive: int
) -> None:
    for expires in (time.time() - 61, time.time() - 86_400 * 9, 0.0, time.time() + 86_400 * 9):
        process = {"host": socket.gethostname(), "pid": alive, "process": token(alive)}
        leave(store, **process, expires=expires)
        with pytest.raises(OutputBusy, match=f"process {alive}"), Lease(store, "two"):
            pass


def test_a_lease_that_a_clock_ahead_calls_expired_is_respected_as_it_is_renewed(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "WATCH", 5.0)
    leave(store, expires=time.time() - 1)
    # The holder renews it while it is watched; by this machine's clock it goes on being expired.
    renewing = threading.Timer(0.1, leave, (store,), {"expires": time.time() - 0.5, "pid": 8})
    renewing.start()
    looked = threading.Event()
    ended = threading.Event()
    lease = Lease(
        store, "two", wait=True, notice=lambda text: looked.set(), stop=lambda: ended.is_set()
    )
    ends: list[type[Exception]] = []

    def take() -> None:
        try:
            lease.take()
        except Interrupted:
            ends.append(Interrupted)

    taker = threading.Thread(target=take)
    taker.start()
    assert looked.wait(PATIENCE)
    renewing.join()
    wait_for(lambda: lease._watched is not None and b'"pid": 8' in lease._watched[0])
    assert held(store)["run"] == "other"
    ended.set()
    taker.join(timeout=PATIENCE)
    assert ends == [Interrupted]


def test_of_several_that_take_an_expired_lease_one_gets_it(store: LocalStore) -> None:
    for round_ in range(10):
        leave(store, expires=time.time() - 3600)
        ready = threading.Barrier(8)
        got: list[str] = []

        def take(run: str, ready: threading.Barrier = ready, got: list[str] = got) -> None:
            ready.wait()
            try:
                Lease(store, run).take()
            except OutputBusy:
                return
            got.append(run)

        threads = [threading.Thread(target=take, args=(f"{round_}.{i}",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=PATIENCE)
        assert got == [held(store)["run"]]


def test_a_swap_needs_the_content_that_was_read(store: LocalStore) -> None:
    assert not store.swap("x", b"one", b"two")
    store.put("x", b"one")
    assert store.swap("x", b"one", b"two")
    assert not store.swap("x", b"one", b"three")
    assert store.read("x") == b"two"
