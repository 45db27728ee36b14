"""Rows of other formats become Parquet shards; what is no row is kept aside, never lost."""

import base64
import bz2
import codecs
import gzip
import hashlib
import json
import math

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import zstandard
from click.testing import CliRunner
from helpers import own

from pipeline.cli.main import main
from pipeline.errors import JobError, OutputBusy, RunError
from pipeline.lake.ingest import json_lines, lines, reading
from pipeline.lake.ingest.importer import Importer
from pipeline.lake.ingest.origin import ImportOptions, find
from pipeline.lake.store.local import LocalStore
from pipeline.lake.store.open import open_store

pytestmark = pytest.mark.unit


@pytest.fixture
def raw(tmp_path):
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def imported(raw, *, size=128_000_000, rows=None, told=lambda _: None, out="out", **reading):
    """Imports a directory; gives the state, the rows and the bad lines."""
    origin, _ = find(str(raw), ImportOptions(**reading))
    dest = (raw if raw.is_dir() else raw.parent).parent / out
    state = Importer(origin, open_store(str(dest)), size, rows, told).run()
    return state, table_of(dest).to_pylist(), bad_lines(dest)


def table_of(dest):
    return pads.dataset(str(dest), format="parquet").to_table()


def bad_lines(dest):
    files = sorted((own(dest) / "bad-lines").rglob("*.jsonl"))
    found = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [{**line, "raw": base64.b64decode(line["raw"])} for line in found]


def shards_of(dest):
    return {str(p.relative_to(dest)): p.read_bytes() for p in sorted(dest.rglob("*.parquet"))}


def write_lines(path, rows):
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))


# JSON lines.


def test_json_lines_of_all_files_of_a_directory_become_one_tables_rows_in_order(raw):
    write_lines(raw / "a.jsonl", [{"id": 1, "t": "x"}, {"id": 2, "t": None}])
    write_lines(raw / "b.jsonl", [{"id": 3, "more": [1, 2]}])
    _, rows, bad = imported(raw)
    assert rows == [
        {"id": 1, "t": "x", "more": None},
        {"id": 2, "t": None, "more": None},
        {"id": 3, "t": None, "more": [1, 2]},
    ]
    assert bad == []


def test_a_types_width_follows_from_all_lines_and_not_from_the_first(raw):
    write_lines(
        raw / "a.jsonl",
        [{"n": 1, "o": {"a": 1}, "l": [], "e": {}}, {"n": 2.5, "o": {"b": [{}]}, "l": ["x"]}],
    )
    _, rows, bad = imported(raw)
    assert rows == [
        {"n": 1.0, "o": {"a": 1, "b": None}, "l": [], "e": {"_": None}},
        {"n": 2.5, "o": {"a": None, "b": [{"_": None}]}, "l": ["x"], "e": None},
    ]
    assert bad == []


def test_a_column_whose_kind_changes_keeps_its_first_and_the_other_lines_are_kept_aside(raw):
    good = [{"id": i} for i in range(500)]
    write_lines(raw / "a.jsonl", [*good, {"id": "x"}, {"id": 7}, {"id": {"deep": 1}}])
    state, rows, bad = imported(raw)
    assert [row["id"] for row in rows] == [*range(500), 7]
    assert [(line["line"], line["raw"]) for line in bad] == [
        (501, b'{"id": "x"}\n'),
        (503, b'{"id": {"deep": 1}}\n'),
    ]
    assert state.first_bad == f"{raw}/a.jsonl line 501: Column(/id) changed from number to string"


def test_text_that_looks_like_a_time_stays_text(raw):
    write_lines(raw / "a.jsonl", [{"t": "2024-01-01"}, {"t": "2024-01-01T00:00:00Z"}])
    assert imported(raw)[1] == [{"t": "2024-01-01"}, {"t": "2024-01-01T00:00:00Z"}]


BROKEN = {
    b'{"id": 1': "it is no JSON object",
    b"[1]": "it is no JSON object",
    b"12": "it is no JSON object",
    b'"text"': "it is no JSON object",
    b'{"id": 1}{"id": 2}': "it holds 2 objects",
    b'{"id": 1, "id": 2}': "Column(/id) was specified twice",
    b"{'id': 1}": "Missing a name for object member.",
    b'{"id": 1,}': "Missing a name for object member.",
    b'{"id": true}': "Column(/id) changed from number to boolean",
    b'{"id": 1.5}': "",
    b'{"t": "a\tb"}': "Invalid encoding in string.",
    b'{"t": "\\ud800"}': "The surrogate pair in string is invalid.",
    b'{"t": "a\0b"}': "it holds a NUL byte",
    b'{"t": "\xff"}': "it is not UTF-8: invalid start byte at byte 7",
    b'{"t": ' + b"[" * 100_000 + b"]" * 100_000 + b"}": "it is nested deeper than 60 levels",
    b'{"id": 1e999}': "Number too big to be stored in double.",
}


@pytest.mark.parametrize("broken", [line for line, why in BROKEN.items() if why])
def test_a_broken_line_is_kept_with_its_number_place_and_reason_and_its_neighbours_are_rows(
    raw, broken
):
    before, after = b'{"id": 1, "t": "x"}\n', b'{"id": 2, "t": "y"}\n'
    (raw / "a.jsonl").write_bytes(before + broken + b"\n\n" + after)
    _, rows, bad = imported(raw)
    assert [row["id"] for row in rows] == [1, 2]
    assert bad == [
        {
            "file": "a.jsonl",
            "line": 2,
            "offset": len(before),
            "bytes": len(broken) + 1,
            "reason": BROKEN[broken],
            "raw": broken + b"\n",
        }
    ]


def test_two_lines_that_would_make_two_objects_together_are_two_bad_lines(raw):
    (raw / "a.jsonl").write_bytes(b'{"id": 1}\n{"id": 2, "o": {"x": 1}\n}{"id": 3}\n{"id": 4}\n')
    _, rows, bad = imported(raw)
    assert [row["id"] for row in rows] == [1, 4]
    assert [line["line"] for line in bad] == [2, 3]


def test_an_integer_that_a_column_of_floats_would_change_is_a_bad_line(raw):
    (raw / "a.jsonl").write_bytes(
        b'{"n": 0.5, "o": [{"m": 1.5}]}\n{"n": 9007199254740993, "o": []}\n'
        b'{"n": 9007199254740992, "o": []}\n{"n": 1, "o": [{"m": 12345678901234567891}]}\n'
    )
    _, rows, bad = imported(raw)
    assert [row["n"] for row in rows] == [0.5, 9007199254740992.0]
    assert bad[0]["reason"] == "a column of floats would change the integer 9007199254740993"
    assert [line["line"] for line in bad] == [2, 4]


def test_large_integers_stay_what_they_are(raw):
    write_lines(raw / "a.jsonl", [{"n": 2**63 - 1}, {"n": -(2**63)}])
    assert [row["n"] for row in imported(raw)[1]] == [2**63 - 1, -(2**63)]


def test_python_writes_nan_and_it_is_read(raw):
    write_lines(raw / "a.jsonl", [{"n": math.nan}, {"n": 1.5}])
    assert math.isnan(imported(raw)[1][0]["n"])


def test_a_json_array_is_refused_with_the_mend(raw):
    (raw / "a.json").write_text(' [{"id": 1},\n{"id": 2}]')
    with pytest.raises(JobError, match=r"is a JSON array .* --format datasets"):
        imported(raw)


def test_a_line_longer_than_memory_should_hold_is_kept_by_its_beginning_and_place(raw, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 5_000)
    monkeypatch.setattr(reading, "KEPT_BYTES", 100)
    long = b'{"t": "' + b"x" * 3_000_000 + b'"}\n'
    (raw / "a.jsonl").write_bytes(b'{"t": "a"}\n' + long + b'{"t": "b"}\n')
    _, rows, bad = imported(raw)
    assert rows == [{"t": "a"}, {"t": "b"}]
    assert (bad[0]["line"], bad[0]["offset"], bad[0]["bytes"]) == (2, 11, len(long))
    assert bad[0]["raw"] == long[:100]


# CSV.


def csv_rows(raw, content, **reading):
    (raw / "a.csv").write_bytes(content)
    return imported(raw, **reading)


def test_fields_in_quotes_hold_delimiters_quotes_and_line_ends(raw):
    _, rows, bad = csv_rows(raw, b'id,t\r\n1,"a, ""b""\r\nc"\r\n2,d\r\n')
    assert rows == [{"id": 1, "t": 'a, "b"\r\nc'}, {"id": 2, "t": "d"}]
    assert bad == []


def test_types_are_those_that_give_back_the_text(raw):
    content = b"i,f,b,zip,big,e,mixed\n1,0.5,true,007,12345678901234567890,,1\n,2,false,10,1,,x\n"
    (raw / "a.csv").write_bytes(content)
    imported(raw)
    table = table_of(raw.parent / "out")
    assert [str(kind) for kind in table.schema.types] == [
        "int64", "double", "bool", "string", "string", "string", "string",
    ]  # fmt: skip
    assert table.to_pylist() == [
        {"i": 1, "f": 0.5, "b": True, "zip": "007", "big": "12345678901234567890", "e": "",
         "mixed": "1"},
        {"i": None, "f": 2.0, "b": False, "zip": "10", "big": "1", "e": "", "mixed": "x"},
    ]  # fmt: skip


def test_a_row_with_other_than_all_fields_is_kept_aside_whole(raw):
    _, rows, bad = csv_rows(raw, b'a,b\n1,2\n3\n4,5,6\n"7\n8",9,10\n11,12\n')
    assert rows == [{"a": 1, "b": 2}, {"a": 11, "b": 12}]
    assert [(line["line"], line["raw"], line["reason"]) for line in bad] == [
        (3, b"3\n", "it has 1 fields, not 2"),
        (4, b"4,5,6\n", "it has 3 fields, not 2"),
        (5, b'"7\n8",9,10\n', "it has 3 fields, not 2"),
    ]


def test_a_quote_that_is_never_closed_costs_its_own_line_alone(raw):
    body = b"".join(b"%d,x\n" % at for at in range(3, 500))
    _, rows, bad = csv_rows(raw, b'a,b\n1,x\n2,"open\n' + body)
    assert [row["a"] for row in rows] == [1, *range(3, 500)]
    assert [(line["line"], line["raw"]) for line in bad] == [(3, b'2,"open\n')]


def test_a_record_that_grows_without_end_is_given_up(raw, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST", 3_000)
    monkeypatch.setattr("pipeline.lake.ingest.delimited.LONGEST", 3_000)
    body = b"".join(b"%d,x\n" % at for at in range(3, 2_000))
    _, rows, bad = csv_rows(raw, b'a,b\n1,x\n2,"open\n' + body + b'9,"' + b"y" * 9_000 + b'"\n')
    assert [row["a"] for row in rows] == [1, *range(3, 2_000)]
    assert [line["line"] for line in bad] == [3, 2001]


def test_a_byte_that_is_no_utf8_and_a_nul_cost_the_record_that_holds_them(raw):
    _, rows, bad = csv_rows(raw, b'a,b\n1,"x\ny\xff"\n2,z\n3,\0\n')
    assert rows == [{"a": 2, "b": "z"}]
    assert [(line["line"], line["raw"]) for line in bad] == [(2, b'1,"x\ny\xff"\n'), (5, b"3,\0\n")]


@pytest.mark.parametrize("between", [b",", b";", b"\t", b"|"])
def test_the_delimiter_is_the_one_that_divides_the_first_line(raw, between):
    _, rows, _ = csv_rows(raw, between.join([b"a", b"b"]) + b"\n" + between.join([b"1", b"x"]))
    assert rows == [{"a": 1, "b": "x"}]


def test_a_delimiter_can_be_named(raw):
    assert csv_rows(raw, b"a:b,c\n1:2\n", delimiter=":")[1] == [{"a": 1, "b,c": 2}]


def test_a_column_that_is_there_twice_is_refused_and_one_without_a_name_gets_one(raw):
    with pytest.raises(JobError, match=r"a\.csv has the column 'a' 2 times"):
        csv_rows(raw, b"a,b,a\n1,2,3\n")
    assert csv_rows(raw, b",a\n0,1\n")[1] == [{"column_1": 0, "a": 1}]


def test_columns_of_several_files_are_matched_by_name(raw):
    (raw / "b.csv").write_bytes(b"b,a\nx,2.5\n")
    _, rows, _ = csv_rows(raw, b"a,c\n1,y\n")
    assert rows == [{"a": 1.0, "c": "y", "b": None}, {"a": 2.5, "c": None, "b": "x"}]


# Encodings, compression, text.


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_says_what_the_text_is_and_is_no_part_of_it(raw, encoding):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    content = mark + "text;n\né€😀;1\n".encode(encoding)
    assert csv_rows(raw, content)[1] == [{"text": "é€😀", "n": 1}]


def test_another_encoding_is_named_and_bytes_that_mean_nothing_in_it_are_bad(raw):
    content = b"t\ncaf\xe9\n\x81\n"
    with pytest.raises(JobError, match="no encoding 'latin-x'"):
        csv_rows(raw, content, encoding="latin-x")
    _, rows, bad = csv_rows(raw, content, encoding="cp1252")
    assert rows == [{"t": "café"}]
    assert [(line["line"], line["raw"]) for line in bad] == [(3, b"\x81\n")]


def test_a_text_file_is_a_row_a_line_blank_ones_too(raw):
    (raw / "a.txt").write_bytes("\ufeffone\r\n\ntwo\0\nthree".encode())
    _, rows, bad = imported(raw)
    assert rows == [{"text": "one"}, {"text": ""}, {"text": "three"}]
    assert [line["line"] for line in bad] == [3]


PACKED = {".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("end", PACKED)
def test_compressed_files_of_several_members_are_read_and_damaged_ones_refused(raw, end):
    content = [
        b"".join(b'{"n": %d}\n' % n for n in some) for some in (range(999), range(999, 2000))
    ]
    whole = b"".join(map(PACKED[end], content))
    (raw / f"a.jsonl{end}").write_bytes(whole)
    state, rows, _ = imported(raw, rows=300)
    assert [row["n"] for row in rows] == [*range(2000)]
    assert state.shards == 7
    (raw / f"a.jsonl{end}").write_bytes(whole[:-9])
    with pytest.raises(JobError, match=rf"a\.jsonl{end} can't be read"):
        imported(raw, out="other")


# Arrow and datasets.


def arrow_table():
    return pa.table(
        {
            "id": pa.array(range(2_500), pa.int32()),
            "when": pa.array([None, 5] * 1_250, pa.timestamp("us", "UTC")),
            "kind": pa.array(["a", "b"] * 1_250).dictionary_encode(),
        },
        metadata={"note": "kept"},
    )


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_and_streams_keep_types_and_metadata(raw, kind):
    table = arrow_table()
    with pa.OSFile(str(raw / "a.arrow"), "wb") as file:
        make = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=700)
    imported(raw, rows=999)
    shards = sorted((raw.parent / "out").glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in shards] == [999, 999, 502]
    found = pa.concat_tables([pq.read_table(path) for path in shards])
    assert found.cast(table.schema).equals(table)
    assert found.schema.types == table.schema.types
    assert found.schema.metadata[b"note"] == b"kept"


def test_arrow_columns_of_two_types_are_widened_or_refused(raw):
    import pyarrow.feather as feather

    feather.write_feather(pa.table({"n": pa.array([1], pa.int32())}), raw / "a.feather")
    feather.write_feather(pa.table({"n": pa.array([2**40])}), raw / "b.feather")
    assert imported(raw)[1] == [{"n": 1}, {"n": 2**40}]
    feather.write_feather(pa.table({"n": ["x"]}), raw / "b.feather")
    with pytest.raises(JobError, match=r"b\.feather has a column of type string, which is int32"):
        imported(raw, out="other")


@pytest.mark.parametrize("content", [b"no arrow at all", b"FEA1....", b"ARROW1\0\0\1\2\3\4\5\6"])
def test_what_is_no_arrow_file_is_refused(raw, content):
    (raw / "a.arrow").write_bytes(content)
    with pytest.raises(JobError, match=r"a\.arrow is no Arrow file that can be read"):
        imported(raw)


def test_what_parquet_cannot_hold_is_refused_by_column(raw):
    numbers, places = pa.array([0], pa.int8()), pa.array([0], pa.int32())
    table = pa.table({"u": pa.UnionArray.from_dense(numbers, places, [pa.array([1])])})
    with (
        pa.OSFile(str(raw / "a.arrow"), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)
    with pytest.raises(JobError, match="column 'u' of type dense_union"):
        imported(raw)


def test_saved_datasets_are_imported_split_by_split_with_their_features(raw):
    from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    parts = {
        name: Dataset.from_dict({"text": [name] * n, "label": [n % 2] * n}, features=features)
        for name, n in (("train", 5), ("test", 2))
    }
    DatasetDict(parts).save_to_disk(raw)
    imported(raw)
    out = raw.parent / "out"
    assert {path.parent.name for path in out.rglob("*.parquet")} == {"train", "test"}
    assert Dataset.from_parquet(str(next(out.glob("train/*")))).features == features
    assert table_of(out).num_rows == 7


def test_whatever_datasets_loads_is_imported_when_asked_for(raw, monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (raw / "a.json").write_text('[{"id": 1}, {"id": 2}]')
    assert imported(raw, format="datasets")[1] == [{"id": 1}, {"id": 2}]


# Sizes, resuming, refusals.


def many(raw, n=4_000):
    write_lines(raw / "a.jsonl", [{"id": i, "t": f"{i * 7919 % 10_007} " * 20} for i in range(n)])


def test_a_shard_ends_at_its_size_or_rows_and_shards_are_the_same_bytes_each_time(raw):
    texts = (hashlib.sha512(str(i).encode()).hexdigest() * 2 for i in range(12_000))
    write_lines(raw / "a.jsonl", [{"t": text} for text in texts])
    imported(raw, size=200_000, out="one")
    imported(raw, size=200_000, out="two")
    one, two = (shards_of(raw.parent / out) for out in ("one", "two"))
    assert one == two
    sizes = [len(content) for content in one.values()]
    assert len(sizes) > 3
    assert all(200_000 <= size < 400_000 for size in sizes[:-1])


class Stop(Exception):
    pass


@pytest.mark.parametrize("shards", [0, 1, 3])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "txt"])
def test_an_import_that_stops_goes_on_and_ends_with_the_same_bytes(raw, shards, kind):
    def text(i):
        return f"{i * 7919 % 10_007} " * 30

    lines = {
        "jsonl": lambda i: json.dumps({"id": i, "t": text(i)}) if i % 90 else "{broken}",
        "jsonl.gz": lambda i: json.dumps({"id": i, "t": text(i)}),
        "csv": lambda i: f'{i},"{text(i)}\n, ""x"""' if i % 50 else "1,2,3",
        "txt": text,
    }
    for name in ("a", "b"):
        content = "\n".join(map(lines[kind], range(1, 2_000)))
        content = f"id,t\n{content}\n" if kind == "csv" else content
        packed = gzip.compress(content.encode()) if kind.endswith("gz") else content.encode()
        (raw / f"{name}.{kind}").write_bytes(packed)

    def told(state):
        if state.phase == "importing" and state.shards == shards:
            raise Stop

    whole = imported(raw, rows=700, out="whole")
    with pytest.raises(Stop):
        imported(raw, rows=700, told=told)
    again = imported(raw, rows=700)
    assert again == whole or again[0].bad_in != whole[0].bad_in
    assert again[1:] == whole[1:]
    assert shards_of(raw.parent / "out") == shards_of(raw.parent / "whole")
    once_more = imported(raw, rows=700)
    assert (once_more[0].rows, once_more[0].bad) == (whole[0].rows, whole[0].bad)
    assert once_more[1:] == whole[1:]


def test_a_shard_that_was_removed_is_made_again(raw):
    many(raw)
    imported(raw, rows=1_000)
    out = raw.parent / "out"
    before = shards_of(out)
    sorted(out.glob("*.parquet"))[1].unlink()
    imported(raw, rows=1_000)
    assert shards_of(out) == before


def test_a_damaged_shard_is_refused_until_it_is_removed(raw):
    many(raw)
    imported(raw, rows=1_000)
    shard = sorted((raw.parent / "out").glob("*.parquet"))[2]
    shard.write_bytes(shard.read_bytes()[:-50])
    with pytest.raises(JobError, match="is not what was imported"):
        imported(raw, rows=1_000)


def test_changed_files_and_other_options_are_another_import_and_need_another_directory(raw):
    many(raw)
    imported(raw)
    with pytest.raises(JobError, match="of another import"):
        imported(raw, rows=10)
    write_lines(raw / "b.jsonl", [{"id": 0}])
    with pytest.raises(JobError, match="of another import"):
        imported(raw)


def test_a_directory_with_other_files_is_left_alone(raw):
    many(raw)
    out = raw.parent / "out"
    out.mkdir()
    pq.write_table(pa.table({"a": [1]}), out / "other.parquet")
    with pytest.raises(JobError, match=r"no import has written, such as other\.parquet"):
        imported(raw)


def test_a_file_that_changes_meanwhile_ends_the_import_before_its_shard(raw):
    many(raw)

    def told(state):
        if state.phase == "importing" and not changed:
            changed.append(1)
            with (raw / "a.jsonl").open("ab") as file:
                file.write(b'{"id": 1}\n')

    changed = []
    with pytest.raises(RunError, match=r"a\.jsonl has changed while it was read"):
        imported(raw, told=told)


def test_of_two_imports_into_one_directory_the_later_goes_on_and_the_earlier_stops(raw):
    many(raw)

    def told(state):
        if state.phase == "importing" and not state.shards and not begun:
            begun.append(1)
            imported(raw, rows=700)

    begun = []
    with pytest.raises(OutputBusy, match="another import"):
        imported(raw, told=told)
    assert table_of(raw.parent / "out").num_rows == 4_000


def test_an_import_that_another_has_left_nothing_of_is_taken_over(raw):
    many(raw)

    def told(_):
        raise Stop

    with pytest.raises(Stop):
        imported(raw, told=told)
    assert len(imported(raw, rows=2_000)[1]) == 4_000


def test_directories_stay_and_their_files_are_cut_together(raw):
    for year in ("year=2025", "year=2026"):
        (raw / year).mkdir()
        for name in "ab":
            write_lines(raw / year / f"{name}.jsonl", [{"id": 1}] * 3)
    imported(raw)
    shards = shards_of(raw.parent / "out")
    assert [name.partition("/")[0] for name in shards] == ["year=2025", "year=2026"]


def test_empty_files_hold_no_rows_and_alone_they_are_refused(raw):
    (raw / "a.jsonl").write_bytes(b"")
    (raw / "b.jsonl").write_bytes(codecs.BOM_UTF8)
    (raw / "c.jsonl").write_bytes(b"\n\n")
    with pytest.raises(JobError, match="holds no row that can be read"):
        imported(raw)
    write_lines(raw / "d.jsonl", [{"id": 1}])
    assert imported(raw)[1] == [{"id": 1}]


def test_a_csv_of_a_header_alone_is_a_shard_without_rows(raw):
    assert csv_rows(raw, b"a,b\n")[1] == []
    assert table_of(raw.parent / "out").column_names == ["a", "b"]


def test_one_file_and_a_pattern_name_what_is_read(raw):
    write_lines(raw / "a.jsonl", [{"id": 1}])
    write_lines(raw / "b.jsonl", [{"id": 2}])
    (raw / "c.csv").write_bytes(b"id\n3\n")
    assert imported(raw / "b.jsonl", out="one")[1] == [{"id": 2}]
    assert imported(raw / "*.jsonl", out="raw/two")[1] == [{"id": 1}, {"id": 2}]
    with pytest.raises(JobError, match="files of several formats: 2 of json, 1 of csv"):
        imported(raw)


def test_a_file_that_cannot_be_listed_is_named_and_not_passed_over(raw):
    write_lines(raw / "a.jsonl", [{"id": 1}])
    (raw / "b.jsonl").symlink_to("nowhere")
    (raw / "c.pdf").symlink_to("nowhere")
    with pytest.raises(JobError, match=r"b\.jsonl can't be read"):
        imported(raw)
    (raw / "b.jsonl").unlink()
    assert imported(raw)[1] == [{"id": 1}]


def test_a_destination_that_can_hold_no_files_is_refused_at_once(raw, monkeypatch):
    write_lines(raw / "a.jsonl", [{"id": 1}])
    for out in ("raw/a.jsonl", "raw/a.jsonl/below/it"):
        with pytest.raises(JobError, match=r"can't hold shards: .*a\.jsonl is a file"):
            imported(raw, out=out)
    monkeypatch.setattr(LocalStore, "create", lambda *_: (_ for _ in ()).throw(OSError(13, "no")))
    with pytest.raises(JobError, match=r"out can't be written: no"):
        imported(raw)


# The command.


def call(*arguments):
    return CliRunner().invoke(main, ["import", *map(str, arguments)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "nowhere holds no file"),
        (["raw", "out", "--size", "much"], "--size 'much' is no size"),
        (["raw", "out", "--size", "0"], "--size '0' is no size"),
        (["raw", "out", "--rows", "0"], "0 is not in the range"),
        (["raw", "out", "--format", "xml"], "there is no format 'xml'"),
        (["raw", "out", "--encoding", "none"], "there is no encoding 'none'"),
        (["raw", "out", "--delimiter", "ab"], "'ab' is no character"),
        (["other", "out"], "other holds no file that can be told by its name, x.pdf"),
        (["lake", "out"], "lake is Parquet already"),
        (["raw", "ftp://out"], "the scheme ftp:// is unknown"),
    ],
)
def test_what_cannot_be_imported_is_told_in_a_line_with_exit_code_2(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("raw/a.jsonl", "other/x.pdf", "lake/x.parquet"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    done = call(*arguments)
    assert (done.exit_code, message in done.output) == (2, True), done.output


def test_bad_lines_are_told_and_too_many_end_with_1(raw):
    (raw / "a.jsonl").write_bytes(b'{"id": 1}\n{"id": 2}\nbroken\n')
    done = call(raw, raw.parent / "out", "--json")
    assert done.exit_code == 1
    said = json.loads(done.stdout)
    assert (said["rows"], said["shards"], said["bad_lines"]) == (2, 1, 1)
    assert "a.jsonl line 3: it is no JSON object" in done.stderr
    assert "more bad lines than --bad-lines 0.1 allows" in done.stderr
    assert call(raw, raw.parent / "out", "--bad-lines", "1").exit_code == 0
    assert json_lines.DEEPEST == 60
