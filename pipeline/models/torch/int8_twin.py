"""A model's twin in int8: its layers' linear layers are exchanged, all else is shared.

Which of them are too coarse for it is found by measuring, on texts of the job; those are the
float32 model's own. The embeddings, norms and heads are, too: they are small, and decide.
"""

from __future__ import annotations

import base64
import copy
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.models.torch.int8 import Int8Weights, Shared, int8_layer

# The share of what a layer gives that may be error: those with more stay in float32.
COARSE = 0.08
# Tokens that a layer's error is measured on.
MEASURED_TOKENS = 2048


class Int8Layers:
    """The linear layers of a model in int8.

    Args:
        module: A transformers model in float32, in evaluation mode, before its linear layers are
            laid out; it is only read.
    """

    def __init__(self, module: Any) -> None:
        import torch

        uses = Counter(
            id(part.weight)
            for part in module.modules()
            if isinstance(getattr(part, "weight", None), torch.nn.Parameter)
        )
        self.weights: dict[str, Int8Weights] = {}
        for path, part in module.named_modules():
            if isinstance(part, torch.nn.ModuleList):
                for at, layer in part.named_children():
                    # Of a layer that is computed for one token there is little to gain.
                    if getattr(layer, "for_one_token", False):
                        continue
                    for name, child in layer.named_modules(prefix=f"{path}.{at}"):
                        if (
                            type(child) is torch.nn.Linear
                            and child.weight.dtype == torch.float32
                            and uses[id(child.weight)] == 1
                            and name not in self.weights
                        ):
                            self.weights[name] = Int8Weights.of(child.weight, child.bias)

    def twin(self, module: Any, measured: Any) -> Any:
        """The model with its layers in int8, but for those that are too coarse.

        Args:
            module: The same, ready to infer with; stays as it is.
            measured: By layer, from `measuring`: its error, and what it is off on average, as
                base64 of float32 of shape [out].

        Raises:
            ValueError: It is of other layers.
        """
        if not isinstance(measured, Mapping) or not measured.keys() <= self.weights.keys():
            raise ValueError("what was measured is of another model")
        memo: dict[int, Any] = {id(one): one for one in module.parameters()}
        memo |= {id(one): one for one in module.buffers()}
        memo |= {id(part): part for part in map(module.get_submodule, self.weights)}
        twin = copy.deepcopy(module, memo)
        fine = {path for path, known in measured.items() if known["error"] <= COARSE}
        beside = Counter(path.rpartition(".")[0] for path in fine)
        shared = {parent: Shared(uses) for parent, uses in beside.items()}
        for path in sorted(fine):
            parent, _, name = path.rpartition(".")
            after = getattr(module.get_submodule(path), "after", "none")
            weights = self.weights[path].corrected(_numbers(measured[path]["off"]))
            layer = int8_layer(weights, after=after, shared=shared[parent])
            setattr(twin.get_submodule(parent), name, layer)
        return twin

    @contextmanager
    def measuring(self, module: Any) -> Iterator[dict[str, Any]]:
        """While the block runs, `module` infers; then what `twin` needs is there, by layer.

        A layer's error is that of what it makes of tokens as float32 gives them, as a share of what
        float32 makes of them; the bias is neither's. What it is off on average is corrected, so it
        is no error. A layer that no token went through is not there, and stays in float32.
        """
        sums = {path: _Sums() for path in self.weights}
        found: dict[str, Any] = {}
        lock = threading.Lock()
        hooks = []
        for path, weights in self.weights.items():
            hook = _comparing(weights, sums[path], lock)
            hooks.append(module.get_submodule(path).register_forward_hook(hook))
        try:
            yield found
        finally:
            for one in hooks:
                one.remove()
        found |= {path: known.told() for path, known in sums.items() if known.tokens}


@dataclass
class _Sums:
    """Over the tokens that were compared: of squares of errors and of results, and of errors."""

    tokens: int = 0
    wrong: float = 0.0
    whole: float = 0.0
    off: Any = 0.0

    def told(self) -> dict[str, Any]:
        mean = self.off / self.tokens
        left = self.wrong - self.tokens * float(mean.square().sum())
        # What is no number is no layer to be used.
        error = 1e9
        if math.isfinite(left):
            error = math.sqrt(max(0.0, left) / self.whole) if self.whole > 0 else 0.0
        numbers = base64.b64encode(mean.numpy().astype("<f4").tobytes()).decode()
        return {"error": error, "off": numbers}


def _comparing(weights: Int8Weights, sums: _Sums, lock: threading.Lock) -> Any:
    """A hook that holds int8 to what a layer gives."""
    layer = int8_layer(weights)

    def compare(part: Any, given: tuple[Any, ...], _: Any) -> None:
        with lock:
            x = given[0].reshape(-1, weights.shape[1])[: MEASURED_TOKENS - sums.tokens]
            if not len(x):
                return
            # Another thread may be in the layer: it stays as it is.
            exact = (part.then(x, "none") if hasattr(part, "then") else part.forward(x)).double()
            wrong = layer(x).double().sub_(exact)
            if weights.bias is not None:
                exact = exact - weights.bias
            sums.tokens += len(x)
            sums.wrong += float(wrong.square().sum())
            sums.whole += float(exact.square().sum())
            sums.off = sums.off + wrong.sum(0)

    return compare


def _numbers(text: str) -> Any:
    import torch

    found = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    return torch.from_numpy(found.astype(np.float32))


def measured(models: Mapping[str, Any], infer: Callable[[], None]) -> dict[str, Any]:
    """What models' twins in int8 need to be known, by name.

    Args:
        models: Each with its `Int8Layers` as `int8`.
        infer: Takes texts through all of them.
    """
    with ExitStack() as stack:
        found = {
            name: stack.enter_context(model.int8.measuring(model.module))
            for name, model in models.items()
        }
        infer()
    return found
