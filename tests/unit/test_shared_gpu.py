"""Workers that share a GPU: what each takes of it. No GPU is needed to tell."""

import pytest
import torch

from pipeline.models.device import GPU_BUDGET, SHARED_MEMORY, Device

pytestmark = pytest.mark.unit


@pytest.fixture
def fractions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, int | None]]:
    """What was asked of torch."""
    asked: list[tuple[float, int | None]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, device=None: asked.append((fraction, device)),
    )
    return asked


@pytest.mark.parametrize(("name", "index"), [("cuda", None), ("cuda:1", 1)])
@pytest.mark.parametrize("sharing", [2, 3, 16])
def test_each_takes_its_part_of_the_memory_and_of_the_budget(
    fractions: list[tuple[float, int | None]], name: str, index: int | None, sharing: int
) -> None:
    device = Device(name, sharing=sharing)
    assert fractions == [(SHARED_MEMORY / sharing, index)]
    assert fractions[0][0] * sharing < 1
    assert device.default_budget == GPU_BUDGET // sharing


def test_one_that_has_it_alone_is_not_held_back(
    fractions: list[tuple[float, int | None]],
) -> None:
    device = Device("cuda")
    assert (fractions, device.default_budget) == ([], GPU_BUDGET)


def test_a_processor_is_not_divided() -> None:
    assert Device("cpu", sharing=4).default_budget == Device("cpu").default_budget
