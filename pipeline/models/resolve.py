"""A model reference -> local files and a revision, under the safety policy.

Files are looked at as plain JSON: checking a job must not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, one_line
from pipeline.lake.store.address import local_path
from pipeline.models.folder import TOKENIZER_CONFIG, check_files, check_said, config_name
from pipeline.models.text.tokenizer_files import read_json
from pipeline.models.weights import SAFETENSORS, Weights
from pipeline.starter import catalog

# What of a folder is not weights: all of it is text.
TEXTS = (".json", ".txt", ".model", ".jinja", ".tiktoken")
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model before its weights are loaded.

    Attributes:
        reference: As the job file names it.
        config: The content of ``config.json``.
        folder: Where the files are; None for a hub model that is not fetched yet.
        commit: The hub commit; empty for a folder.
        chat_template: Whether the tokenizer says how to lay out a chat.
        weights: What its engine takes of a folder.
        file: The file of it that the weights are loaded from; empty where all are.
    """

    reference: str
    config: dict[str, Any]
    folder: Path | None = None
    commit: str = ""
    chat_template: bool = False
    weights: Weights = SAFETENSORS
    file: str = ""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes that the weights were saved from, such as ``BertForTokenClassification``."""
        return tuple(self.config.get("architectures") or ())

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder and a decoder, as T5 and BART have."""
        return bool(self.config.get("is_encoder_decoder"))

    @property
    def is_adapter(self) -> bool:
        """Whether these are a LoRA's or another PEFT adapter's weights, not a model's."""
        return "peft_type" in self.config

    def revision(self) -> str:
        """What pins the weights: the hub commit, or a hash over the folder's files."""
        if self.commit:
            return self.commit
        if self.folder is None:
            raise ValueError(f"{self.reference} has neither a commit nor a folder")
        if self.reference.startswith("starter/"):
            return _starter_revision(self.folder)
        return _hash_folder(self.folder, self.weights.hashed(self.folder, self.file))


def look_up(reference: str, *, weights: Weights = SAFETENSORS) -> ModelInfo:
    """Finds a model without fetching weights.

    Args:
        reference: ``starter/NAME``, a folder, or a hub id with an optional ``@revision``.
        weights: What is taken of its folder.

    Returns:
        The model's configuration and where it is.

    Raises:
        JobError: There is no such model, or it can't be loaded.
    """
    if reference.startswith("starter/"):
        return _from_folder(reference, catalog.folder(reference), weights)
    path = local_path(reference)
    if path.is_dir():
        return _from_folder(reference, path.resolve(), weights)
    if reference.startswith((".", "/", "~")) or reference.count("/") > 1:
        raise JobError(
            f"model folder {reference} does not exist",
            hint="Give a folder with config.json and *.safetensors, or a hub id such as org/name",
        )
    return _from_hub(reference, weights)


def fetch(info: ModelInfo) -> Path:
    """The folder that holds a model's files on this machine, fetched from the hub if need be.

    Raises:
        JobError: The hub can't be reached or refuses, or the files are broken.
    """
    if info.folder is not None:
        return info.folder
    from huggingface_hub import snapshot_download

    name = info.reference.partition("@")[0]
    wanted = [*info.weights.patterns(info.file), *(f"*{ending}" for ending in TEXTS)]
    try:
        folder = Path(snapshot_download(name, revision=info.commit, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise _hub_trouble(info.reference, error) from error
    _from_folder(info.reference, folder, info.weights)
    return folder


def here(info: ModelInfo, revision: str) -> ModelInfo:
    """The same model as seen from this machine, checked to have the same weights.

    Args:
        info: As the driver found it.
        revision: What the driver pinned.

    Raises:
        JobError: It is not on this machine, or is another version.
    """
    if info.commit:
        return info
    starter = info.reference.startswith("starter/")
    mine = replace(
        look_up(info.reference if starter else str(info.folder), weights=info.weights),
        reference=info.reference,
    )
    if mine.revision() != revision:
        raise JobError(
            f"model {info.reference} has other weights on {socket.gethostname()} than where the "
            "run was started",
            hint="Run `shardscribe models pull` on every machine, or share the model folder",
        )
    return mine


def _from_folder(reference: str, folder: Path, weights: Weights) -> ModelInfo:
    try:
        names = [entry.name for entry in folder.iterdir()]
        config = read_json(folder / config_name(reference, names))
        said = read_json(folder / TOKENIZER_CONFIG) if TOKENIZER_CONFIG in names else {}
    except (OSError, ValueError) as error:
        raise JobError(
            f"model {reference}: {one_line(error)}", hint="Copy the model's files anew"
        ) from error
    check_said(reference, names, config, said)
    inner = [path.relative_to(folder).as_posix() for path in folder.glob("*/*")]
    file = _chosen(reference, [*names, *inner], config, weights)
    if not reference.startswith("starter/"):  # ours are made from files of known hashes
        check_files(reference, folder, names, config, weights=weights, file=file)
    template = TEMPLATE in names or "chat_template" in said
    return ModelInfo(reference, config, folder, "", template, weights, file)


def _chosen(
    reference: str, names: Collection[str], config: Mapping[str, Any], weights: Weights
) -> str:
    """The file that a model is loaded from; an adapter's is always the same."""
    return "" if "peft_type" in config else weights.choose(reference, names)


def _from_hub(reference: str, weights: Weights) -> ModelInfo:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    name, _, revision = reference.partition("@")
    try:
        if os.environ.get("HF_HUB_OFFLINE", "") in ("1", "ON", "YES", "TRUE", "true"):
            folder = Path(snapshot_download(name, revision=revision or None, local_files_only=True))
            return replace(_from_folder(reference, folder, weights), commit=folder.name)
        info = HfApi().model_info(name, revision=revision or None)
        names = [file.rfilename for file in info.siblings or ()]

        def read(file: str) -> dict[str, Any]:
            return read_json(Path(hf_hub_download(name, file, revision=info.sha)))

        config = read(config_name(reference, names))
        said = read(TOKENIZER_CONFIG) if TOKENIZER_CONFIG in names else {}
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise _hub_trouble(reference, error) from error
    check_said(reference, names, config, said)
    file = _chosen(reference, names, config, weights)
    template = TEMPLATE in names or "chat_template" in said
    return ModelInfo(reference, config, None, str(info.sha), template, weights, file)


def _hub_trouble(reference: str, error: Exception) -> JobError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    known = ", ".join(sorted(catalog.STARTERS))
    return JobError(
        f"model {reference} is no folder here and could not be had from the Hugging Face hub "
        f"({type(error).__name__}: {reason[:200]})",
        hint=f"Check the name and the network, log in with `hf auth login` if it is private, "
        f"or use a local folder or one of {known}",
    )


def _starter_revision(folder: Path) -> str:
    """Ours are made from files of known hashes: no need to read 500 MB before each run."""
    return str(json.loads((folder / "shardscribe.json").read_text(encoding="utf-8"))["revision"])


def _hash_folder(folder: Path, weights: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    texts = {path for path in folder.iterdir() if path.name.endswith(TEXTS)}
    # How sentence-transformers pools is in a folder of its own.
    for path in [*sorted({*texts, *weights}), *sorted(folder.glob("*/config.json"))]:
        with path.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{inner}\n".encode())
    return digest.hexdigest()
