"""The tokenizer of a model folder: what ``tokenizer.json`` says, to the letter.

For many families transformers does not load that file but builds a tokenizer anew from its
vocabulary, with the normalizer, the pre-tokenizer and the special tokens that the class has by
itself; ids differ then from those that the model was trained on. So the class is asked only for
what the file does not hold: which token pads, on which side, how long a text may be, how a chat is
laid out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.models.text.tokenizer_files import (
    MASK_TAKES_SPACE,
    TOKENIZER,
    family_of,
    read_tokenizer,
)


def load_tokenizer(folder: Path) -> Any:
    """A transformers tokenizer whose tokens are those of the folder's ``tokenizer.json``.

    A folder without that file is one that `tokenizer_files.check_tokenizer`
    lets through: transformers makes of its older files what it made when they were written.

    Raises:
        ValueError: The files can't be read, or contradict each other.
    """
    import transformers

    if not (folder / TOKENIZER).exists():
        return _rebuilt(folder)
    backend = read_tokenizer(folder)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        fast = tokenizer.is_fast
    except Exception:  # building anew what the file holds can fail in any way, and is not needed
        fast = False
    if not fast:
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer._tokenizer = backend
    for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES:
        token = getattr(tokenizer, name)
        # The class's own default, or one that transformers has made up a number for.
        if token is not None and backend.token_to_id(token) is None:
            setattr(tokenizer, name, None)
    return tokenizer


def _rebuilt(folder: Path) -> Any:
    import transformers
    from tokenizers import AddedToken

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    family = family_of({}, {"tokenizer_class": type(tokenizer).__name__})
    if family in MASK_TAKES_SPACE and tokenizer.mask_token is not None:
        mask = AddedToken(tokenizer.mask_token, lstrip=True, special=True)
        tokenizer.backend_tokenizer.add_special_tokens([mask])
    return tokenizer
