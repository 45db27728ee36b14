"""Random models of some kilobytes that write, of each family, as ordinary model folders."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

WORDS = [f"w{i}" for i in range(120)]
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
SIZES = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    # Large, so that the first and the second choice are far apart and the text matters.
    "init_std": 0.6,
    "tie_word_embeddings": False,
}
ENDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3}
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)


def sentences(count: int, *, start: int = 0) -> str:
    """Sentences of three words each; the n-th of a text has words of its own."""
    return " ".join(
        f"w{(start + 3 * i) % 120} w{(start + 3 * i + 1) % 120} w{(start + 3 * i + 2) % 120}."
        for i in range(count)
    )


def word_tokenizer(
    *, more: list[str] | None = None, template: str = "$A </s>", length: int = 64
) -> transformers.PreTrainedTokenizerFast:
    """A word a token; a full stop is a token of its own."""
    words = [*SPECIAL, ".", *WORDS, *(more or [])]
    vocabulary = {word: at for at, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(".", "isolated")]
    )
    if template:
        named = [(word, at) for word, at in vocabulary.items() if word in template.split()]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=named)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        extra_special_tokens=more or [],
        model_max_length=length,
        clean_up_tokenization_spaces=False,
    )


def byte_tokenizer(*, length: int = 512) -> transformers.PreTrainedTokenizerFast:
    """A byte a token, as byte-level BPE without merges: any text, and so any JSON."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({w: i for i, w in enumerate([*SPECIAL, *letters])}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        bos_token="<s>",
        model_max_length=length,
        clean_up_tokenization_spaces=False,
    )


def save(folder: Path, tokenizer: Any, module: Any, **generation: Any) -> Path:
    """Writes a model folder, with what its generation config says of its own.

    Unless it says otherwise every seventh token ends a text, or random models would rarely stop.
    """
    ends = {module.generation_config.eos_token_id, *range(10, len(tokenizer), 7)}
    module.generation_config.eos_token_id = sorted(ends)
    for name, value in generation.items():
        setattr(module.generation_config, name, value)
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bart(folder: Path, **generation: Any) -> Path:
    """BART: positions are learned, a text ends in a forced end token if asked."""
    tokenizer = word_tokenizer(template="<s> $A </s>")
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        **SIZES,
        **ENDS,
    )
    return save(folder, tokenizer, transformers.BartForConditionalGeneration(config), **generation)


def t5(folder: Path, *, params: dict[str, Any] | None = None) -> Path:
    """T5, with the prefixes that it was trained with in its config."""
    tokenizer = word_tokenizer(more=["translate", "to", "summarize:", "English", "German:"])
    torch.manual_seed(1)
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        initializer_factor=5.0,
        tie_word_embeddings=False,
        task_specific_params=params,
    )
    return save(folder, tokenizer, transformers.T5ForConditionalGeneration(config))


def marian(folder: Path, *, targets: tuple[str, ...] = ()) -> Path:
    """Marian, of one pair or of several target languages. It may not write its padding token."""
    tokenizer = word_tokenizer(more=[f">>{code}<<" for code in targets])
    torch.manual_seed(2)
    config = transformers.MarianConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
        **SIZES,
        **ENDS,
    )
    module = transformers.MarianMTModel(config)
    own = {"bad_words_ids": [[0]], "num_beams": 4, "no_repeat_ngram_size": 2}
    return save(folder, tokenizer, module, **own)


def nllb(folder: Path) -> Path:
    """NLLB: letters as tokens, `source $A </s>`, what is written starts with the target."""
    vocabulary = {word: at for at, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "\u2581"])}
    for letter in "abcdefghijklmnopqrstuvwxyz.0123456789":
        vocabulary[letter] = len(vocabulary)
    tokenizer = transformers.NllbTokenizer(vocab=vocabulary, merges=[], model_max_length=64)
    return save(folder, tokenizer, _m2m(len(tokenizer)))


def mbart(folder: Path) -> Path:
    """mBART: letters as tokens, `$A </s> source`, what is written starts with the target."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581", -2.0)]
    pieces += [(letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz.0123456789"]
    tokenizer = transformers.MBartTokenizer(vocab=pieces, model_max_length=64)
    torch.manual_seed(4)
    config = transformers.MBartConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        forced_eos_token_id=None,
        decoder_start_token_id=tokenizer.convert_tokens_to_ids("ro_RO"),
        **SIZES,
    )
    return save(folder, tokenizer, transformers.MBartForConditionalGeneration(config))


def _m2m(size: int) -> Any:
    torch.manual_seed(3)
    config = transformers.M2M100Config(
        vocab_size=size,
        max_position_embeddings=64,
        decoder_start_token_id=2,
        pad_token_id=1,
        eos_token_id=2,
        bos_token_id=0,
        **SIZES,
    )
    return transformers.M2M100ForConditionalGeneration(config)


def llama(
    folder: Path,
    *,
    chat: bool = False,
    letters: bool = False,
    length: int = 128,
    own: dict[str, Any] | None = None,
) -> Path:
    """A decoder, with or without a chat template, of words or of bytes."""
    if letters:
        tokenizer = byte_tokenizer(length=length)
    else:
        roles = ["<|user|>", "<|system|>", "<|assistant|>", "say", "it", "short"]
        tokenizer = word_tokenizer(more=roles, template="", length=length)
    if chat:
        tokenizer.chat_template = CHAT
    torch.manual_seed(5)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=length,
        initializer_range=0.5,
        tie_word_embeddings=False,
        **ENDS,
    )
    module = transformers.LlamaForCausalLM(config)
    return save(folder, tokenizer, module, **({"eos_token_id": 1} if letters else own or {}))


def rows(annotate: Any, texts: Sequence[str]) -> list[dict[str, Any]]:
    """What a loaded task gives for texts of which none is bad."""
    answer = annotate.annotate(texts)
    assert answer.failures == {}
    found: list[dict[str, Any]] = answer.column.to_pylist()
    return found
