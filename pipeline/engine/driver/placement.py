"""What a worker asks of the cluster, and how many such the cluster can place. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.job.compute import Compute

# More threads than this gain little on one batch; more workers do.
CPUS_PER_WORKER = 4


@dataclass(frozen=True)
class Shape:
    """What one worker asks for.

    Attributes:
        cpus: Cores, and torch threads.
        gpus: 0 or 1.
    """

    cpus: int
    gpus: int

    @property
    def device(self) -> str:
        """The device that such a worker computes on."""
        return "cuda" if self.gpus else "cpu"

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU" + ("s" if self.cpus > 1 else "")
        return f"{cpus} and 1 GPU" if self.gpus else cpus


Node = Mapping[str, float]


def shape_of(compute: Compute, nodes: Sequence[Node]) -> Shape:
    """What a worker should ask for.

    Args:
        compute: Of the job.
        nodes: The resources of each living node, such as ``{"CPU": 8, "GPU": 1}``.
    """
    on_gpu = compute.device == "cuda" or (
        compute.device == "auto" and any(node.get("GPU", 0) >= 1 for node in nodes)
    )
    fitting = [node for node in nodes if not on_gpu or node.get("GPU", 0) >= 1]
    if compute.cpus_per_worker != "auto":
        return Shape(compute.cpus_per_worker, 1 if on_gpu else 0)
    if on_gpu:
        most = max((int(n.get("CPU", 0) // max(1, n["GPU"])) for n in fitting), default=1)
    else:
        most = max((int(node.get("CPU", 0)) for node in fitting), default=1)
    return Shape(max(1, min(CPUS_PER_WORKER, most)), 1 if on_gpu else 0)


def places(shape: Shape, nodes: Sequence[Node]) -> int:
    """How many workers of a shape fit the nodes when nothing else runs there."""
    total = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) // shape.cpus)
        if shape.gpus:
            fit = min(fit, int(node.get("GPU", 0) // shape.gpus))
        total += fit
    return total


def describe(nodes: Sequence[Node]) -> str:
    """The nodes in words, for messages: ``2 nodes: 8 CPU, 1 GPU | 4 CPU``."""
    texts = []
    for node in nodes:
        parts = [f"{node[key]:g} {key}" for key in ("CPU", "GPU") if node.get(key)]
        texts.append(", ".join(parts) or "no CPU")
    count = f"{len(nodes)} node" + ("" if len(nodes) == 1 else "s")
    return f"{count}: {' | '.join(texts[:8])}{' | …' if len(texts) > 8 else ''}"
