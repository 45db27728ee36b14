"""Layers that stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pipeline.errors import JobError
from pipeline.learn.train.job import FreezeAllBut


def freeze(module: Any, what: FreezeAllBut | Sequence[str] | None) -> list[Any]:
    """Freezes parameters of a model in place.

    Args:
        module: Of transformers, with a head.
        what: As the job says.

    Returns:
        The outermost modules of which everything is frozen: to be computed as they will be when
        the model is used, without dropout.

    Raises:
        JobError: There are no such layers, or nothing is left to learn.
    """
    names = [name for name, _ in module.named_parameters()]
    if what is None:
        return []
    frozen = (
        set(names[: _frozen_until(module, what.all_but_last)])
        if isinstance(what, FreezeAllBut)
        else _matching(names, what)
    )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name not in frozen)
    if len(frozen) == len(names):
        raise JobError("train.freeze leaves nothing to learn", hint="Freeze fewer layers")
    return list(_whole(module))


def _matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    frozen = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            some = ", ".join(names[:: max(1, len(names) // 4)])
            raise JobError(
                f"train.freeze: the pattern `{pattern}` matches none of the model's "
                f"{len(names)} parameters, such as {some}",
                hint="Write * for any part of a name, as in '*.embeddings.*'",
            )
        frozen |= found
    return frozen


def layers_of(module: Any) -> tuple[str, Any]:
    """The stack of layers that a model ends with, and its name: of the longest ones the last.

    Raises:
        JobError: It has none.
    """
    from torch.nn import ModuleList

    stacks: list[tuple[str, Any]] = []
    for name, inner in module.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in stacks)
        if isinstance(inner, ModuleList) and len(inner) and not inside:
            stacks.append((name, inner))
    if not stacks:
        raise JobError(
            "train.freeze: this model has no stack of layers to count",
            hint="Name its parameters by patterns instead",
        )
    longest = max(len(stack) for _, stack in stacks)
    return [(name, stack) for name, stack in stacks if len(stack) == longest][-1]


def _frozen_until(module: Any, trained: int) -> int:
    """How many parameters come before the first that is trained, in the order of the model."""
    name, stack = layers_of(module)
    if trained > len(stack):
        raise JobError(
            f"train.freeze.all_but_last is {trained}, and the model has {len(stack)} layers",
            hint="Write fewer, or leave train.freeze out",
        )
    names = [parameter for parameter, _ in module.named_parameters()]
    last = len(stack) - trained - 1
    # Embeddings come first, then the layers, one after the other, then a pooler and the head.
    before = f"{name}.{last}." if last >= 0 else f"{name}.0."
    at = [place for place, parameter in enumerate(names) if parameter.startswith(before)]
    return at[-1] + 1 if last >= 0 else at[0]


def _whole(module: Any) -> Any:
    """The outermost modules of which all parameters are frozen."""
    given = list(module.parameters())
    if given and not any(parameter.requires_grad for parameter in given):
        yield module
        return
    for child in module.children():
        yield from _whole(child)
