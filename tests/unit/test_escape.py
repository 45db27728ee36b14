"""Nothing that comes from data steers a terminal or hides from it; nothing ends in a traceback."""

import io
import json
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from helpers import PATIENCE

from pipeline.cli import display, main, say
from pipeline.cli.render import brief, print_rows, rows_of
from pipeline.errors import JobError
from pipeline.escape import json_line, visible
from pipeline.records.schema import FailedSplit, Summary

pytestmark = pytest.mark.unit

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07",
    "\x9b31m",
    "\r\x08\x7f",
    "a\nError: not ours",
    "\u202egnp.exe",
    "\u2066x\u2069",
    "\u200bzero\u200d\ufeffwidth",
    "\u2028line\u2029",
    "\ud800half\udcff",
    "\U000e0041tag",
    "\x00",
)


def dangerous(text: str) -> list[str]:
    """What a terminal should never get, by another way than the code's."""
    return re.findall(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
        "\ud800-\udfff\U000e0000-\U000e007f]",
        text,
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_what_steers_a_terminal_is_spelled_out(text: str) -> None:
    assert dangerous(text + "\x00")
    shown = visible(text)
    assert not dangerous(shown)
    assert "\n" not in shown
    assert shown.encode("utf-8")


@pytest.mark.parametrize("text", ["plain", "über 日本語 émoji 🎬", "C:\\data", "a\u00a0b", ""])
def test_ordinary_text_of_any_script_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_every_character_of_unicode_that_hides_is_spelled_out() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert visible(character).isascii()
            assert len(visible(character)) > 1


def test_a_long_text_is_cut_in_the_middle() -> None:
    shown = visible("x" * 500 + "end", most=40)
    assert len(shown) == 40
    assert shown.endswith("end")


@pytest.mark.parametrize("text", HOSTILE)
def test_json_for_a_terminal_is_json_and_says_the_same(text: str) -> None:
    content = {text: [text, "日本"], "n": 1}
    line = json_line(content)
    assert not dangerous(line)
    assert "\n" not in line
    assert json.loads(line) == content
    assert "日本" in line


def test_json_has_no_number_that_is_none() -> None:
    def refuse(word: str) -> None:
        raise AssertionError(word)

    line = json_line({"a": [float("nan"), float("inf"), 1.5], "b": {"c": -float("inf")}})
    assert json.loads(line, parse_constant=refuse) == {"a": [None, None, 1.5], "b": {"c": None}}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: {"label": t, "score": 0.5, "scores": []},
        lambda t: [{"label": t, "text": t, "start": 0, "end": 1, "score": 0.5}],
        lambda t: {"text": t, "truncated": True},
        lambda t: [{"task": t, "code": "model_error", "message": t}],
        lambda t: {"label": t},
        lambda t: {t: [t, {"score": t, "label": t}]},
        lambda t: t.encode("utf-8", "surrogatepass"),
    ],
)
def test_a_cell_of_any_shape_is_escaped(text: str, wrap) -> None:
    assert not dangerous(brief(wrap(text)))


def test_a_table_of_rows_is_escaped_its_columns_too(capsys: pytest.CaptureFixture[str]) -> None:
    for text in HOSTILE:
        print_rows([{text: text}], columns=[text])
        # ANSI is only rich's own, and a captured stream gets none.
        assert not dangerous(capsys.readouterr().out)


def test_rows_that_python_has_no_value_for_can_be_shown() -> None:
    raw = pa.array([b"good", b"b\xffd", None], pa.binary())
    far = pa.array([0, 2**62, None], pa.int64()).cast(pa.timestamp("s"))
    table = pa.table({"text": raw.view(pa.string()), "when": far, "n": [1, 2, 3]})
    rows = rows_of(table)
    assert [row["text"] for row in rows] == ["good", "b\\xffd", None]
    assert [row["n"] for row in rows] == [1, 2, 3]
    assert rows[1]["when"] == "<timestamp[s] that can't be shown>"
    assert all(json.loads(json_line(row)) for row in rows)


def run(*arguments: str):
    return CliRunner().invoke(main.main, [str(argument) for argument in arguments])


@pytest.mark.parametrize("text", HOSTILE)
def test_what_the_user_wrote_is_escaped_in_errors(tmp_path: Path, text: str) -> None:
    if "\x00" not in text and "\ud800" not in text:
        for arguments in ([text], ["validate", text], ["validate", "x", f"--{text}"]):
            done = run(*arguments)
            assert done.exit_code == 2
            assert not dangerous(done.output)
            assert len(done.output.splitlines()) <= 2


def test_file_names_and_columns_are_escaped_in_errors_and_show(tmp_path: Path) -> None:
    lake = tmp_path / "la\x1b[31mke"
    lake.mkdir()
    pq.write_table(pa.table({"\x1b[2Jtext": ["x"]}), lake / "a\nb\x9b.parquet")
    job = tmp_path / "job.yaml"
    content = {
        "name": "x",
        "input": {"path": str(lake), "text": "te\u202ext"},
        "output": {"path": str(tmp_path / "out")},
        "tasks": {"a": {"kind": "classify", "model": "starter/sentiment"}},
    }
    job.write_text(yaml.safe_dump(content))
    done = run("validate", str(job))
    assert done.exit_code == 2
    assert "\\x1b[31m" in done.output
    assert "\\u202e" in done.output
    assert not dangerous(done.output)
    assert len(done.output.splitlines()) == 1


def test_the_end_of_a_run_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    for text in HOSTILE:
        summary = Summary(
            run="r",
            job=text,
            state="failed",
            exit_code=1,
            started="",
            seconds=1.0,
            input=text,
            output="out" if {"\x00", "\ud800"} & set(text) else text,  # else it is no path
            error=text,
            failed_splits=[FailedSplit(path=text, reason=text)],
        )
        for shown in (display.PlainDisplay(), display.JsonDisplay()):
            shown.summary(summary, command=text)
            shown.notice(text)
        said = capsys.readouterr()
        assert not dangerous(said.out + said.err)
        events = [json.loads(line) for line in said.out.splitlines() if line.startswith("{")]
        assert [event["event"] for event in events] == ["summary", "notice"]
        assert events[1]["text"] == text


def test_a_notice_above_the_bar_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    bar = display.BarDisplay()
    stream = io.StringIO()
    bar._console.file = stream
    bar.notice("\x1b[2J\u202e[bold]")
    assert stream.getvalue().strip() == "\\x1b[2J\\u202e[bold]"


def test_a_terminal_that_knows_ascii_alone_is_no_reason_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    say.say("日本")
    say.say_json({"a": "日本"})
    stream.flush()
    first, second = raw.getvalue().decode("ascii").splitlines()
    assert first == "\\u65e5\\u672c"
    assert json.loads(second) == {"a": "日本"}


@pytest.mark.parametrize(
    "error", [ValueError("x\nTraceback"), KeyError("\x1b"), RecursionError(), MemoryError()]
)
def test_what_nobody_foresaw_is_one_line_that_says_where_the_rest_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(main._Verbs, "get_command", lambda *_: broken)
    done = run("validate")
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: this was not foreseen: {type(error).__name__}")
    (file,) = tmp_path.glob("shardscribe-*.log")
    assert str(file) in line
    assert "Traceback" in file.read_text()
    assert "in broken" in file.read_text()


def test_ctrl_c_ends_with_its_own_code(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def slow() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main._Verbs, "get_command", lambda *_: slow)
    assert run("validate").exit_code == 3


def test_a_reader_that_closes_the_pipe_sees_no_traceback() -> None:
    code = (
        "import sys\nfrom pipeline.cli import main, say\nimport click\n"
        "@click.command()\ndef many():\n for _ in range(100000): say.say('x' * 100)\n"
        "main._Verbs.get_command = lambda *_: many\nmain.main(['show'])"
    )
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$CODE" | head -1'],
        env={"CODE": code, "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stdout == "x" * 100 + "\n"
    assert done.stderr == ""


def test_several_mistakes_are_a_line_each_and_a_line_end_in_one_is_none() -> None:
    error = JobError("first\nsecond", hint="Mend it", also=["third"])
    assert error.lines == ["first\nsecond. Mend it", "third"]
    again = error.__reduce__()
    assert again[0](*again[1]).lines == error.lines  # type: ignore[operator, misc]
