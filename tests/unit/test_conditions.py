"""A condition is an expression over one row: what it may hold, and what it gives."""

import contextlib
import datetime
import random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.conditions.condition import DEEPEST, LONGEST, condition_names, rows_where
from pipeline.conditions.may_hold import may_hold_between
from pipeline.errors import JobError

pytestmark = pytest.mark.unit

DAY = datetime.date(2024, 1, 1)
TABLE = pa.table(
    {
        "n": [1, 2, None, 4],
        "u": pa.array([1, 2**64 - 1, None, 0], pa.uint64()),
        "f": pa.array([0.7, 0.1, None, 1.0], pa.float32()),
        "d": [1.5, -1.0, None, 0.0],
        "s": ["abc", "1", None, "it's 100%"],
        "b": [True, False, None, True],
        "day": pa.array([DAY, DAY, DAY, None]),
        "at": pa.array([1704067200 * 10**6] * 4, pa.timestamp("us", "Europe/Berlin")),
        "st": [{"score": 0.5, "in": {"x": 1}}, None, {"score": None, "in": None}, {"score": 0.9}],
        "l": [[1], [], None, [2]],
        "price": pa.array([1, 2, 3, None], pa.decimal128(10, 2)),
        "cat": pa.array(["x", "y", None, "x"]).dictionary_encode(),
        "none": pa.nulls(4),
        "raw": [b"x", None, b"", b"y"],
        "a b": [1, 2, 3, 4],
        "big": [2**62] * 4,
    }
)


def held(condition: str) -> str:
    """The rows for which it holds, as digits."""
    found = rows_where(condition, TABLE)
    assert len(found) == TABLE.num_rows
    return "".join(str(at) for at, holds in enumerate(found) if holds)


def refusal(condition: str) -> str:
    """What is said of it, without a row as with some."""
    with pytest.raises(JobError) as caught:
        rows_where(condition, TABLE)
    with pytest.raises(JobError) as before:
        rows_where(condition, TABLE.slice(0, 0))
    assert caught.value.hint
    assert str(before.value) == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "condition",
    [
        "n in (select column_1 from read_csv('{file}'))",
        "n in (select * from read_parquet('{file}'))",
        "n in ('x', (select 1))",
        "(select count(*) from read_csv('{file}')) > 0",
        "exists(select 1 from read_csv('{file}'))",
        "exists (select 1)",
        "n = any(select 1)",
        "n in unnest(l)",
        "read_csv('{file}') is null",
        "case when exists(select 1) then true end",
        "lower((select 'x')) = 'x'",
        "with x as (select 1) select 1",
        "select 1",
        "n = 1; select 1",
        "n = 1 /* */ union select 1",
    ],
)
def test_a_condition_reads_no_file_and_holds_no_query(condition: str, tmp_path: Any) -> None:
    file = tmp_path / "secret.csv"
    file.write_text("column_1\n1\n")
    said = refusal(condition.format(file=file))
    assert said.startswith("the condition `")


@pytest.mark.parametrize(
    ("condition", "name"),
    [
        ("n >= avg(n)", "avg"),
        ("n > avg(n) over ()", "avg OVER"),
        ("n > min(n) over (partition by s)", "min OVER"),
        ("row_number() over () > 1", "row_number OVER"),
        ("count(*) > 1", "count"),
        ("sum(n) > 1", "sum"),
        ("any_value(n) = 1", "any_value"),
        ("n = 1 and max(coalesce(n, 0)) = 4", "max"),
    ],
)
def test_what_looks_at_other_rows_is_refused_by_name(condition: str, name: str) -> None:
    assert f"{name} looks at other rows" in refusal(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "lag(n) = 1",
        "random() > 0.5",
        "now() > at",
        "current_date > day",
        "getenv('HOME') = 'x'",
        "version() = 'x'",
        "read_parquet('x') is null",
        "list_filter(l, x -> x > 1) is null",
        "x -> x + 1",
        "lower(distinct s) = 'a'",
        "trim(both 'x' from s) = 'a'",
        "n = ?",
        "n = :x",
        "n = @x",
        "l[0] = 1",
        "{'a': 1} is null",
        "(n, b) = (1, true)",
        "n & 1 = 1",
        "n in l",
        "s collate nocase = 'a'",
        "s like any ('a')",
        "s like 'a!%' escape '!'",
        "*",
        "st.*",
        "columns('n') > 1",
        "columns(*) > 1",
        "cast(n as struct<a int>) = 1",
        "interval '1' day",
        "n = 1; n = 2",
        "n = 1 n = 2",
        "n ===",
        "",
        " ",
        "'",
        '"',
        "/*",
        "n = 1\x00",
        "`n` = 1",
        "s = '\ud800'",
        "s like n",
        "n = 1e400",
        "n = " + "9" * 60,
        "st.score.lower() = 1",
        "n",
        "'x'",
        "n + 1",
        "l",
        "st",
        "n and b",
        "not n",
        "case when n then true end",
        "s < 5",
        "n = 'x'",
        "s = day",
        "b = 1",
        "l = 1",
        "st = 1",
        "raw = 'x'",
        "s in (1)",
        "s between 1 and 2",
        "coalesce(n, s) = 1",
        "length(n) = 1",
        "n + s = 1",
        "n || s = 'x'",
        "cast(l as text) = ''",
        "cast(day as int) = 1",
        "cast(n as boolean)",
        "day = 'soon'",
        "abs(s) = 1",
        "n like '1'",
        "st.scor > 1",
        "n.x > 1",
        "nn = 1",
        's = "abc"',
        "b is 1",
    ],
)
def test_whatever_else_is_refused_with_the_mend(condition: str) -> None:
    refusal(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 3000 + "n=1" + ")" * 3000,
        "(" * LONGEST,
        "not " * 3000 + "b",
        "- " * 3000 + "n = 1",
        "case when " * 2000,
        "n + " * 3000 + "1 = 1",
        "[" * 3000,
        "st." * 3000 + "x = 1",
        "b = not " * 300 + "b",
        "lower(" * 300 + "s" + ")" * 300,
        "x" * (LONGEST + 1),
        "n between " * 2000 + "1",
        "(" * (DEEPEST + 1) + "b" + ")" * (DEEPEST + 1),
    ],
    ids=lambda condition: f"{condition[:10]} {len(condition)}",
)
def test_what_is_too_deep_or_too_long_is_one_short_line(condition: str) -> None:
    said = refusal(condition)
    assert len(said) < 1000
    assert "\n" not in said


def test_long_chains_and_lists_are_read() -> None:
    assert held(" and ".join(["n = 1"] * 2000)) == "0"
    assert held(" or ".join(f"s = '{at}'" for at in range(2000))) == "1"
    assert held(f"n in ({', '.join(map(str, range(4, 5000)))})") == "3"
    assert held("case " + "".join(f"when n = {n} then {n} " for n in range(300)) + "end = 4") == "3"
    assert held("(" * DEEPEST + "n = 1" + ")" * DEEPEST) == "0"


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("n > 1", "13"),
        ("u = 18446744073709551615", "1"),
        ("u > 1.5", "1"),
        ("f = 0.7", "0"),
        ("f < 0.7", "1"),
        ("f in (0.7, 0.1)", "01"),
        ("f between 0.7 and 1", "03"),
        ("-n < -1", "13"),
        ("n / 2 = 0.5", "0"),
        ("n % 2 = 0", "13"),
        ("d * 2 + 1 = 4", "0"),
        ("round(d) = 2 or floor(d) = 1 or abs(d) = 1", "01"),
        ("price = 1", "0"),
        ("price <= 2.0", "01"),
        ("s = 'abc' OR s = 'it''s 100%'", "03"),
        ("s like '%b%'", "0"),
        ("s like 'it_s 100%'", "3"),
        ("s like '_'", "1"),
        ("s ilike 'ABC'", "0"),
        ("s not like 'a%'", "13"),
        ("contains(s, '%')", "3"),
        ("starts_with(s, 'a') or ends_with(s, '%')", "03"),
        ("length(s) > 2 and upper(lower(s)) = 'ABC'", "0"),
        ("trim(' ' || s || ' ') = 'abc'", "0"),
        ("concat(s, 'x') = '1x'", "1"),
        ("cast(s as int) = 1 or s::double = 1", "1"),
        ("cast(n as text) = '4' or cast(b as int) = 0", "13"),
        ("day = '2024-01-01' and day >= date '2023-12-31'", "012"),
        ("at = timestamp '2024-01-01 00:00:00' and at < '2024-01-02'", "0123"),
        ("day <= at", "012"),
        ("cast('2024-01-01T02:00:00+02:00' as timestamp) = at", "0123"),
        ("cat in ('x', 'q')", "03"),
        ("st.score < 0.7", "0"),
        ("st.in.x = 1", "0"),
        ('"a b" > 3 and "n" = 4', "3"),
        ("case when n > 1 then 'x' else 'y' end = 'y'", "02"),
        ("case n when 1 then true else false end or if(n = 2, true, false)", "01"),
        ("n = 1 -- or true", "0"),
        ("n /* or */ = 1", "0"),
        ("b", "03"),
        ("b is not true", "12"),
        ("true", "0123"),
        ("1 = 1 and 2 < 3", "0123"),
        ("1 = 2", ""),
    ],
)
def test_what_a_condition_holds_for(condition: str, rows: str) -> None:
    assert held(condition) == rows


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("n is null", "2"),
        ("st is null", "1"),
        ("l is not null", "013"),
        ("raw is null", "1"),
        ("none is null", "0123"),
        ("none = 1", ""),
        ("null", ""),
        ("n = null", ""),
        ("not n = 1", "13"),
        ("n in (1, null)", "0"),
        ("n not in (1, null)", ""),
        ("n not in (1, 4)", "1"),
        ("n in (d, 2)", "1"),
        ("b and null", ""),
        ("b or null", "03"),
        ("not (b and null)", "1"),
        ("n is distinct from null", "013"),
        ("coalesce(n, 0) = 0", "2"),
    ],
)
def test_null_is_neither_true_nor_false(condition: str, rows: str) -> None:
    assert held(condition) == rows


@pytest.mark.parametrize(
    "condition",
    [
        "n / 0 > 1",
        "n % 0 = 0",
        "1 / 0 = 1",
        "big * big * big > 0",
        "big * big * big <= 0",
        "cast('x' as int) = 1",
        "cast('soon' as date) = day",
        "cast(1e30 * 1e30 * n as int) = 1",
    ],
)
def test_what_can_not_be_computed_for_a_row_does_not_hold_for_it(condition: str) -> None:
    assert held(condition) == ""
    assert held(f"({condition}) is null") == "0123"


def test_integers_do_not_overflow_silently() -> None:
    assert held("big + big + big > 0") == "0123"
    assert held("big * 4 = 18446744073709551616") == "0123"


def test_the_columns_of_a_condition_are_those_it_looks_at_and_no_others() -> None:
    names = condition_names("a.b.c > 1 and d in (e, 'f') and \"g h\".i is null and a.x = 1")
    assert sorted(names) == ["a", "d", "e", "g h"]


def test_a_field_that_is_not_there_is_told_with_those_that_are() -> None:
    said = refusal("st.scor > 1")
    assert "no field of `st` called `scor`; there are score, in. Name `score`" in said


NUMBERS = st.sampled_from(["n", "d", "f", "u", "0", "1", "2.5", "-1", "length(s)", "null"])
TEXTS = st.sampled_from(["s", "t", "'a'", "''", "'A%'", "lower(s)", "s || t", "cast(n as text)"])


def arithmetic(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.tuples(inner, st.sampled_from("+-*/%"), inner).map(lambda p: f"({' '.join(p)})"),
        inner.map(lambda a: f"abs({a})"),
        inner.map(lambda a: f"cast({a} as int)"),
        st.tuples(inner, inner).map(lambda p: f"coalesce({p[0]}, {p[1]})"),
    )


NUMBER = st.recursive(NUMBERS, arithmetic, max_leaves=4)
COMPARISON = st.sampled_from(["=", "<>", "<", "<=", ">", ">=", "is distinct from"])
TEST = st.one_of(
    st.tuples(NUMBER, COMPARISON, NUMBER).map(" ".join),
    st.tuples(TEXTS, COMPARISON, TEXTS).map(" ".join),
    st.tuples(NUMBER, NUMBER, NUMBER).map(lambda p: f"{p[0]} between {p[1]} and {p[2]}"),
    st.tuples(NUMBER, NUMBER, NUMBER).map(lambda p: f"{p[0]} in ({p[1]}, {p[2]})"),
    st.tuples(TEXTS, st.sampled_from(["like 'a%'", "ilike '_'", "is null", "in ('a', t)"])).map(
        " ".join
    ),
    NUMBER.map(lambda a: f"{a} is not null"),
    st.sampled_from(["b", "b is true", "cast(s as double) > 1", "cast(s as date) is null"]),
)
CONDITION = st.recursive(
    TEST,
    lambda inner: st.one_of(
        inner.map(lambda a: f"not ({a})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda p: f"({' '.join(p)})"),
        st.tuples(inner, inner).map(lambda p: f"case when {p[0]} then {p[1]} else b end"),
    ),
    max_leaves=5,
)
ROW = st.fixed_dictionaries(
    {
        "n": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2),
        "u": st.none() | st.integers(0, 2**64 - 1),
        "d": st.none() | st.floats(),
        "f": st.none() | st.floats(width=32),
        "s": st.none() | st.text(max_size=3) | st.sampled_from(["1", "1.5", "2024-01-01", "a"]),
        "t": st.none() | st.text(max_size=2),
        "b": st.none() | st.booleans(),
    }
)
SCHEMA = pa.schema(
    [
        ("n", pa.int64()),
        ("u", pa.uint64()),
        ("d", pa.float64()),
        ("f", pa.float32()),
        ("s", pa.string()),
        ("t", pa.string()),
        ("b", pa.bool_()),
    ]
)


@pytest.mark.parametrize(
    "condition",
    [
        "(n + coalesce(null, null)) is null",
        "coalesce(null, null) is null and s is null",
        "(n = coalesce(null, null)) is null",
        "upper(case when true then null else null end) is null",
    ],
)
def test_what_is_null_in_all_its_parts_goes_with_any_kind(condition: str) -> None:
    assert rows_where(condition, pa.Table.from_pylist([{}], SCHEMA)) == [True]


@settings(max_examples=150, deadline=None)
@given(CONDITION, st.lists(ROW, min_size=1, max_size=6), st.randoms())
def test_a_row_decides_for_itself_whatever_rows_are_beside_it(
    condition: str, rows: list[dict[str, Any]], random: Any
) -> None:
    alone = [rows_where(condition, pa.Table.from_pylist([row], SCHEMA))[0] for row in rows]
    assert rows_where(condition, pa.Table.from_pylist(rows, SCHEMA)) == alone
    order = random.sample(range(len(rows)), len(rows))
    mixed = pa.Table.from_pylist([rows[at] for at in order], SCHEMA)
    assert rows_where(condition, mixed) == [alone[at] for at in order]
    chunks = pa.concat_tables([mixed, pa.Table.from_pylist([], SCHEMA), mixed])
    assert rows_where(condition, chunks) == [alone[at] for at in order] * 2


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ns bB'\"()[]{}.,;*+-/%<>=!|&^~@:?$#\\0123456789eE\n\x00é(", max_size=40))
def test_any_text_is_a_condition_or_is_refused(condition: str) -> None:
    with contextlib.suppress(JobError):
        rows_where(condition, TABLE)


@pytest.mark.parametrize("seed", range(60))
def test_bounds_never_rule_out_a_lot_that_has_a_row_for_which_the_condition_holds(
    seed: int,
) -> None:
    draw = random.Random(seed)
    lots = []
    for _ in range(12):
        start = draw.randrange(20)
        a = [draw.choice([None, *range(start, start + 5)]) for _ in range(4)]
        b = [draw.choice([None, *"abcdefgh"]) for _ in range(4)]
        lots.append(pa.table({"a": pa.array(a, pa.int32()), "b": pa.array(b, pa.string())}))
    a_part = f"a {draw.choice(['<', '<=', '>', '>=', '='])} {draw.randrange(25)}"
    b_part = draw.choice(["b IN ('a', 'h')", "b BETWEEN 'b' AND 'c'", "'d' < b", "b = 'e'"])
    more = draw.choice(["NOT a = 3", "b IS NULL", "length(b) = 1", "a + 1 > 4", "a > 3.5"])
    joined = draw.choice(["AND", "OR"])
    condition = f"({a_part} {joined} {b_part}) {draw.choice(['AND', 'OR'])} {more}"
    ends = [
        pa.table(
            {
                name: pa.array(
                    [
                        end(
                            [v for v in lot.column(name).to_pylist() if v is not None], default=None
                        )
                        for lot in lots
                    ],
                    lots[0].schema.field(name).type,
                )
                for name in ("a", "b")
            }
        )
        for end in (min, max)
    ]
    may = may_hold_between(condition, *ends)
    for lot, is_possible in zip(lots, may, strict=True):
        assert is_possible or not any(rows_where(condition, lot)), condition
