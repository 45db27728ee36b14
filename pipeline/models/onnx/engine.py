"""onnxruntime as an engine: what it can compute, told without it."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from pipeline.errors import JobError, one_line
from pipeline.models.device import Device
from pipeline.models.families import COUNTED_FROM_PADDING
from pipeline.models.heads import HeadName, Models
from pipeline.models.onnx.files import EXPORT, ONNX_FILE, whole_graph
from pipeline.models.onnx.load import OnnxModels
from pipeline.models.onnx.ports import OUTPUTS, POSITIONS, Ports
from pipeline.models.resolve import ModelInfo
from pipeline.models.sentence_files import width
from pipeline.models.weights import Weights

LEAVE = "Leave compute.engine at torch"


class OnnxEngine:
    """Classifiers, token classifiers and encoders whose folder holds an ONNX file."""

    weights: Weights = ONNX_FILE

    def check(self, info: ModelInfo, *, head: HeadName, adapter: ModelInfo | None) -> None:
        """Refuses what it can't compute, or not rightly.

        Raises:
            JobError: Naming the model.
        """
        if head not in OUTPUTS:
            raise JobError(
                f"compute.engine: onnxruntime does not compute models for {head}, as "
                f"{info.reference} is to be",
                hint=f"{LEAVE}; onnxruntime is for {', '.join(OUTPUTS)}",
            )
        if adapter is not None:
            raise JobError(
                f"adapter {adapter.reference} can't be merged into an ONNX file",
                hint=f"{LEAVE}, or export the merged model",
            )
        if find_spec("onnxruntime") is None:
            raise JobError(
                "compute.engine: onnxruntime needs the onnxruntime package, which is not installed",
                hint="pip install 'shardscribe[onnx]'",
            )
        if info.folder is not None:
            try:
                graph = whole_graph(info.folder, info.file)
                _check_fit(Ports.of(graph, head=head, file=info.file), info, head)
            except (OSError, ValueError) as error:
                raise JobError(f"model {info.reference}: {one_line(error)}", hint=EXPORT) from error

    def open(
        self, infos: Mapping[str, ModelInfo], *, device: Device, budget: int | None = None
    ) -> Models:
        """The models of a worker."""
        return OnnxModels(infos, device=device, budget=budget)


def _check_fit(ports: Ports, info: ModelInfo, head: HeadName) -> None:
    """Compares a graph with the model's configuration.

    Raises:
        ValueError: They contradict each other.
    """
    if POSITIONS in ports.inputs and info.config.get("model_type") in COUNTED_FROM_PADDING:
        raise ValueError(
            f"{info.file} wants {POSITIONS}, which models of the kind "
            f"{info.config['model_type']} count in a way of their own"
        )
    if ports.width is None:
        return
    if head == "encoder":
        wanted, of = width(info.config, reference=info.reference), "numbers for a token"
    else:
        named = info.config.get("id2label")
        wanted, of = len(named) if named else info.config.get("num_labels", 2), "labels"
    if wanted != ports.width:
        raise ValueError(
            f"{info.file} gives {ports.width} {of}, and config.json says {wanted!r:.20}"
        )
