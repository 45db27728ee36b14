# ruff: noqa: RUF001
"""Texts of many scripts and of all that tokenizers differ about."""

import random

WORDS = (
    "The film was great and I loved every minute of it",
    "Das Essen war köstlich, nur die Straße war laut",
    "C'était l'été à Besançon où naïveté et cœur se croisent",
    "El niño comió piñata y açaí en São Paulo",
    "Фильм был замечательный, ещё раз посмотрел бы",
    "Η ταινία ήταν πολύ καλή και ωραία",
    "映画は本当に素晴らしかったです",
    "这部电影非常精彩我很喜欢",
    "영화가 정말 재미있었어요",
    "फिल्म बहुत अच्छी थी",
    "الفيلم كان رائعا جدا",
    "הסרט היה מצוין",
    "หนังเรื่องนี้สนุกมาก",
    "Phim này rất hay và cảm động",
    "İstanbul'da ılık bir yaz ĞÜŞ",
    "ﬁnancial oﬃce ǆ Ǆ ĳ ß ẞ ſ",
    "Ｆｕｌｌ ｗｉｄｔｈ １２３ ，。！",
    "e\u0301 cafe\u0301 a\u0308 n\u0303 o\u0302\u0323",
    "①②③ ½ ¼ ² ³ ™ ℃ Ⅷ ㎏ ㍿",
    "👍 😀😀 👩\u200d👩\u200d👧 🏳️\u200d🌈 🇩🇪 ❤️",
    "don't can't we'll they're it's I'd",
    "``quoted'' and ''quoted`` and \"quoted\"",
    "1,234,567.89 $5.00 12:30 2024-01-02 v1.2.3",
    "https://example.org/a_b?c=d&e=f#g me@example.org",
    "snake_case camelCase ALLCAPS __init__ a/b\\c",
    "[CLS] text [SEP] more [MASK] [PAD] [UNK]",
    "<s> text </s> more <mask> <pad> <unk>",
    "<cls> text <sep> <eop> <eod> <extra_id_0> <mask_1> <unk_2>",
    "<|endoftext|> <|im_start|>user <|im_end|>",
    "eng_Latn en_XX de_DE fra_Latn __en__ >>fra<<",
    "\u2581already\u2581marked \u2581 words",
)
JOINS = (" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u2003", "")
JOINS += ("\u200b", "\u200d", "\ufeff", "\u00ad", "\x00", "\x01", "\x1f", "\x7f", "\x85", "\u2028")
JOINS += (", ", ". ", "... ", " - ", " \u2014 ", "!?", "'", '"', "`", "\ufffd", "\U000e0041")


def mixed_texts(count: int = 260, *, seed: int = 0) -> list[str]:
    """The same texts each time, no two alike, none of them blank."""
    draw = random.Random(seed)
    texts = dict.fromkeys(WORDS)
    while len(texts) < count:
        parts = []
        for _ in range(draw.randint(1, 4)):
            words = draw.choice(WORDS).split(" ")
            start = draw.randrange(len(words))
            parts += [" ".join(words[start : start + draw.randint(1, 6)]), draw.choice(JOINS)]
        text = "".join(parts if draw.random() < 0.5 else [draw.choice(JOINS), *parts])
        if text.strip():
            texts.setdefault(draw.choice([str, str.upper, str.title, str])(text))
    return list(texts)[:count]
