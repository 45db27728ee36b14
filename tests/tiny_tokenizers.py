"""Tokenizers of a few hundred tokens as each family's real ``tokenizer.json`` is laid out.

Vocabularies are learned here; what stands around them (normalizer, pre-tokenizer, special tokens
and their places) is what transformers 4.57 writes for the family, so that a class that builds its
tokenizer anew gives itself away.
"""

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mixed_texts import mixed_texts
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

# A normalizer that sentencepiece has compiled, of 119 rules: full width to ASCII, ligatures apart,
# kinds of white space to a space, some control characters to nothing, a few accents composed.
CHARSMAP = zlib.decompress(
    base64.b64decode(
        "eNo11QlcFGUcxvGHGbcVje7LsszMzMzwyMzMzIzMjMw8QlMzU1IjIlMT8xgE5AZB7kswMDVQMTQPUIvusLIiMyOPosus"
        "zMjIyH7vMvHh+/nPsTu7s/s+z6q9pHNl/hy/AKm+syU/tqPY/pj5KerbW+owQPIfJEV1kuJ7S59zPKAnj4+wFO2RDrIf"
        "O1HqzlzD/rPM6JFSPtPh+U4fREpF7HeZL8VUWEpaImWb12qUKsR1mqXlR6U9WZLNcS7jeOGPjqhtknhbzvm4EBfjUnNc"
        "7VRTL13ONm/PuQpXY1e1pZJ9Uhe2u6LyhNSNydt21nGtXkxuxQlEX/QHt+kMBLfqDMYQDMUwDEcQRoBbc0YhGKMxBmMx"
        "Ho+Cj8J5DFPwOJ7Ak5iJpzAbT+MZzMU88xje7wLmQiwyj423tJi51HyGWI4YrED4dkvxzEQkIxUrkYFMlJjvAWVYa+4X"
        "G1CBZc1+2sjcjC3munl89qg23wVzRa2luHJLMTssxSKxiO/qBK/HTMiylNpkKa3BUnKzpRSOZ1RZWsVzVlZaSi+1lD3e"
        "Vs4UW5lcI4uZP99WwRJbuTNt5TGLOb+a44XsFzHXbLX1Uq2tknJbpcy1DbZebrRVxn45c0OzrVdaba1rsrWeuZHzmzhe"
        "wX4lcwvPf5XnbebxVcxtXP+1ibaq2d/K9XfymruCbG2PtLUDuzm2h/0aZi2P3cZ9vxHip+3MtwnC69jJdg12Y685jzfb"
        "zjvv4n2Ti7apD5mfMQ/Ilwvtly87Ijv6BCxvfYXD+Fq+rOgLHMKX+OaIn47he7a/AxHQEXMcx8Cy1c/4Fb+YGeOnH5jH"
        "8ROIjf7AafyJk/gNp/A7WvEPzuJftOAvnMHfavsj8yTQlzvSJJE9nQPyJ1MRZFAd0NGtC3Ko80AWdQHIoy4CmdQlIJe6"
        "TL5M6gqQS10JsqnOIJ+6Rr5s6lqQT10nXz51vXw9ohvQAzeCzOom+TKrm0FudQvIrvqA/KofyLBuBTnWbSDLuh3kWXeA"
        "TOtOkGvdBbKtu0G+dQ/IuO4FOdd9IOu6H+RdD4DM60GQez0Esq+HQf71COgAjQM9oAmgCxQC+kCTQCdoMugFTQXdoGmg"
        "HzQddIRmgJ5QKOgKzQJ9oTmgMxQGekPh8vWsIvAc6BE9D7pEVKzpEr0A+kRUr+gUvQg6RVSv6BUtM8WPKNAvigYdo1jQ"
        "M4oDPaME0DVKAn2jFNA5SgO9o3TQPVoF+kdUuOl25SAXefL9FqgAhfL9DqgYq83zl3iVntJOGQkerYr1KBNZKR5lM3Nq"
        "Pcpl5rGfzywo8qiQWcR+cYtHm8z7j/QqCsv9vYpGTCevYrGC7TjED/IqAYlsJyGZcylIDfAqzePVXjfzZFx1IOd6C6YL"
        "3gF513swWf8A5F772nKvj9ys73ezbjJvuqDB7YIDbtYPulk/5HZBo9sFh92sH3WzbjL/LZrcLjCdYLL+o5v1424XnPi/"
        "C9ysn3Szfsrtgma3C067WW9xs37G7YJWtwtMJxDAroSvG8HrTuh6ELiehK0XQetNyAIJWF/1DexHwPoTrgEEayChGkSg"
        "BhOmIQRpKCEaRoCGE54ggjOC0IwkMKMISzBBGU1IxhCQsYRjXDDpmEAyQkjFJBIxmTRMJQnTSMF0EjCD1R+q0NDZMv9h"
        "ZGAW638Oaz+MdR/Omo9gvc9lrc9jnS9gjS9kfS9ibS9mXS9VXanqylS3XnVV+g90QLBs"
    )
)
Piece = tuple[str, float]
EUROPEAN = ("ar_AR", "cs_CZ", "de_DE", "en_XX", "fr_XX", "ro_RO")
FLORES = ("ace_Arab", "deu_Latn", "eng_Latn", "fra_Latn", "zho_Hans")
UNUSED = tuple(f"<unk_{at}>" for at in range(2, 103))
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Family:
    """A family's layout.

    Attributes:
        kind: The model type of its ``config.json``.
        name: Its tokenizer class, as configurations name it.
        before: Pieces at the start of the vocabulary.
        after: Pieces at its end.
        tokens: Special tokens by role.
        template: What stands around one text and around two.
        normalizer: Made anew for each tokenizer.
        words: The pre-tokenizer; Metaspace if None.
        more: Further fields of ``tokenizer_config.json``.
    """

    kind: str
    name: str
    before: tuple[str, ...]
    tokens: dict[str, str]
    template: tuple[str, str]
    normalizer: Callable[[], Any]
    after: tuple[str, ...] = ()
    words: Callable[[], Any] | None = None
    more: dict[str, Any] = field(default_factory=dict)


def spaced() -> Any:
    return pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")


def plain() -> Any:
    return normalizers.Sequence(
        [
            normalizers.Precompiled(CHARSMAP),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(Regex(" {2,}"), "\u2581"),
        ]
    )


def in_bytes(split: str) -> Any:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def quotes(*, lower: bool) -> Any:
    steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    steps += [normalizers.NFKD(), normalizers.StripAccents()]
    steps += [normalizers.Lowercase()] if lower else []
    steps += [normalizers.Precompiled(CHARSMAP), normalizers.Replace(Regex(" {2,}"), " ")]
    return normalizers.Sequence(steps)


def stripped() -> Any:
    return normalizers.Sequence(
        [
            normalizers.Strip(),
            normalizers.Precompiled(CHARSMAP),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )


BRACKETS = {
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ANGLES = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
BERT_LIKE = ("[CLS]:0 $A:0 [SEP]:0", "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1")
FAIRSEQ = ("<s>", "<pad>", "</s>", "<unk>")

FAMILIES = {
    "albert": Family(
        "albert",
        "AlbertTokenizer",
        ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        {**BRACKETS, "bos_token": "[CLS]", "eos_token": "[SEP]"}
        | {"unk_token": "<unk>", "pad_token": "<pad>"},
        BERT_LIKE,
        lambda: quotes(lower=True),
        more={"do_lower_case": True, "keep_accents": False, "remove_space": True},
    ),
    "qwen2": Family(
        "qwen2",
        "Qwen2Tokenizer",
        (),
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        ("", ""),
        normalizers.NFC,
        after=("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
        words=lambda: in_bytes(QWEN_SPLIT),
        more={"add_bos_token": False, "add_prefix_space": False, "bos_token": None}
        | {"unk_token": None, "errors": "replace", "split_special_tokens": False},
    ),
    "t5": Family(
        "t5",
        "T5Tokenizer",
        ("<pad>", "</s>", "<unk>"),
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        ("$A </s>", "$A </s> $B </s>"),
        plain,
        after=tuple(f"<extra_id_{at}>" for at in range(99, -1, -1)),
        more={"extra_ids": 100},
    ),
    "xlm-roberta": Family(
        "xlm-roberta",
        "XLMRobertaTokenizer",
        FAIRSEQ,
        ANGLES,
        ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
        plain,
        after=("<mask>",),
    ),
    "deberta-v2": Family(
        "deberta-v2",
        "DebertaV2Tokenizer",
        ("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
        {**BRACKETS, "bos_token": "[CLS]", "eos_token": "[SEP]"}
        | {"unk_token": "[UNK]", "pad_token": "[PAD]"},
        BERT_LIKE,
        stripped,
        after=("[MASK]",),
        words=lambda: pre_tokenizers.Sequence([spaced()]),
        more={"do_lower_case": False, "split_by_punct": False, "vocab_type": "spm"},
    ),
    "mbart": Family(
        "mbart",
        "MBartTokenizer",
        FAIRSEQ,
        ANGLES,
        ("$A </s> en_XX", "$A $B </s> en_XX"),
        plain,
        after=(*EUROPEAN, "<mask>"),
        more={"src_lang": None, "tgt_lang": None},
    ),
    "mbart-50": Family(
        "mbart",
        "MBart50Tokenizer",
        FAIRSEQ,
        ANGLES,
        ("en_XX $A </s>", "en_XX $A $B </s>"),
        plain,
        after=(*EUROPEAN, "uk_UA", "sl_SI", "<mask>"),
        more={"src_lang": None, "tgt_lang": None},
    ),
    "pegasus": Family(
        "pegasus",
        "PegasusTokenizer",
        ("<pad>", "</s>", "<mask_1>", "<mask_2>", *UNUSED, "<unk>"),
        {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        | {"mask_token": "<mask_2>"},
        ("$A </s>", "$A $B </s>"),
        plain,
        words=lambda: pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), spaced()]),
        more={"mask_token_sent": "<mask_1>", "offset": 103},
    ),
    "xlnet": Family(
        "xlnet",
        "XLNetTokenizer",
        ("<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"),
        {**ANGLES, "sep_token": "<sep>", "cls_token": "<cls>"},
        ("$A:0 <sep>:0 <cls>:2", "$A:0 <sep>:0 $B:1 <sep>:1 <cls>:2"),
        lambda: quotes(lower=False),
        more={"do_lower_case": False, "keep_accents": False, "remove_space": True}
        | {"additional_special_tokens": ["<eop>", "<eod>"]},
    ),
    "big_bird": Family(
        "big_bird",
        "BigBirdTokenizer",
        ("<pad>", "</s>", "<s>", "[CLS]", "[SEP]", "[MASK]", "<unk>"),
        {**BRACKETS, "bos_token": "<s>", "eos_token": "</s>"}
        | {"unk_token": "<unk>", "pad_token": "<pad>"},
        BERT_LIKE,
        plain,
    ),
    "nllb": Family(
        "m2m_100",
        "NllbTokenizer",
        FAIRSEQ,
        ANGLES,
        ("eng_Latn $A </s>", "eng_Latn $A $B </s>"),
        plain,
        after=(*FLORES, "<mask>"),
        more={"src_lang": None, "tgt_lang": None, "legacy_behaviour": False}
        | {"additional_special_tokens": list(FLORES)},
    ),
}
# Models grown from Qwen2 that split words their own way, and end each text.
FAMILIES["qwen2, grown"] = replace(
    FAMILIES["qwen2"],
    template=("$A <|endoftext|>", "$A $B <|endoftext|>"),
    words=lambda: in_bytes(QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|")),
)


def unigrams(texts: Iterable[str]) -> list[Piece]:
    """Pieces as sentencepiece's unigram model has them, the likeliest first."""
    made = Tokenizer(models.Unigram())
    made.normalizer, made.pre_tokenizer = plain(), spaced()
    trainer = trainers.UnigramTrainer(
        vocab_size=600, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    pieces = json.loads(made.to_str())["model"]["vocab"]
    return [(str(piece), float(score)) for piece, score in pieces if piece != "<unk>"]


def byte_pairs(
    texts: Iterable[str], words: Any, alphabet: Sequence[str]
) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges of a BPE."""
    made = Tokenizer(models.BPE())
    made.normalizer, made.pre_tokenizer = plain(), words
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=list(alphabet), show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    found = json.loads(made.to_str())["model"]
    return list(found["vocab"]), [tuple(pair) for pair in found["merges"]]


def backend(family: Family, pieces: Sequence[Piece]) -> Tokenizer:
    """A family's tokenizer; `pieces` are taken by those with a unigram model."""
    words = spaced() if family.words is None else family.words()
    special = [*family.before, *family.after]
    if family.name in ("NllbTokenizer", "Qwen2Tokenizer"):
        letters = pre_tokenizers.ByteLevel.alphabet() if family.name.startswith("Qwen") else ()
        tokens, merges = byte_pairs(mixed_texts(), words, letters)
        tokens = [*family.before, *(t for t in tokens if t not in special), *family.after]
        unknown = family.tokens.get("unk_token")
        made = Tokenizer(
            models.BPE(
                {token: at for at, token in enumerate(tokens)},
                merges,
                unk_token=unknown,
                fuse_unk=unknown is not None,
            )
        )
    else:
        listed = [(token, 0.0) for token in family.before]
        listed += [(piece, score) for piece, score in pieces if piece not in special]
        listed += [(token, 0.0) for token in family.after]
        unknown_at = [token for token, _ in listed].index(family.tokens["unk_token"])
        made = Tokenizer(models.Unigram(listed, unk_id=unknown_at))
    made.normalizer, made.pre_tokenizer = family.normalizer(), words
    made.add_special_tokens(
        [
            AddedToken(token, normalized=False, lstrip=token in ("<mask>", "[MASK]"))
            for token in special
        ]
    )
    single, pair = family.template
    if single:
        named = {part.split(":")[0] for part in pair.split()} - {"$A", "$B"}
        made.post_processor = processors.TemplateProcessing(
            single=single,
            pair=pair,
            special_tokens=[(token, made.token_to_id(token)) for token in sorted(named)],
        )
    else:
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    if family.name == "Qwen2Tokenizer":
        made.decoder = decoders.ByteLevel()
    else:
        made.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    return made


def save(folder: Path, family: Family, made: Tokenizer, **config: Any) -> Path:
    """Writes what transformers 4.57 writes beside a model of that family."""
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    added = {
        str(number): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for number, token in made.get_added_tokens_decoder().items()
    }
    said = {
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "extra_special_tokens": {},
        "model_max_length": 96,
        "tokenizer_class": family.name,
        **family.tokens,
        **family.more,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    (folder / "special_tokens_map.json").write_text(json.dumps(family.tokens))
    about = {"model_type": family.kind, "vocab_size": made.get_vocab_size(), **config}
    (folder / "config.json").write_text(json.dumps(about))
    return folder
