"""A model's twin in int8: its layers' linear layers are exchanged, all else is shared.

Which of them are too coarse for it is found by measuring, on texts of the job; those are the
float32 model's own. The embeddings, norms and heads are, too: they are small, and decide.
"""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from pipeline.models.torch.int8 import Int8Weights, Together, int8_layer
from pipeline.models.torch.int8_measured import GivenTokens, layers_measured, numbers_of, plain

# The share of what a layer gives that may be error: those with more stay in float32.
COARSE = 0.08


class Int8Layers:
    """The linear layers of a model in int8.

    Args:
        module: A transformers model in float32, in evaluation mode, before its linear layers are
            laid out; it is only read.

    Attributes:
        paths: Where they are.
    """

    def __init__(self, module: Any) -> None:
        import torch

        uses = Counter(
            id(part.weight)
            for part in module.modules()
            if isinstance(getattr(part, "weight", None), torch.nn.Parameter)
        )
        found: dict[str, None] = {}
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
                        ):
                            found[name] = None
        self.paths = tuple(found)

    def twin(self, module: Any, measured: Any) -> Any:
        """The model with its layers in int8, but for those that are too coarse.

        Args:
            module: The same, ready to infer with; stays as it is.
            measured: By layer, from `measuring`: its error; whether its tokens need no sign; as
                base64 of float32, what it is off on average, of shape [out], and what its tokens
                are multiplied by, of shape [in], empty for 1; and the first of the layers that its
                tokens are also given to.

        Raises:
            ValueError: It is of other layers.
        """
        if not isinstance(measured, Mapping) or not measured.keys() <= set(self.paths):
            raise ValueError("what was measured is of another model")
        memo: dict[int, Any] = {id(one): one for one in module.parameters()}
        memo |= {id(one): one for one in module.buffers()}
        memo |= {id(part): part for part in map(module.get_submodule, self.paths)}
        twin = copy.deepcopy(module, memo)
        groups = defaultdict(list)
        for path in self.paths:
            if path in measured and measured[path]["error"] <= COARSE:
                groups[measured[path]["first"]].append(path)
        for paths in groups.values():
            parts = [module.get_submodule(path) for path in paths]
            weights = _together(parts, [measured[path] for path in paths])
            after = getattr(parts[0], "after", "none")
            beside = None
            if len(parts) > 1:
                beside = Together(weights, [part.out_features for part in parts])
            for at, path in enumerate(paths):
                parent, _, name = path.rpartition(".")
                place = None if beside is None else (beside, at)
                layer = int8_layer(weights, after=after, beside=place)
                setattr(twin.get_submodule(parent), name, layer)
        return twin

    @contextmanager
    def measuring(self, module: Any) -> Iterator[dict[str, Any]]:
        """While the block runs, `module` infers; then what `twin` needs is there, by layer.

        A layer's error is that of what it makes of tokens as float32 gives them, as a share of what
        float32 makes of them; the bias is neither's. What it is off on average is corrected, so it
        is no error. A layer that no token went through is not there, and stays in float32.
        """
        import torch

        seen = GivenTokens()
        found: dict[str, Any] = {}
        hooks = [
            module.get_submodule(path).register_forward_hook(seen.hook(path)) for path in self.paths
        ]
        try:
            yield found
        finally:
            for one in hooks:
                one.remove()
        with torch.inference_mode():
            for first, tokens in seen.tokens.items():
                paths = [path for path in self.paths if seen.first.get(path) == first]
                parts = [module.get_submodule(path) for path in paths]
                for path, known in zip(paths, layers_measured(parts, tokens), strict=True):
                    found[path] = {"first": first, **known}


def _together(parts: Sequence[Any], known: Sequence[Mapping[str, Any]]) -> Int8Weights:
    """Layers that are given the same as one in int8, less what each is off on average."""
    import torch

    biases = []
    for part, one in zip(parts, known, strict=True):
        off = numbers_of(one["off"])
        if len(off) != part.out_features:
            raise ValueError(f"{len(off)} corrections for {part.out_features} numbers")
        biases.append(-off if part.bias is None else part.bias - off)
    weight = torch.cat([plain(part) for part in parts])
    smooth = numbers_of(known[0]["smooth"]) if known[0]["smooth"] else None
    if smooth is not None and len(smooth) != weight.shape[1]:
        raise ValueError(f"{len(smooth)} factors for {weight.shape[1]} numbers")
    return Int8Weights.of(weight, torch.cat(biases), smooth=smooth, lift=known[0]["lift"])


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
