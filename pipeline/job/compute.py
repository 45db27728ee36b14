"""What a job runs on, as its file says."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipeline.job.input import Part
from pipeline.job.quantities import Seconds


class Compute(Part):
    """What the job runs on; none of it changes results, except engine and dtype."""

    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", title="Workers", description="Ray actors; auto: as many as the cluster can place."
    )
    cpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto",
        title="CPUs per worker",
        description="Cores and torch threads of a worker; auto: up to 4 of a machine's cores, with "
        "a GPU all that there are for each worker.",
    )
    engine: Literal["torch", "onnxruntime"] = Field(
        "torch",
        title="Engine",
        description="What computes the models. onnxruntime: classifiers, token classifiers and "
        "encoders from the ONNX file of their folder: `model.onnx`, at the top or in `onnx/`, or "
        "else the only one there.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto",
        title="Device",
        description="auto: a GPU per worker if the cluster has any; cpu with onnxruntime.",
    )
    workers_per_gpu: int = Field(
        1,
        ge=1,
        le=16,
        title="Workers per GPU",
        description="Workers that share a GPU, each with its part of the memory and of the cores. "
        "More than 1 where one worker does not keep it busy.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = Field(
        "auto",
        title="Arithmetic",
        description="auto: bfloat16 on a GPU, float32 on a CPU. int8, on a CPU: classify, ner and "
        "zero_shot in int8, rows near a tie again in float32; other tasks in float32. With "
        "onnxruntime the ONNX file decides: leave it at auto.",
    )
    batch_tokens: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", title="Padded tokens per batch", description="auto: as the device likes."
    )
    wait: Seconds = Field(
        300.0,
        title="Wait for workers",
        description="How long the cluster may take to place a first worker, such as 5m.",
    )

    @model_validator(mode="before")
    @classmethod
    def _nothing_left_open(cls, given: Any) -> Any:
        """What onnxruntime computes on does not depend on the machine, nor does the arithmetic."""
        if not isinstance(given, dict):
            return given
        if given.get("engine") != "onnxruntime":
            on_cpu = given.get("dtype") == "int8" and given.get("device", "auto") == "auto"
            return given | {"device": "cpu"} if on_cpu else given
        usual = {"device": "cpu", "dtype": "float32"}
        return given | {k: v for k, v in usual.items() if given.get(k, "auto") == "auto"}

    @field_validator("workers_per_gpu")
    @classmethod
    def _only_of_a_gpu(cls, workers: int, info: ValidationInfo) -> int:
        if workers > 1 and info.data.get("device") == "cpu":
            raise ValueError(
                "there is no GPU to share where compute.device is cpu: leave it at 1, or set "
                "compute.device to cuda"
            )
        return workers

    @field_validator("dtype")
    @classmethod
    def _the_file_decides(cls, dtype: str, info: ValidationInfo) -> str:
        if info.data.get("engine") == "onnxruntime" and dtype != "float32":
            raise ValueError(
                "with compute.engine: onnxruntime the ONNX file decides the arithmetic: leave it "
                "at auto"
            )
        if dtype == "int8" and info.data.get("device") == "cuda":
            raise ValueError(
                "int8 is computed on a CPU: set compute.device to cpu, or leave dtype at auto for "
                "bfloat16 on the GPU"
            )
        return dtype
