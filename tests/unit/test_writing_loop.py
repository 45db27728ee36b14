"""The loop that writes: rows come and go, and each is what `generate` gives for it alone."""

import copy
import gc
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_families
import torch
from helpers import PATIENCE

from pipeline.errors import OutOfMemory, WorkerLost
from pipeline.models.decoding import Decoding, Sampling
from pipeline.models.device import Device
from pipeline.models.families import DECODERS, SLOTTED
from pipeline.models.room import CPU_ROWS, alike, rows_at_once
from pipeline.models.torch.decoder import LEAST_SHARED, shared_beginning
from pipeline.models.torch.generation import TorchGenerator, until_end
from pipeline.models.torch.load import ready
from pipeline.models.torch.loop import Loop
from pipeline.models.torch.rules import Forced, Live
from pipeline.models.torch.steps import WritingRoom

pytestmark = pytest.mark.unit

NEW = 8
CHANCE = np.random.default_rng(0)
COMMON = list(range(20, 20 + LEAST_SHARED + 1))


def text(tokens: int) -> list[int]:
    return [int(token) for token in CHANCE.integers(6, 90, tokens)]


# All begin alike: one goes on with a single token, one is much longer than what is shared.
ALIKE = [np.array(COMMON + text(n)) for n in (1, 5, 30, 2, 17, 9, 1, 8)]
# Of one token, of two, and with nothing in common.
UNLIKE = [np.array(text(n)) for n in (1, 2, 40, 1, 7)]


def generator(
    module: Any, *, budget: int = 64, device: Device | None = None, head: Any = "causal"
) -> TorchGenerator:
    made = tiny_families.tokenizer()
    ours = copy.deepcopy(module)
    device = device or Device("cpu")
    model = ready(ours, made, head=head, device=device, budget=budget, folder=Path("nowhere"))
    return TorchGenerator(model)


def decoder(name: str, **config: Any) -> Any:
    small = tiny_families.config(name)
    # A window that no row is longer than; shorter ones are for `generate`.
    wide = {"sliding_window": 64} if getattr(small, "sliding_window", None) else {}
    return tiny_families.module("causal", name, tiny_families.config(name, **wide, **config))


def expected(module: Any, prompts: Sequence[np.ndarray], new: int = NEW) -> list[tuple[int, ...]]:
    """What transformers writes for each prompt alone."""
    ends = module.generation_config.eos_token_id
    out = []
    for prompt in prompts:
        ids = torch.tensor(prompt)[None]
        mask = torch.ones_like(ids)
        own = {"max_new_tokens": new, "do_sample": False, "num_beams": 1, "pad_token_id": 0}
        row = module.generate(input_ids=ids, attention_mask=mask, **own)[0, len(prompt) :]
        out.append(tuple(until_end(row.tolist(), set(np.atleast_1d(ends)))))
    return out


def written(
    made: TorchGenerator, prompts: Sequence[np.ndarray], **how: Any
) -> list[tuple[int, ...]]:
    found = made.generate(prompts, Decoding(NEW, **how))
    assert found.failures == {}
    return [one.ids for one in found.results if one is not None]


class Known:
    """Some of what rows write does not depend on scores: three tokens of five."""

    def token(self, row: int, step: int) -> int | None:
        return 20 + (7 * row + step) % 50 if (row + step) % 5 > 1 else None

    def __call__(self, live: Live, scores: torch.Tensor) -> torch.Tensor:
        for at, (row, step) in enumerate(zip(live.rows, live.steps, strict=True)):
            if (token := self.token(row, step)) is not None:
                scores[at, token] = torch.inf
        return scores


class Ahead(Known):
    """The same, said as soon as it is known."""

    def ahead(self, live: Live) -> list[list[int]]:
        runs: list[list[int]] = []
        for row, step in zip(live.rows.tolist(), live.steps.tolist(), strict=True):
            runs.append([])
            while step < NEW and (token := self.token(row, step)) is not None:
                runs[-1].append(token)
                step += 1
        return runs


@pytest.mark.parametrize("name", sorted(SLOTTED & set(tiny_families.MAPPINGS["causal"])))
def test_rows_in_slots_are_written_as_generate_writes_each_alone(name: str) -> None:
    module = decoder(name)
    made = generator(module)
    assert made._slots is not None
    assert made._slots.holds(64, Decoding(NEW))
    right = expected(module, ALIKE + UNLIKE)
    assert len(set(right)) > 3
    assert written(made, ALIKE) == right[: len(ALIKE)]
    assert written(made, (ALIKE + UNLIKE)[::-1]) == right[::-1]
    one_by_one, at_once = (generator(module, budget=96) for _ in range(2))
    for made, rule in ((one_by_one, Known()), (at_once, Ahead())):
        made._rules = lambda *_, rule=rule, **__: [rule]
    assert written(at_once, ALIKE + UNLIKE) == written(one_by_one, ALIKE + UNLIKE)


def test_all_families_in_slots_are_decoders_that_are_taken() -> None:
    assert SLOTTED <= DECODERS


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("gemma2", {}),
        ("bloom", {}),
        ("mamba", {}),
        ("jamba", {}),
        ("llama4_text", {}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 9.0}}),
    ],
    ids=str,
)
def test_what_is_not_known_to_be_the_same_is_left_to_generate(
    name: str, config: dict[str, Any]
) -> None:
    made = generator(tiny_families.module("causal", name, tiny_families.config(name, **config)))
    assert made._slots is None


def test_rows_longer_than_a_window_are_left_to_generate() -> None:
    module = tiny_families.module("causal", "mistral", tiny_families.config("mistral"))
    made = generator(module)
    assert made._slots is not None
    assert not made._slots.holds(9, Decoding(NEW))
    assert written(made, ALIKE) == expected(module, ALIKE)


@pytest.mark.parametrize(
    ("asked", "in_slots"),
    [
        ({"repetition_penalty": 4.0}, True),
        ({"no_repeat_ngram_size": 1}, True),
        ({"suppress_tokens": list(range(6, 50))}, True),
        ({"bad_words_ids": [[at] for at in range(50, 90)] + [[30, 31]]}, True),
        ({"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "suppress_tokens": [7]}, True),
        ({"min_new_tokens": NEW}, False),
        ({"forced_eos_token_id": 1}, False),
    ],
    ids=str,
)
def test_what_a_generation_config_asks_for_is_heard(asked: dict[str, Any], in_slots: bool) -> None:
    module = decoder("llama")
    free = written(generator(module), ALIKE + UNLIKE)
    for name, value in asked.items():
        setattr(module.generation_config, name, value)
    made = generator(module)
    assert (made._slots is not None) == in_slots
    found = written(made, ALIKE + UNLIKE)
    assert found == expected(module, ALIKE + UNLIKE)
    assert found != free or asked.keys() <= {"min_new_tokens", "forced_eos_token_id"}


@pytest.mark.parametrize("budget", [1, 4, 16, 4096])
def test_rows_do_not_depend_on_how_many_are_written_at_once(budget: int) -> None:
    module = decoder("llama")
    prompts = [*ALIKE, *UNLIKE]
    assert written(generator(module, budget=budget), prompts) == expected(module, prompts)


def test_drawn_tokens_are_the_same_at_any_width_and_in_slots_as_by_generate() -> None:
    module, how = decoder("llama"), {"sampling": Sampling(temperature=1.5, top_k=40, top_p=0.95)}
    wide = written(generator(module), ALIKE, **how)
    assert written(generator(module, budget=2), ALIKE[::-1], **how)[::-1] == wide
    by_generate = generator(module)
    by_generate._slots = None
    assert written(by_generate, ALIKE, **how) == wide
    assert wide != written(generator(module), ALIKE)


def test_a_prompt_without_tokens_and_one_that_the_model_raises_for_fail_alone() -> None:
    module = decoder("llama")
    prompts = [*ALIKE[:5], np.zeros(0, dtype=np.int64), np.array([5000]), *UNLIKE]
    found = generator(module).generate(prompts, Decoding(NEW))
    assert {row: error.code for row, error in found.failures.items()} == {
        5: "no_tokens",
        6: "model_error",
    }
    good = [at for at in range(len(prompts)) if at not in (5, 6)]
    right = expected(module, [prompts[at] for at in good])
    assert [found.results[at].ids for at in good] == right
    assert generator(module).generate([], Decoding(NEW)).results == []


# The loop alone


class Counting:
    """Writes the row's number plus the step's, over and over; row n ends after `ends[n]` tokens."""

    def __init__(self, ends: Sequence[int], rows: Sequence[int], slots: int) -> None:
        self.ends, self.slots = ends, slots
        self.rows: list[int] = [-1] * slots
        self.wrote: list[int] = [0] * slots
        self.widths: list[int] = []

    def scores(self, slots: Sequence[int]) -> torch.Tensor:
        out = torch.zeros(len(slots), 100)
        for at, slot in enumerate(slots):
            row, step = self.rows[slot], self.wrote[slot]
            out[at, 0 if step >= self.ends[row] else row + step + 1] = 1.0
        return out

    def admit(self, rows: Sequence[int], slots: Sequence[int]) -> torch.Tensor:
        for row, slot in zip(rows, slots, strict=True):
            self.rows[slot], self.wrote[slot] = row, 0
        return self.scores(slots)

    def step(self, tokens: np.ndarray) -> torch.Tensor:
        self.widths.append(len(tokens))
        for slot, token in enumerate(tokens.tolist()):
            assert token == self.rows[slot] + self.wrote[slot] + 1
        for slot in range(len(tokens)):
            self.wrote[slot] += 1
        return self.scores(range(len(tokens)))

    def move(self, source: int, target: int) -> None:
        self.rows[target], self.wrote[target] = self.rows[source], self.wrote[source]


ENDS = [3, 9, 1, 0, 7, 2, 9, 4, 5, 1, 8, 6]


def ran(
    make: Callable[[Sequence[int]], Any], *, room: WritingRoom | None = None, **how: Any
) -> tuple[Loop, list[float]]:
    heard: list[float] = []
    rules = how.pop("rules", [])
    lengths = np.full(len(ENDS), 10)
    loop = Loop(
        lengths,
        most=8,
        ends=[0],
        rules=lambda: rules,
        room=room or WritingRoom(tokens=40, rows=100),
        report=heard.append,
        **how,
    )
    loop.run(lambda: [list(range(len(ENDS)))], make)
    return loop, heard


def check(loop: Loop, heard: Sequence[float], *, failed: Collection[int] = ()) -> None:
    assert set(loop.failures) == set(failed)
    for row, end in enumerate(ENDS):
        if row not in failed:
            right = [row + step + 1 for step in range(min(end, 8))] + [0] * (end < 8)
            assert loop.written[row, : loop.steps[row]].tolist() == right
    assert list(heard) == sorted(heard)
    assert heard[-1] == 1.0


@pytest.mark.parametrize("slots", [1, 3, 5, 100])
def test_rows_take_the_slots_of_those_that_have_ended(slots: int) -> None:
    made: list[Counting] = []

    def make(rows: Sequence[int]) -> Counting:
        made.append(Counting(ENDS, rows, slots))
        return made[-1]

    check(*ran(make))
    (steps,) = made
    assert max(steps.widths) <= slots
    # All but the last rows are written with the slots full, or nearly so.
    if slots == 3:
        assert sum(steps.widths) > 0.75 * 3 * len(steps.widths)


@pytest.mark.parametrize("where", ["admit", "step", "make", "rule"])
def test_out_of_memory_gives_back_rows_and_keeps_what_has_ended(where: str) -> None:
    read: list[int] = []
    full = OutOfMemory("full")

    class Small(Counting):
        def admit(self, rows: Sequence[int], slots: Sequence[int]) -> torch.Tensor:
            if where == "admit" and len(rows) > 1:
                raise torch.OutOfMemoryError("full")
            read.extend(rows)
            return super().admit(rows, slots)

        def step(self, tokens: np.ndarray) -> torch.Tensor:
            if where == "step" and len(tokens) > 2:
                raise torch.OutOfMemoryError("full")
            return super().step(tokens)

    def make(rows: Sequence[int]) -> Small:
        slots = min(room.rows, len(rows), 6)
        if where == "make" and slots > 2:
            raise full
        return Small(ENDS, rows, slots)

    def rule(live: Live, scores: torch.Tensor) -> torch.Tensor:
        if where == "rule" and len(live.rows) > 2:
            raise full
        return scores

    room = WritingRoom(tokens=40, rows=100)
    check(*ran(make, room=room, rules=[rule]))
    # What had ended was not read again.
    assert len(read) <= len(ENDS) + (16 if where == "rule" else 8)
    first = len(read)
    check(*ran(make, room=room, rules=[rule]))
    assert len(read) - first == len(ENDS), "the second call knows what fits"


@pytest.mark.parametrize("where", ["admit", "step", "rule"])
@pytest.mark.parametrize("bad", [{4}, {0, 1, 10}])
def test_a_row_that_raises_fails_alone(where: str, bad: set[int]) -> None:
    class Raising(Counting):
        def admit(self, rows: Sequence[int], slots: Sequence[int]) -> torch.Tensor:
            if where == "admit" and bad & set(rows):
                raise ValueError("no such row")
            return super().admit(rows, slots)

        def step(self, tokens: np.ndarray) -> torch.Tensor:
            if where == "step" and bad & set(self.rows[: len(tokens)]):
                raise ValueError("no such row")
            return super().step(tokens)

    def rule(live: Live, scores: torch.Tensor) -> torch.Tensor:
        if where == "rule" and (bad & set(live.rows[live.steps > 1].tolist())):
            raise ValueError("no such row")
        return scores

    loop, heard = ran(lambda rows: Raising(ENDS, rows, 4), rules=[rule])
    check(loop, heard, failed=bad)
    assert {error.code for error in loop.failures.values()} == {"model_error"}
    assert "no such row" in str(loop.failures[min(bad)])


def test_room_that_another_lane_found_to_be_less_takes_no_row_beyond_the_slots() -> None:
    room, taken = WritingRoom(tokens=40, rows=100), set()

    class Narrowed(Counting):
        def admit(self, rows: Sequence[int], slots: Sequence[int]) -> torch.Tensor:
            taken.update(slots)
            return super().admit(rows, slots)

        def step(self, tokens: np.ndarray) -> torch.Tensor:
            room.rows = 1
            return super().step(tokens)

    check(*ran(lambda rows: Narrowed(ENDS, rows, 3), room=room))
    assert taken == {0, 1, 2}


def test_a_row_too_large_for_the_memory_fails_alone_and_a_broken_device_ends_all() -> None:
    class Full(Counting):
        def admit(self, rows: Sequence[int], slots: Sequence[int]) -> torch.Tensor:
            if 5 in rows:
                raise OutOfMemory("full")
            return super().admit(rows, slots)

    loop, heard = ran(lambda rows: Full(ENDS, rows, 4))
    check(loop, heard, failed=[5])
    assert loop.failures[5].code == "out_of_memory"

    class Broken(Counting):
        def step(self, tokens: np.ndarray) -> torch.Tensor:
            raise WorkerLost("the device is broken")

    with pytest.raises(WorkerLost):
        ran(lambda rows: Broken(ENDS, rows, 4))


def test_rows_end_within_what_is_known_ahead_and_go_on_behind_it() -> None:
    runs: list[tuple[list[int], list[int]]] = []

    class Runs(Counting):
        def step(self, tokens: np.ndarray, counts: np.ndarray | None = None) -> torch.Tensor:
            assert counts is not None
            runs.append((tokens.tolist(), counts.tolist()))
            for slot, count in enumerate(counts.tolist()):
                self.wrote[slot] += count
            return self.scores(range(len(counts)))

    class Three:
        """Two more behind each token, as the module would write them; the end after `ENDS`."""

        def __call__(self, live: Live, scores: torch.Tensor) -> torch.Tensor:
            return scores

        def ahead(self, live: Live) -> list[list[int]]:
            assert (live.steps < np.minimum(8, [ENDS[row] + 1 for row in live.rows])).all()
            found = []
            for row, step in zip(live.rows.tolist(), live.steps.tolist(), strict=True):
                left = range(step, min(step + 2, 8, ENDS[row] + 1))
                found.append([0 if at == ENDS[row] else row + at + 1 for at in left])
            return found

    loop, heard = ran(lambda rows: Runs(ENDS, rows, 4), rules=[Three()])
    check(loop, heard)
    assert all(set(counts) == {3} and len(tokens) == sum(counts) for tokens, counts in runs)


def test_stops_end_rows_and_a_forced_token_comes_first() -> None:
    def stops(live: Live) -> np.ndarray:
        return np.asarray(live.last == live.rows + 3)

    loop, _ = ran(lambda rows: Counting(ENDS, rows, 4), stops=stops)
    assert [row for row, end in enumerate(ENDS) if end >= 3] == np.flatnonzero(
        loop.stopped
    ).tolist()
    assert set(loop.steps[loop.stopped]) == {3}
    live = Live(np.arange(3), np.array([1, 0, 2]), np.zeros((3, 4), dtype=np.int64))
    scores = Forced(7)(live, torch.eye(3, 9))
    assert scores.argmax(-1).tolist() == [0, 7, 2]


# Lanes


def in_lanes(count: int, loop: Loop, make: Callable[[Sequence[int]], Any]) -> list[Exception]:
    """Runs a loop in so many threads; what they raised."""
    raised: list[Exception] = []

    def lane() -> None:
        try:
            loop.run(lambda: [list(range(7)), list(range(7, len(ENDS)))], make)
        except Exception as error:
            raised.append(error)

    threads = [threading.Thread(target=lane) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    return raised


def lanes_loop(heard: list[float], *, room: int = 100) -> Loop:
    return Loop(
        np.full(len(ENDS), 10),
        most=8,
        ends=[0],
        rules=list,
        room=WritingRoom(tokens=40, rows=room),
        report=heard.append,
    )


@pytest.mark.parametrize("lanes", [2, 3, 8])
@pytest.mark.parametrize("bad", [set(), {4}, {0, 1, 10}, set(range(len(ENDS)))], ids=str)
def test_lanes_write_each_row_once_and_a_bad_one_fails_alone(lanes: int, bad: set[int]) -> None:
    heard: list[float] = []

    class Raising(Counting):
        def step(self, tokens: np.ndarray) -> torch.Tensor:
            time.sleep(0.0005)  # so that the other lanes come in
            if bad & set(self.rows[: len(tokens)]):
                raise ValueError("no such row")
            return super().step(tokens)

    loop = lanes_loop(heard)
    assert in_lanes(lanes, loop, lambda rows: Raising(ENDS, rows, 2)) == []
    # Rows that end with their first token are never in a step.
    check(loop, heard, failed=bad - {3})
    assert {error.code for error in loop.failures.values()} <= {"model_error"}


@pytest.mark.parametrize("where", ["make", "admit", "step"])
def test_a_lane_without_memory_leaves_its_rows_to_the_others(where: str) -> None:
    heard: list[float] = []
    once = threading.Lock()  # all the memory that there is

    class Greedy(Counting):
        mine = False

        def admit(self, rows: Sequence[int], slots: Sequence[int]) -> torch.Tensor:
            if where == "admit":
                self.take()
            return super().admit(rows, slots)

        def step(self, tokens: np.ndarray) -> torch.Tensor:
            time.sleep(0.0005)
            if where == "step":
                self.take()
            return super().step(tokens)

        def take(self) -> None:
            if not self.mine and not once.acquire(blocking=False):
                gc.collect()  # of those who have ended, what a traceback holds
                if not once.acquire(blocking=False):
                    raise OutOfMemory("full")
            self.mine = True

        def __del__(self) -> None:
            if self.mine:
                once.release()

    def make(rows: Sequence[int]) -> Greedy:
        made = Greedy(ENDS, rows, 3)
        if where == "make":
            made.take()
        return made

    loop = lanes_loop(heard, room=3)
    assert in_lanes(3, loop, make) == []
    check(loop, heard)


def test_what_no_halving_heals_ends_all_lanes() -> None:
    first = threading.Event()

    class Broken(Counting):
        def step(self, tokens: np.ndarray) -> torch.Tensor:
            if not first.is_set():
                first.set()
                raise WorkerLost("the device is broken")
            time.sleep(0.0005)
            return self.scores(range(len(tokens)))  # it would never end

    raised = in_lanes(3, lanes_loop([]), lambda rows: Broken(ENDS, rows, 2))
    assert [str(error) for error in raised] == ["the device is broken"]


@pytest.mark.parametrize("name", ["llama", "bart", "t5"])
def test_rows_are_the_same_in_lanes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    device = Device("cpu")
    monkeypatch.undo()
    assert device.lanes == 3
    if name == "llama":
        module = decoder(name)
        right = expected(module, ALIKE + UNLIKE)
    else:
        module = tiny_families.module("seq2seq", name, tiny_families.config(name))
        module.generation_config.decoder_start_token_id = 1
        right = []
    kind = "causal" if name == "llama" else "seq2seq"
    made = generator(module, device=device, head=kind)
    assert made._slots is not None
    assert made._lanes(len(ALIKE + UNLIKE)) == 3
    alone = generator(module, head=kind)
    right = right or [written(alone, [prompt])[0] for prompt in ALIKE + UNLIKE]
    for how in ({}, {"sampling": Sampling(temperature=1.5)}):
        if how:
            right = [written(alone, [prompt], **how)[0] for prompt in ALIKE + UNLIKE]
        heard: list[float] = []
        before = device.tokens
        with device.reporting(heard.append):
            assert written(made, ALIKE + UNLIKE, **how) == right
        assert heard == sorted(heard)
        assert heard[-1] == 1.0
        assert device.tokens - before == sum(map(len, ALIKE + UNLIKE))


# Room


def test_what_is_shared_leaves_each_prompt_a_token() -> None:
    def length(*prompts: list[int]) -> int:
        return shared_beginning([np.array(prompt) for prompt in prompts])

    assert length([1, 2, 3], [1, 2, 4], [1, 2, 3, 5]) == 2
    assert length([1, 2, 3], [1, 2, 3]) == 2
    assert length([1], [1, 2]) == 0
    assert length([5, 1], [6, 1]) == 0


def test_as_many_rows_are_written_at_once_as_memory_and_budget_hold() -> None:
    how: Any = {"token_bytes": 1000, "budget": 10**9, "on_gpu": False}
    assert rows_at_once(100, free=32 * 10 * 100_000, **how) == 10
    assert rows_at_once(100, free=1, **how) == 1
    assert rows_at_once(100, free=10**15, **how) == CPU_ROWS
    assert rows_at_once(100, free=10**15, **how | {"budget": 500}) == 5
    assert rows_at_once(100, free=10**6, **how | {"on_gpu": True}) == 7


def test_rows_of_about_one_length_are_written_together_and_no_fewer_than_fit() -> None:
    capacities = np.array([100, 30, 95, 29, 81, 79, 28])
    assert alike(capacities, np.full(7, 2)) == [[0, 2, 4], [5, 1], [3, 6]]
    assert alike(capacities, np.full(7, 50)) == [[0, 2, 4, 5, 1, 3, 6]]
    assert alike(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)) == []


def test_freed_memory_is_kept_for_what_comes_next() -> None:
    code = (
        "import numpy as np\n"
        "from pathlib import Path\n"
        "from pipeline.models.room import keep_freed\n"
        "def pages():\n"
        "    for _ in range(5):\n"
        "        made = [np.ones(20 * 2**17) for _ in range(3)]\n"
        "        del made\n"
        "    return int(Path('/proc/self/stat').read_text().split()[9])\n"
        "kept = keep_freed()\n"
        "faults = pages()\n"
        "assert not kept or pages() < faults + 100\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
