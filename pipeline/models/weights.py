"""How a model's weights lie in its folder: what an engine takes, and what of it can be refused.

A job is checked with it before anything starts, so nothing heavy is imported, and no weights are
read: a safetensors file says at its start what it holds and how long it must be.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.errors import JobError, one_line
from pipeline.models.text.tokenizer_files import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
POINTER = b"version https://git-lfs"


class Weights(Protocol):
    """What an engine takes of a model's folder, beside its configuration and its tokenizer."""

    def choose(self, reference: str, names: Collection[str]) -> str:
        """The file that a model is loaded from; empty where all weights of the folder are.

        Args:
            reference: As the job names the model.
            names: Of the files of the folder, and of the folders in it.

        Raises:
            JobError: There is none that the engine takes, or no saying which.
        """
        ...

    def patterns(self, file: str) -> Sequence[str]:
        """What is fetched from the hub, beside configurations and tokenizers."""
        ...

    def check(self, folder: Path, file: str) -> None:
        """Refuses files that are broken, cut short or missing where another names them.

        Raises:
            OSError: A file can't be read.
            ValueError: Says which file is wrong.
        """
        ...

    def hashed(self, folder: Path, file: str) -> Sequence[Path]:
        """The files that pin the weights of a folder."""
        ...


class Safetensors:
    """All weights of a folder as safetensors; what can run code when it is loaded is refused."""

    def choose(self, reference: str, names: Collection[str]) -> str:
        """No file in particular."""
        check_names_of_weights(reference, names, (WEIGHTS, INDEX))
        return ""

    def patterns(self, file: str) -> Sequence[str]:
        """All of them."""
        return ("*.safetensors",)

    def check(self, folder: Path, file: str) -> None:
        """Looks at the head of each file."""
        if (folder / WEIGHTS).exists():
            held_by(folder / WEIGHTS)
        else:
            _check_shards(folder)
        # What sentence-transformers puts behind a model, such as 2_Dense.
        for path in sorted(folder.glob(f"*/{WEIGHTS}")):
            held_by(path)

    def hashed(self, folder: Path, file: str) -> Sequence[Path]:
        """All at the top."""
        return [path for path in folder.iterdir() if path.name.endswith(".safetensors")]


SAFETENSORS = Safetensors()


def check_names_of_weights(reference: str, names: Collection[str], wanted: tuple[str, ...]) -> None:
    """Refuses a folder without weights, or with pickled ones.

    Raises:
        JobError: Says what there is in their place.
    """
    if set(wanted) & set(names):
        return
    pickled = [n for n in names if n.endswith(PICKLES) and n != "training_args.bin"]
    if pickled:
        raise JobError(
            f"model {reference} has only pickled weights ({sorted(pickled)[0]}), which can run "
            "code when loaded",
            hint="Convert it once where you trust it: "
            "AutoModel.from_pretrained(...).save_pretrained(folder, safe_serialization=True)",
        )
    others = sorted(n for n in names if n.endswith(".safetensors"))
    raise JobError(
        f"model {reference} has no weights ({wanted[0]})"
        + (f", only {', '.join(others[:3])}" if others else ""),
        hint="Check that the folder is complete",
    )


def _check_shards(folder: Path) -> None:
    names = {path.name for path in folder.iterdir()}
    shards = read_json(folder / INDEX).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ValueError(f"{INDEX} has no weight_map")
    held: dict[str, frozenset[str]] = {}
    for tensor, shard in shards.items():
        if shard not in held:
            if shard not in names:
                raise ValueError(f"{INDEX} names {shard!r:.80}, which is not there")
            held[shard] = held_by(folder / shard)
        if tensor not in held[shard]:
            raise ValueError(f"{shard} lacks {tensor!r:.80}, which {INDEX} says it holds")


def held_by(path: Path) -> frozenset[str]:
    """The names of the tensors of a weight file that is whole.

    Raises:
        ValueError: It is not.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return frozenset(file.keys())
    except (SafetensorError, OSError, ValueError) as error:
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise ValueError(
                    f"{path.name} is a pointer to the weights, not the weights: `git lfs pull` "
                    "fetches them"
                ) from error
        raise ValueError(f"{path.name} is broken or cut short ({one_line(error)})") from error
