"""What a folder must hold for a model's texts to be tokenized as it was trained.

Without its tokenizer transformers makes up an empty one, and a model answers all the same. Nothing
heavy is imported here: jobs are checked with it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import JobError, one_line

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
ADDED = "added_tokens.json"
ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
FLAGS = ("lstrip", "normalized", "rstrip", "single_word", "special")

# Families whose tokenizers transformers 5 makes from older files as transformers 4.57 did: the
# same ids for 260 mixed texts, alone and as pairs. Of others it does not (DeBERTa, Blenderbot,
# whatever has a sentencepiece model: normalizers are lost).
WORD_PIECES = ("vocab.txt",)
BYTE_PAIRS = ("vocab.json", "merges.txt")
REBUILT: Mapping[str, tuple[str, ...]] = {
    "bert": WORD_PIECES,
    "convbert": WORD_PIECES,
    "distilbert": WORD_PIECES,
    "electra": WORD_PIECES,
    "funnel": WORD_PIECES,
    "layoutlm": WORD_PIECES,
    "lxmert": WORD_PIECES,
    "mobilebert": WORD_PIECES,
    "mpnet": WORD_PIECES,
    "squeezebert": WORD_PIECES,
    "bart": BYTE_PAIRS,
    "codegen": BYTE_PAIRS,
    "gpt2": BYTE_PAIRS,
    "led": BYTE_PAIRS,
    "longformer": BYTE_PAIRS,
    "qwen2": BYTE_PAIRS,
    "roberta": BYTE_PAIRS,
}
# Their mask token takes the space before it along, which transformers 5 forgets.
MASK_TAKES_SPACE = ("bart", "led", "longformer", "roberta")
COPY = "Save the tokenizer of the model that it was trained from beside the weights"
SAVE = "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
OLDER = (".model", ".spm", ".tiktoken", ".codes")
OLDER_NAMES = ("vocab.txt", "vocab.json", "merges.txt", "tekken.json")


def check_tokenizer(reference: str, folder: Path, config: Mapping[str, Any]) -> None:
    """Refuses a model whose tokenizer is broken, after `check_names` found its files.

    Args:
        reference: As the job names the model.
        folder: Where its files are.
        config: The content of ``config.json``.

    Raises:
        JobError: Says which file, and what to do.
    """
    names = [path.name for path in folder.iterdir()]
    try:
        if TOKENIZER in names:
            read_tokenizer(folder)
            return
        said = read_json(folder / CONFIG) if CONFIG in names else {}
        for name in (name for name in REBUILT[family_of(config, said)] if name in names):
            if not (folder / name).stat().st_size:
                raise ValueError(f"{name} is empty")
    except (OSError, ValueError) as error:
        raise JobError(f"model {reference}: {error}", hint=f"{COPY}: {SAVE}") from error


def check_names(
    reference: str, names: Collection[str], config: Mapping[str, Any], said: Mapping[str, Any]
) -> None:
    """Refuses a model whose tokenizer is missing, or would be rebuilt wrongly.

    Args:
        reference: As the job names the model.
        names: Of the files.
        config: The content of ``config.json``.
        said: The content of ``tokenizer_config.json``.

    Raises:
        JobError: Says which file is missing, and what to do.
    """
    wrong = [role for role in ROLES if not _is_token(said.get(role))]
    longest = said.get("model_max_length")
    if longest is not None and (not isinstance(longest, (int, float)) or longest < 1):
        wrong.append("model_max_length")
    if wrong:
        raise JobError(
            f"model {reference}: {wrong[0]} in {CONFIG} is {said.get(wrong[0])!r:.60}",
            hint=f"{COPY}: {SAVE}",
        )
    family = family_of(config, said)
    if TOKENIZER in names or set(REBUILT.get(family, (TOKENIZER,))) <= set(names):
        return
    older = sorted(n for n in names if n.endswith(OLDER) or n in OLDER_NAMES)
    if older:
        raise JobError(
            f"model {reference} has no {TOKENIZER}, and from {', '.join(older)} transformers makes "
            f"another tokenizer of {family or 'its family'} than the model was trained with",
            hint=f"Write the file once with transformers 4.57 ({SAVE}); for Marian and M2M-100, "
            "which it can't convert, copy it from a conversion for transformers.js",
        )
    raise JobError(
        f"model {reference} has no tokenizer ({TOKENIZER}), without which its texts mean nothing",
        hint=f"{COPY}: {SAVE}",
    )


def _is_token(value: Any) -> bool:
    content = value.get("content") if isinstance(value, dict) else value
    return value is None or isinstance(content, str)


def family_of(config: Mapping[str, Any], said: Mapping[str, Any]) -> str:
    """The kind of tokenizer that transformers takes a model's files for, such as ``distilbert``."""
    named = said.get("tokenizer_class") or config.get("tokenizer_class")
    if not named:
        named = str(config.get("model_type") or "").replace("-", "").replace("_", "")
        named = {"gptneo": "gpt2", "gptj": "gpt2", "opt": "gpt2"}.get(named, named)
    return str(named).removesuffix("Fast").removesuffix("Tokenizer").lower()


def read_tokenizer(folder: Path) -> Any:
    """A folder's ``tokenizer.json``, with the tokens that files beside it add.

    Returns:
        A ``tokenizers.Tokenizer``.

    Raises:
        ValueError: It can't be read, is empty, or contradicts the other files.
    """
    from tokenizers import Tokenizer

    try:
        backend = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"{TOKENIZER} can't be read ({one_line(error)})") from error
    if backend.get_vocab_size() == 0:
        raise ValueError(f"{TOKENIZER} holds no vocabulary")
    for number, token in sorted(_added(folder).items()):
        if backend.token_to_id(token.content) is not None:
            continue  # the file is right, whatever number the others give
        if number != backend.get_vocab_size():
            raise ValueError(
                f"{TOKENIZER} lacks token {number}, {token.content!r:.60}, which the files beside "
                "it add"
            )
        backend.add_tokens([token])
    return backend


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: It is something else; names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name} is not JSON ({error})") from error
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _added(folder: Path) -> dict[int, Any]:
    """By number, the tokens that were added to the model's vocabulary."""
    from tokenizers import AddedToken

    said = read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    found = said.get("added_tokens_decoder")
    try:
        if found is not None:
            return {
                int(number): AddedToken(
                    token["content"], **{name: token[name] for name in FLAGS if name in token}
                )
                for number, token in found.items()
            }
        older = read_json(folder / ADDED) if (folder / ADDED).exists() else {}
        return {int(number): AddedToken(content) for content, number in older.items()}
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise ValueError(f"the added tokens can't be read ({one_line(error)})") from error
