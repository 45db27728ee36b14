"""Parquet files of random schemas, values and bytes."""

import random
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NAMES = (
    "text", "id", "name", "n", "a b", "", "日本", "\x1b[2J", "x" * 300, "text.a", "_id",
    "TEXT", "a\nb", "\u202e", "__index_level_0__", "element", "list",
)  # fmt: skip
TEXTS = (
    "", " ", "x", "good text", "bad text", "日本 🎬", "a\x00b", "\x1b[2J", "\u202e",
    "long " * 2_000, "\n", "\ufeff", "e\u0301" * 20,
)  # fmt: skip
MOMENTS = (datetime(1, 1, 1), datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999))
SIMPLE: tuple[tuple[pa.DataType, Sequence[Any]], ...] = (
    (pa.string(), TEXTS),
    (pa.large_string(), TEXTS),
    (pa.dictionary(pa.int32(), pa.string()), TEXTS),
    (pa.binary(), (b"", b"x", b"\xff\xfe", b"a\x00")),
    (pa.binary(3), (b"abc", b"\xff\xff\xff")),
    (pa.int64(), (0, -1, 2**63 - 1, -(2**63))),
    (pa.uint64(), (0, 2**64 - 1)),
    (pa.int8(), (0, 127, -128)),
    (pa.float64(), (0.0, -0.0, 1.5, float("nan"), float("inf"), 5e-324)),
    (pa.float16(), (0.0, 1.5)),
    (pa.bool_(), (True, False)),
    (pa.null(), (None,)),
    (pa.date32(), (date(1, 1, 1), date(9999, 12, 31))),
    (pa.timestamp("us"), MOMENTS),
    (pa.timestamp("s", tz="UTC"), (datetime(2024, 1, 1, tzinfo=UTC), 2**40)),
    (pa.timestamp("ns"), (0, 1, 2**62)),
    (pa.time64("us"), (0, 1)),
    (pa.duration("s"), (timedelta(0), timedelta(days=10**6))),
    (pa.decimal128(38, 2), (Decimal("0.01"), Decimal("-999999999.99"))),
)


def column(draw: random.Random, rows: int, depth: int = 0) -> pa.Array:
    """A column of any type, with nulls."""
    nulls = draw.choice([0.0, 0.3, 1.0])
    kind = draw.randrange(12) if depth < 3 else 9
    if kind == 0:
        lengths = [draw.randrange(4) for _ in range(rows)]
        inner = column(draw, sum(lengths), depth + 1)
        ends = [sum(lengths[:at]) for at in range(rows + 1)]
        return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), inner)
    if kind == 1:
        names = draw.sample(NAMES, draw.randrange(1, 4))
        return pa.StructArray.from_arrays([column(draw, rows, depth + 1) for _ in names], names)
    if kind == 2:
        words = [[(draw.choice(TEXTS), draw.randrange(9))] for _ in range(rows)]
        return pa.array(words, pa.map_(pa.string(), pa.int64()))
    if kind == 3:  # text that is none
        raw = [draw.choice([b"ok", b"\xff", b"bad \x80", "é".encode()]) for _ in range(rows)]
        return pa.array(raw, pa.binary()).view(pa.string())
    dtype, values = draw.choice(SIMPLE[:3] if kind > 8 else SIMPLE)
    picked = [None if draw.random() < nulls else draw.choice(values) for _ in range(rows)]
    return pa.array(picked, dtype)


def write_random_file(draw: random.Random, path: Path) -> None:
    """A Parquet file, of which bytes may be wrong."""
    rows = draw.choice([0, 1, 2, 7, 30])
    names = ["text", *draw.choices(NAMES, k=draw.randrange(5))]
    if draw.random() < 0.1:
        names = names[1:]
    if draw.random() < 0.1:
        names.append(draw.choice(["errors", "loud"]))
    if draw.random() < 0.9:
        names = list(dict.fromkeys(names))
    draw.shuffle(names)
    columns = [
        column(draw, rows, 3 if name == "text" and draw.random() < 0.8 else 0) for name in names
    ]
    table = pa.Table.from_arrays(columns, names)
    pq.write_table(
        table,
        path,
        row_group_size=draw.choice([1, 3, 1_000]),
        compression=draw.choice(["none", "snappy", "zstd", "gzip"]),
        use_dictionary=draw.choice([True, False]),
        data_page_version=draw.choice(["1.0", "2.0"]),
        version="2.6",
        store_schema=draw.choice([True, True, False]),
    )
    raw = bytearray(path.read_bytes())
    match draw.randrange(12):
        case 0:
            del raw[draw.randrange(len(raw)) :]
        case 1 | 2:
            for _ in range(draw.choice([1, 3, 20])):
                raw[draw.randrange(len(raw))] = draw.randrange(256)
        case 3:
            at = draw.randrange(len(raw))
            raw[at:at] = draw.randbytes(draw.choice([1, 100]))
        case 4:
            raw = bytearray(draw.choice([b"", b"PAR1", b"PAR1PAR1", draw.randbytes(50)]))
    path.write_bytes(raw)
