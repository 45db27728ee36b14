"""What a worker asks of the cluster, and how many such the cluster can place. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.job.compute import Compute

# More threads than this gain little on one batch; more workers do. A GPU's worker has one batch at
# a time and reads, tokenizes and writes beside it: it is given whatever cores there are.
CPUS_PER_WORKER = 4
# Ray counts in steps of this.
RAY_STEPS = 10_000


@dataclass(frozen=True)
class Shape:
    """What one worker asks for.

    Attributes:
        cpus: Cores, and torch threads.
        gpus: 0 or 1.
        sharing: Workers that have that GPU together.
    """

    cpus: int
    gpus: int
    sharing: int = 1

    @property
    def device(self) -> str:
        """The device that such a worker computes on."""
        return "cuda" if self.gpus else "cpu"

    @property
    def num_gpus(self) -> float:
        """What Ray is asked for, rounded down so that as many as share a GPU do fit."""
        return self.gpus * (RAY_STEPS // self.sharing) / RAY_STEPS

    def __str__(self) -> str:
        cpus = f"{self.cpus} CPU" + ("s" if self.cpus > 1 else "")
        if not self.gpus:
            return cpus
        return f"{cpus} and 1 GPU" if self.sharing == 1 else f"{cpus} and 1/{self.sharing} GPU"


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
    if on_gpu:
        return _gpu_shape(compute, nodes)
    if compute.cpus_per_worker != "auto":
        return Shape(compute.cpus_per_worker, 0)
    most = max((int(node.get("CPU", 0)) for node in nodes), default=1)
    return Shape(max(1, min(CPUS_PER_WORKER, most)), 0)


def _gpu_shape(compute: Compute, nodes: Sequence[Node]) -> Shape:
    """The share of cores with which most GPUs have their workers, and of such the largest."""
    sharing = compute.workers_per_gpu
    if compute.cpus_per_worker != "auto":
        return Shape(compute.cpus_per_worker, 1, sharing)
    shares = {
        max(1, int(node.get("CPU", 0) // (int(node["GPU"]) * sharing)))
        for node in nodes
        if node.get("GPU", 0) >= 1
    }
    shapes = [Shape(cpus, 1, sharing) for cpus in shares or {1}]
    return max(shapes, key=lambda shape: (places(shape, nodes), shape.cpus))


def places(shape: Shape, nodes: Sequence[Node]) -> int:
    """How many workers of a shape fit the nodes when nothing else runs there."""
    total = 0
    for node in nodes:
        fit = int(node.get("CPU", 0) // shape.cpus)
        if shape.gpus:
            fit = min(fit, int(node.get("GPU", 0)) * shape.sharing)
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
