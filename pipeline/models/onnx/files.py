"""Which ONNX file of a model's folder is taken, and whether it is whole.

Jobs are checked with it, so nothing heavy is imported.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from pipeline.errors import JobError
from pipeline.models.onnx.graph import Graph, read_graph
from pipeline.starter.catalog import STARTERS

NAME = "model.onnx"
# Where exporters put it: optimum at the top, transformers.js and sentence-transformers below.
PLACES = (NAME, f"onnx/{NAME}")
# Of the standard, and those that every build of onnxruntime has.
KNOWN_OPERATORS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
EXPORT = (
    "Export it (`optimum-cli export onnx --model MODEL FOLDER`), or leave compute.engine at torch"
)


class OnnxFile:
    """One ONNX file of a folder: ``model.onnx``, at the top or in ``onnx/``, or else the only one.

    A folder that holds several and none of that name does not say which it means: they differ in
    arithmetic, and so in results.
    """

    def choose(self, reference: str, names: Collection[str]) -> str:
        """By name: what is in them does not decide."""
        found = sorted(name for name in names if _is_candidate(name))
        for place in PLACES:
            if place in found:
                return place
        if len(found) == 1:
            return found[0]
        if found:
            raise JobError(
                f"model {reference} holds several ONNX files ({', '.join(found[:4])}"
                f"{', ...' if len(found) > 4 else ''}) and none is called {NAME}",
                hint=f"Copy the folder, and keep one of them as {NAME}",
            )
        raise JobError(
            f"model {reference} has no ONNX file ({' or '.join(PLACES)}), which "
            "compute.engine: onnxruntime needs",
            hint=f"run: shardscribe models pull {reference}" if _is_kept(reference) else EXPORT,
        )

    def patterns(self, file: str) -> Sequence[str]:
        """The file, and what exporters call the files of its weights where they are too large."""
        return (file, f"{file}_data*", f"{file}.data*")

    def check(self, folder: Path, file: str) -> None:
        """Reads what the file says of itself, and looks for what it names."""
        graph = whole_graph(folder, file)
        strange = sorted(op for op in graph.operators if op[0] not in KNOWN_OPERATORS)
        if strange:
            raise ValueError(
                f"{file} has operators of its own ({'.'.join(strange[0])!r:.80}), and no model "
                "brings code along here"
            )

    def hashed(self, folder: Path, file: str) -> Sequence[Path]:
        """The file, and those that hold weights for it."""
        outside = whole_graph(folder, file).outside
        return [folder / file, *((folder / file).parent / name for name in sorted(outside))]


ONNX_FILE = OnnxFile()


def _is_candidate(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".onnx" and str(path.parent) in (".", "onnx")


def _is_kept(reference: str) -> bool:
    """Whether pulling a starter anew brings its ONNX file: earlier versions left it out."""
    starter = STARTERS.get(reference)
    return starter is not None and any(map(_is_candidate, starter.kept))


def whole_graph(folder: Path, file: str) -> Graph:
    """What an ONNX file says of itself, where all its weights are in the model's folder.

    Raises:
        OSError: It can't be read.
        ValueError: It is broken, or its weights are not there, or not where they may be.
    """
    path = folder / file
    if not path.is_file():
        raise ValueError(f"{file} is no file")
    try:
        graph = read_graph(path)
    except ValueError as error:
        raise ValueError(f"{file} {error}") from error
    # The hub's cache links each file to where it is kept.
    allowed = (folder.resolve(), path.resolve().parent)
    for name, size in sorted(graph.outside.items()):
        said = PurePosixPath(name)
        kept = path.parent / name
        if (
            not name.strip()
            or "\0" in name
            or "\\" in name
            or said.is_absolute()
            or ".." in said.parts
            or not any(kept.resolve().is_relative_to(place) for place in allowed)
        ):
            raise ValueError(f"{file} has weights at {name!r:.80}, which is not in its folder")
        if not kept.is_file():
            raise ValueError(f"{file} has weights in {name!r:.80}, which is not there")
        if kept.stat().st_size < size:
            raise ValueError(f"{name!r:.80}, which holds weights of {file}, is cut short")
    return graph
