"""Random models of some kilobytes that read: heads on a small BERT or RoBERTa, and small decoders
with real tokenizers, as ordinary model folders."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer, processors

from pipeline.starter import catalog

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    # Large, so that predictions are far apart and the text matters.
    "initializer_range": 0.4,
}
ST = "sentence_transformers.models"


def bert(
    folder: Path,
    head: str,
    *,
    labels: Sequence[str] = (),
    length: int = 512,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A BERT with the tokenizer of ``starter/minilm``, which marks the second text of a pair."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(catalog.folder("starter/minilm"))
    tokenizer.model_max_length = length
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    made = transformers.BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        **{**SIZES, **_labels(labels), **config},
    )
    getattr(transformers, f"Bert{head}")(made).save_pretrained(folder)
    return folder


def byte_level_tokenizer(
    texts: Iterable[str], *, length: int, trim_offsets: bool = True, **options: Any
) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE of 600 tokens, as RoBERTa has it."""
    made = ByteLevelBPETokenizer(add_prefix_space=False, trim_offsets=trim_offsets)
    made.train_from_iterator(
        texts, vocab_size=600, special_tokens=["<s>", "<pad>", "</s>", "<unk>"]
    )
    made.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets, add_prefix_space=False
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=length,
        **options,
    )


def roberta(
    folder: Path, head: str, texts: Iterable[str], *, labels: Sequence[str] = (), seed: int = 0
) -> Path:
    """A RoBERTa with byte-level BPE, two separators between texts, and no token types."""
    tokenizer = byte_level_tokenizer(
        texts, length=128, model_input_names=["input_ids", "attention_mask"]
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = transformers.RobertaConfig(
        vocab_size=600, max_position_embeddings=130, pad_token_id=1, **SIZES, **_labels(labels)
    )
    getattr(transformers, f"Roberta{head}")(config).save_pretrained(folder)
    return folder


def decoder(folder: Path, family: str = "Llama", *, seed: int = 0, **config: Any) -> Path:
    """A chat model with the tokenizer and the chat template of ``starter/smollm2``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(catalog.folder("starter/smollm2"))
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    made = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        **{**SIZES, "initializer_range": 0.1, **config},
    )
    getattr(transformers, f"{family}ForCausalLM")(made).save_pretrained(folder)
    return folder


def sentence_files(
    folder: Path,
    *,
    pooling: str = "mean",
    modules: Sequence[str] = ("Normalize",),
    sizes: dict[str, Any] | None = None,
    prompts: dict[str, Any] | None = None,
) -> None:
    """What sentence-transformers writes beside a model."""
    parts = ["Transformer", "Pooling", *modules]
    paths = ["", *(f"{at}_{part}" for at, part in enumerate(parts[1:], 1))]
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"{ST}.{part}"}
        for at, (part, path) in enumerate(zip(parts, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooled = {"word_embedding_dimension": 32, f"pooling_mode_{pooling}_tokens": True}
    if pooling == "cls":
        pooled = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
    full = {f"pooling_mode_{mode}": False for mode in modes} | pooled
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(full))
    if sizes is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(sizes))
    if prompts is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))


def _labels(labels: Sequence[str]) -> dict[str, Any]:
    if not labels:
        return {}
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: at for at, label in enumerate(labels)},
    }
