"""Whether a model can be loaded, told from its JSON files.

A job is checked with it before anything starts, so nothing heavy is imported. Its weights are for
`pipeline.models.weights` to look at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import metadata, util
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, one_line
from pipeline.models.text.tokenizer_files import check_names, check_tokenizer, read_json
from pipeline.models.weights import (
    ADAPTER_WEIGHTS,
    INDEX,
    WEIGHTS,
    Weights,
    check_names_of_weights,
    held_by,
)

# What is trained from scratch here: `pipeline.models.torch.scratch`.
SCRATCH = "shardscribe_scratch"
CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# JSON objects that transformers opens if they are there.
OBJECTS = ("generation_config.json", "special_tokens_map.json", "added_tokens.json")
# What the JSON types of a model's configuration are, where something is read of it here.
TYPES = {"architectures": list, "id2label": dict, "label2id": dict, "auto_map": dict}


def config_name(reference: str, names: Collection[str]) -> str:
    """The file that says what a folder holds: a model, or an adapter.

    Raises:
        JobError: It is not there.
    """
    alone = ADAPTER_WEIGHTS in names and not {WEIGHTS, INDEX} & set(names)
    if ADAPTER_CONFIG in names and (alone or CONFIG not in names):
        return ADAPTER_CONFIG
    if CONFIG in names:
        return CONFIG
    raise JobError(
        f"model {reference} has no {CONFIG}",
        hint="Save it with model.save_pretrained(folder) and tokenizer.save_pretrained(folder)",
    )


def check_said(
    reference: str, names: Collection[str], config: Mapping[str, Any], said: Mapping[str, Any]
) -> None:
    """Refuses what can be refused by the names of files and by configurations.

    Args:
        reference: As the job names the model.
        names: Of the files beside the configuration.
        config: What a model's or an adapter's configuration says.
        said: The content of ``tokenizer_config.json``.

    Raises:
        JobError: Says what is wrong, and what to do.
    """
    if "peft_type" in config:
        saved = config.get("modules_to_save") or []
        if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
            raise JobError(
                f"adapter {reference}: modules_to_save in {ADAPTER_CONFIG} is {saved!r:.60}, not a "
                "list of names",
                hint="Save the adapter anew with peft: model.save_pretrained(folder)",
            )
        if config.get("megatron_config"):
            raise JobError(
                f"adapter {reference} names a module to import (megatron_core), and no model runs "
                "code here",
                hint="Save the adapter without megatron_config",
            )
        check_names_of_weights(reference, names, (ADAPTER_WEIGHTS,))
        return
    if CONFIG not in names:
        raise JobError(
            f"adapter {reference}: {ADAPTER_CONFIG} has no peft_type",
            hint="Save the adapter with peft: model.save_pretrained(folder)",
        )
    _check_config(reference, config, said)
    check_names(reference, names, config, said)


def check_files(
    reference: str,
    folder: Path,
    names: Collection[str],
    config: Mapping[str, Any],
    *,
    weights: Weights,
    file: str,
) -> None:
    """Refuses files that are broken, cut short or missing where another names them.

    Args:
        reference: As the job names the model.
        folder: Where they are.
        names: Of the files beside the configuration.
        config: What a model's or an adapter's configuration says.
        weights: What is taken of the folder.
        file: The one that it chose.

    Raises:
        JobError: Says which file, and what to do.
    """
    try:
        for name in OBJECTS:
            if name in names:
                read_json(folder / name)
        if "peft_type" in config:
            held_by(folder / ADAPTER_WEIGHTS)
            return
        weights.check(folder, file)
    except (OSError, ValueError) as error:
        raise JobError(
            f"model {reference}: {one_line(error)}",
            hint="Copy the model's files anew, and compare their sizes with the original's",
        ) from error
    check_tokenizer(reference, folder, config)


def _check_config(reference: str, config: Mapping[str, Any], said: Mapping[str, Any]) -> None:
    for name, kind in TYPES.items():
        if config.get(name) is not None and not isinstance(config[name], kind):
            raise JobError(
                f"model {reference}: {name} in {CONFIG} is {config[name]!r:.60}, not "
                f"{'a list' if kind is list else 'an object'}",
                hint="Copy the model's files anew",
            )
    named = config.get("architectures") or [None]
    if any(name is not None and not isinstance(name, str) for name in named):
        raise JobError(
            f"model {reference}: architectures in {CONFIG} are {named!r:.60}, not names",
            hint="Copy the model's files anew",
        )
    model_type = config.get("model_type")
    # A model may ship code of its own for older versions of a library that now has it.
    strange = not all(_knows(name) for name in (model_type, *named))
    if said.get("auto_map") or (config.get("auto_map") and strange):
        raise JobError(
            f"model {reference} needs code of its own (auto_map in "
            f"{TOKENIZER_CONFIG if said.get('auto_map') else CONFIG}), and no model runs code here",
            hint="Name a model whose architecture transformers has",
        )
    if not isinstance(model_type, str) or not model_type:
        raise JobError(
            f"model {reference}: {CONFIG} has no model_type",
            hint="Save the model with transformers: model.save_pretrained(folder)",
        )
    if model_type != SCRATCH and not _knows(model_type) and not _surely_knows(model_type):
        raise JobError(
            f"model {reference} is a {model_type!r:.60}, which transformers "
            f"{metadata.version('transformers')} does not know",
            hint="Install a version of transformers that does, or name another model",
        )


def _knows(name: object) -> bool:
    """Whether transformers' tables name a class or a type of model: importing it takes seconds."""
    found = util.find_spec("transformers")
    if found is None or found.origin is None:
        return True
    tables = Path(found.origin).parent / "models" / "auto"
    return any(f'"{name}"' in path.read_text(encoding="utf-8") for path in tables.glob("*.py"))


def _surely_knows(model_type: str) -> bool:
    import transformers

    return model_type in transformers.CONFIG_MAPPING
