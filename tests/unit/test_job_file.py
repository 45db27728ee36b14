"""What `load_job` takes, what it says of what it refuses, and what a fingerprint holds."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.errors import JobError
from pipeline.job.file import job_text, load_job
from pipeline.job.job import Job, Limits, fingerprint

pytestmark = pytest.mark.unit

GOOD = """\
name: reviews
input:
  path: data/reviews
  text: text
output:
  path: data/annotated
tasks:
  mood:
    kind: classify
    model: starter/sentiment
  gist:
    kind: summarize
    model: starter/minilm
    method: extractive
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(folder: Path, text: str, *overrides: str) -> str:
    path = write(folder, text)
    with pytest.raises(JobError) as caught:
        load_job(path, overrides=overrides)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(str(path), "job.yaml")


def test_a_job_file_gives_a_job_with_defaults(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, GOOD))
    assert job.name == "reviews"
    assert job.input.columns is None
    assert job.output.compression == "zstd"
    assert list(job.tasks) == ["mood", "gist"]
    assert job.models == ("starter/sentiment", "starter/minilm")
    assert job.compute.workers == "auto"
    assert job.limits.bad_rows == 0.1


@pytest.mark.parametrize(
    ("change", "line", "field", "words"),
    [
        (("  text: text", "  txt: text"), 4, "input.txt", "path, table, catalog, text, columns"),
        (("output:", "outputs:"), 5, "outputs", "name, description, input, output"),
        (
            ("    model: starter/sentiment", "    model: m\n    topk: 3"),
            11,
            "tasks.mood.topk",
            "top_k",
        ),
        (("name: reviews", "name: 3"), 1, "name", "text, not 3. Put it in quotes"),
        (("name: reviews", "name: 2024-01-01"), 1, "name", "text, not the date 2024-01-01"),
        (("name: reviews", "name: a b"), 1, "name", "not 'a b'"),
        (("data/annotated", "''"), 6, "output.path", "at least 1 character"),
        (("  text: text", "  columns: id"), 4, "input.columns", "not 'id'"),
        (("  text: text", "  columns: [id, 7]"), 4, "input.columns.1", "not 7"),
        (("kind: classify", "kind: clasify"), 8, "tasks.mood", ", ner, "),
        (("    kind: classify\n", ""), 8, "tasks.mood", "Add kind"),
        (("    model: starter/sentiment\n", ""), 8, "tasks.mood.model", "missing"),
        (("    method: extractive", "    method: both"), 14, "tasks.gist.method", "not 'both'"),
        (("    method: extractive\n", ""), 11, "tasks.gist.method", "missing"),
        (("  path: data/reviews\n", ""), 2, "input.path", "missing"),
        (("name: reviews\n", ""), 1, "name", "missing"),
        (("kind: classify", "kind: classify\n    top_k: 0"), 10, "tasks.mood.top_k", "1, not 0"),
        (("kind: classify", "kind: classify\n    top_k: '2'"), 10, "tasks.mood.top_k", "number"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, field: str, words: str
) -> None:
    assert change[0] in GOOD
    said = refusal(tmp_path, GOOD.replace(*change, 1))
    assert f"job.yaml:{line}: `{field}`" in said
    assert words in said


@pytest.mark.parametrize(
    ("section", "field"),
    [
        ("compute: {workers: 0}", "compute.workers"),
        ("compute: {workers: many}", "compute.workers"),
        ("compute: {cpus_per_worker: 0}", "compute.cpus_per_worker"),
        ("compute: {device: tpu}", "compute.device"),
        ("compute: {dtype: int4}", "compute.dtype"),
        ("compute: {batch_tokens: 0}", "compute.batch_tokens"),
        ("compute: {batch_tokens: 1.5}", "compute.batch_tokens"),
        ("limits: {bad_rows: -0.1}", "limits.bad_rows"),
        ("limits: {bad_rows: .nan}", "limits.bad_rows"),
        ("limits: {bad_rows: some}", "limits.bad_rows"),
        ("output: {compression: lz5}", "output.compression"),
        ("tasks: []", "tasks"),
        ("tasks: {}", "tasks"),
        ("tasks:", "tasks"),
        ("compute:", "compute"),
        ("tasks: {mood: classify}", "tasks.mood"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_line(
    tmp_path: Path, section: str, field: str
) -> None:
    head = section.partition(":")[0]
    data = {key: value for key, value in yaml.safe_load(GOOD).items() if key != head}
    text = yaml.safe_dump(data, sort_keys=False)
    said = refusal(tmp_path, f"{text}{section}\n")
    assert f"job.yaml:{text.count(chr(10)) + 1}: `{field}`" in said


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), ("90s", 90), ("10m", 600), ("2h", 7_200), ("1.5m", 90), ("0.5", 0.5)],
)
def test_a_duration_is_seconds_or_has_a_unit(tmp_path: Path, written: str, seconds: float) -> None:
    job = load_job(write(tmp_path, f"{GOOD}limits: {{stall: {written}}}\n"))
    assert job.limits.stall == seconds


@pytest.mark.parametrize(
    "written", ["10x", "ten", "m", "''", "1.5.5m", "-5", "-5m", "0", "0s", "true", "[1]", "null"]
)
def test_a_bad_duration_is_named_with_its_line(tmp_path: Path, written: str) -> None:
    said = refusal(tmp_path, f"{GOOD}limits:\n  stall: {written}\n")
    assert "job.yaml:16: `limits.stall`" in said


def test_a_bad_duration_is_told_how_to_write_one(tmp_path: Path) -> None:
    assert "90, 90s, 10m or 2h" in refusal(tmp_path, f"{GOOD}compute: {{wait: soon}}\n")


@pytest.mark.parametrize("written", ["true", "'0.5'"])
def test_bad_rows_is_a_number_and_nothing_else(tmp_path: Path, written: str) -> None:
    said = refusal(tmp_path, f"{GOOD}limits:\n  bad_rows: {written}\n")
    assert "job.yaml:16: `limits.bad_rows`" in said


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    said = refusal(
        tmp_path,
        "name: 3\ninput: {path: x, txt: y}\noutput: {}\n"
        "tasks:\n  a: {kind: no}\n  b: {kind: ner}\n",
    )
    assert said.splitlines() == sorted(said.splitlines(), key=lambda s: int(s.split(":")[1]))
    assert [line.split("`")[1] for line in said.splitlines()] == [
        "name",
        "input.txt",
        "output.path",
        "tasks.a",
        "tasks.b.model",
    ]


@pytest.mark.parametrize(
    ("extra", "option"),
    [
        ("method: extractive\n    max_new_tokens: 10", "max_new_tokens"),
        ("method: extractive\n    instruction: Be brief", "instruction"),
        ("method: abstractive\n    sentences: 2", "sentences"),
        ("method: extractive\n    merge: truncate", "merge"),
    ],
)
def test_an_option_of_the_other_method_is_refused(tmp_path: Path, extra: str, option: str) -> None:
    said = refusal(tmp_path, GOOD.replace("method: extractive", extra))
    assert "job.yaml:11: `tasks.gist`" in said
    assert f"`{option}` has no meaning for method {extra.split()[1]}" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("errors", "errors"),
        ("text", "text"),
        ("id", "id"),
        ("2nd", "letters, digits and _"),
        ("my-mood", "letters, digits and _"),
        ("a.b", "letters, digits and _"),
        ("'a b'", "letters, digits and _"),
        ("''", "letters, digits and _"),
    ],
)
def test_a_task_that_can_not_be_a_column_is_named_with_its_line(
    tmp_path: Path, name: str, words: str
) -> None:
    text = GOOD.replace("  text: text", "  columns: [id]").replace("  mood:", f"  {name}:")
    said = refusal(tmp_path, text)
    assert said.startswith("job.yaml:8: ")
    assert words in said


def test_a_column_carried_twice_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, GOOD.replace("  text: text", "  columns: [id, id]"))
    assert "job.yaml:4: " in said
    assert "id" in said


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (f"{GOOD}name: again\n", 15, "name"),
        (GOOD.replace("  gist:", "  mood:"), 11, "mood"),
        (GOOD.replace("    kind: classify", "    kind: ner\n    kind: classify"), 10, "kind"),
        (GOOD.replace("  text: text", "  columns: [{a: 1, a: 2}]"), 4, "a"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path: Path, text: str, line: int, key: str) -> None:
    assert f"job.yaml:{line}: `{key}` stands twice" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: [a\nb: c\n", 2),
        ("name: a\n\tinput: b\n", 2),
        ("name: a\ninput: 'x\n", 3),
        ("name: a: b\n", 1),
        (f"{GOOD}---\nname: second\n", 15),
        ("name: !!python/object:os.system x\n", 1),
        ("name: *nowhere\n", 1),
        ("? [a, b]\n: 1\n", 1),
    ],
)
def test_broken_yaml_is_named_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    assert f"job.yaml:{line}: this is not valid YAML" in refusal(tmp_path, text)


def test_a_character_that_yaml_forbids_is_refused(tmp_path: Path) -> None:
    assert "not valid YAML" in refusal(tmp_path, "name: \x00\n")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n- b\n", "just words\n", "7\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    said = refusal(tmp_path, text)
    assert said.startswith("job.yaml:1: a job file is a mapping with name, input, output and task")


@pytest.mark.parametrize("text", ["a: &x {b: *x}\n", f"{GOOD}limits: &x\n  stall: *x\n"])
def test_a_mapping_that_contains_itself_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(tmp_path, text).startswith("job.yaml:")


def test_tasks_can_share_options_by_a_yaml_anchor(tmp_path: Path) -> None:
    text = GOOD.replace("  mood:\n", "  mood: &mood\n") + "  again:\n    <<: *mood\n    top_k: 1\n"
    job = load_job(write(tmp_path, text))
    assert job.tasks["again"].top_k == 1
    assert job.tasks["again"].model == job.tasks["mood"].model


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"nosuch\.yaml does not exist.*jobs/"):
        load_job(tmp_path / "nosuch.yaml")


def test_a_directory_is_no_job_file(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"is a directory\. Name the job file"):
        load_job(tmp_path)


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(JobError, match=r"job\.yaml is no text in UTF-8"):
        load_job(path)


def test_an_override_replaces_or_adds_a_field(tmp_path: Path) -> None:
    job = load_job(
        write(tmp_path, GOOD),
        overrides=[
            "input.path=other=place",
            "compute.workers=2",
            "compute.wait=5m",
            "tasks.mood.top_k=1",
            "tasks.names={kind: ner, model: starter/pii}",
        ],
    )
    assert job.input.path == "other=place"
    assert job.compute.workers == 2
    assert job.compute.wait == 300
    assert job.tasks["mood"].top_k == 1
    assert job.tasks["names"].kind == "ner"


def test_the_later_of_two_overrides_holds(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, GOOD), overrides=["name=a", "name=b"])
    assert job.name == "b"


@pytest.mark.parametrize("override", ["name", "=3", ".name=3", "input.=3", "a..b=3", ""])
def test_an_override_without_a_field_is_refused(tmp_path: Path, override: str) -> None:
    said = refusal(tmp_path, GOOD, override)
    assert said == f"--set {override}: this names no field. Write --set input.path=data/reviews"


@pytest.mark.parametrize("override", ["name.first=a", "tasks.mood.kind.x=1", "input.path.a.b=1"])
def test_an_override_below_a_value_is_refused(tmp_path: Path, override: str) -> None:
    said = refusal(tmp_path, GOOD, override)
    assert said.startswith(f"--set {override}: ")
    assert "is a value, not a mapping" in said


def test_an_override_that_is_not_yaml_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, GOOD, "name=[a")
    assert said.startswith("--set name=[a: the value is not valid YAML")


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("input.path=3", "input.path"),
        ("tasks.mood.kind=nosuch", "tasks.mood"),
        ("tasks=[]", "tasks"),
        ("input.nosuch=1", "input.nosuch"),
        ("nosuch.thing=1", "nosuch"),
    ],
)
def test_a_wrong_override_is_named_instead_of_a_line(
    tmp_path: Path, override: str, field: str
) -> None:
    said = refusal(tmp_path, GOOD, override)
    assert said.startswith(f"--set {override.partition('=')[0]}: `{field}`")


@pytest.mark.parametrize(
    ("override", "field"),
    [
        ("compute.workers=0", "compute.workers"),
        ("compute.device=tpu", "compute.device"),
        ("limits.stall=soon", "limits.stall"),
        ("tasks.mood.top_k=0", "tasks.mood.top_k"),
    ],
)
def test_a_wrong_override_of_a_field_that_the_file_lacks_names_the_override(
    tmp_path: Path, override: str, field: str
) -> None:
    said = refusal(tmp_path, GOOD, override)
    for line in said.splitlines():
        assert line.startswith(f"--set {field}: `{field}`")
    assert len(said.splitlines()) == 1


def test_a_job_can_not_be_changed(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, GOOD))
    for part, field in [(job, "name"), (job.input, "path"), (job.tasks["mood"], "model")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, field, "other")


@pytest.mark.parametrize(
    ("limit", "bad", "rows", "too_many"),
    [
        (0.0, 0, 10, False),
        (0.0, 1, 10, True),
        (0.1, 1, 10, False),
        (0.1, 2, 10, True),
        (1, 1, 2, False),
        (1, 2, 2, True),
        (5, 5, 10_000, False),
        (5, 6, 10_000, True),
        (0.1, 0, 0, False),
    ],
)
def test_bad_rows_is_a_share_below_one_and_a_number_from_one(
    limit: float, bad: int, rows: int, *, too_many: bool
) -> None:
    assert Limits(bad_rows=limit).too_many(bad, rows=rows) is too_many


BASE: dict[str, Any] = {
    **yaml.safe_load(GOOD),
    "compute": {"dtype": "float32"},
    "limits": {"bad_rows": 0.1},
}
BASE["tasks"]["written"] = {
    "kind": "summarize",
    "model": "starter/smollm2",
    "method": "abstractive",
}
BASE["tasks"]["names"] = {"kind": "ner", "model": "starter/pii"}
REVISIONS = {
    "starter/sentiment": "r1",
    "starter/minilm": "r2",
    "starter/pii": "r3",
    "starter/smollm2": "r4",
}


def print_of(data: dict[str, Any], revisions: dict[str, str] = REVISIONS) -> str:
    return fingerprint(Job.model_validate(data).fingerprint_parts(revisions))


def changed(path: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(BASE)
    at = data
    *keys, last = path.split(".")
    for key in keys:
        at = at.setdefault(key, {})
    at[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("input.text", "body"),
        ("input.columns", ["id"]),
        ("input.columns", []),
        ("output.compression", "snappy"),
        ("output.row_group", 1000),
        ("output.columns", ["id"]),
        ("output.columns", "annotations"),
        ("compute.dtype", "bfloat16"),
        ("tasks.mood.top_k", 1),
        ("tasks.mood.activation", "sigmoid"),
        ("tasks.mood.merge", "max"),
        ("tasks.names.aggregation", "average"),
        ("tasks.gist.sentences", 5),
        ("tasks.gist.language", "de"),
        ("tasks.written.max_new_tokens", 5),
        ("tasks.written.instruction", "Say it in one word."),
        ("tasks.more", {"kind": "ner", "model": "starter/pii"}),
    ],
)
def test_the_fingerprint_changes_with_what_changes_results(path: str, value: Any) -> None:
    assert print_of(changed(path, value)) != print_of(BASE)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("name", "other"),
        ("description", "words"),
        ("input.path", "elsewhere"),
        ("output.path", "elsewhere"),
        ("compute.workers", 7),
        ("compute.cpus_per_worker", 3),
        ("compute.batch_tokens", 99),
        ("compute.device", "cpu"),
        ("compute.wait", "1h"),
        ("limits.bad_rows", 0.5),
        ("limits.stall", "1h"),
    ],
)
def test_the_fingerprint_stays_with_what_changes_no_result(path: str, value: Any) -> None:
    assert print_of(changed(path, value)) == print_of(BASE)


@pytest.mark.parametrize("reference", sorted(REVISIONS))
def test_the_fingerprint_changes_with_the_weights_of_any_model(reference: str) -> None:
    assert print_of(BASE, {**REVISIONS, reference: "other"}) != print_of(BASE)


def test_the_fingerprint_is_the_same_for_one_model_under_two_names() -> None:
    moved = changed("tasks.mood.model", "models/my-copy")
    assert print_of(moved, {**REVISIONS, "models/my-copy": "r1"}) == print_of(BASE)


def test_the_fingerprint_changes_with_the_version_of_the_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = print_of(BASE)
    monkeypatch.setattr("pipeline.job.job.RESULTS_VERSION", 10_000)
    assert print_of(BASE) != before


def test_a_fingerprint_is_sixteen_hexadecimal_digits() -> None:
    assert len(print_of(BASE)) == 16
    assert int(print_of(BASE), 16) >= 0


# Every way in which the words of the library that checks would reach a user.
FOREIGN = re.compile(
    r"Input should|should have|should match|after validation|valid (string|integer|number|tuple|"
    r"dictionary|boolean|list)|unable to|Keys should|pydantic|Extra inputs|Field required|"
    r"\\[key\\]|<class|object at 0x"
)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("name", None, "must be text, not null. Write a value behind it, or remove the line"),
        ("name", True, "must be text, not true. Put it in quotes"),
        ("name", "a b", "must be letters, digits, _ and -, a letter or _ first, not 'a b'"),
        ("input", "data/", "must be a mapping, not 'data/'. Write input: {path: data/}"),
        ("output", "out", "must be a mapping, not 'out'. Write output: {path: out}"),
        ("input.columns", "id", "must be a list, not 'id'"),
        ("input.columns", {"a": 1}, "must be a list, not {'a': 1}"),
        ("input.path", [], "must be text or of at least 1 entry, not []"),
        ("tasks", {}, "must be of at least 1 entry, not {}. Write each task below it by its name"),
        ("tasks", [], "must be a mapping, not []. Write each task below it by its name"),
        ("tasks", None, "must be a mapping, not null"),
        ("tasks.mood.input", [], "must be text or of at least 1 entry, not []"),
        ("tasks.mood.input", 7, "must be text or a list, not 7. Put it in quotes"),
        ("tasks.mood.adapter", "", "must be text of at least 1 character, not ''"),
        ("tasks.mood.top_k", 1.5, "must be a whole number, not 1.5"),
        ("tasks.mood.top_k", "2", "must be a whole number, not '2'. Remove the quotes"),
        ("tasks.mood.top_k", -3, "must be at least 1, not -3"),
        ("compute.workers", 0, "must be 'auto' or at least 1, not 0"),
        ("compute.workers", "many", "must be 'auto' or a whole number, not 'many'"),
        ("compute.workers", 1.5, "must be 'auto' or a whole number, not 1.5"),
        ("compute.device", "tpu", "must be 'auto', 'cpu' or 'cuda', not 'tpu'"),
        ("compute", [1], "must be a mapping, not [1]"),
        ("limits.stall", [1], "must be a number, not [1]"),
        ("limits.stall", -1, "must be more than 0, not -1"),
        ("limits.bad_rows", "0.5", "must be a number, not '0.5'. Remove the quotes"),
        ("limits.bad_rows", -1, "must be at least 0, not -1"),
    ],
)
def test_a_wrong_value_is_told_once_in_our_words(
    tmp_path: Path, field: str, value: Any, said: str
) -> None:
    text = yaml.safe_dump(put(yaml.safe_load(GOOD), field, value), sort_keys=False)
    (line,) = refusal(tmp_path, text).splitlines()
    assert f"`{field}` {said}" in line
    assert not FOREIGN.search(line)


def put(data: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    *keys, last = field.split(".")
    at = data
    for key in keys:
        at = at.setdefault(key, {})
    at[last] = value
    return data


@pytest.mark.parametrize("written", ["1.5", "2.25", ".inf"])
def test_bad_rows_is_a_share_or_a_whole_number(tmp_path: Path, written: str) -> None:
    said = refusal(tmp_path, f"{GOOD}limits:\n  bad_rows: {written}\n")
    assert "job.yaml:16: `limits.bad_rows`: " in said
    assert "neither a share nor a number of rows: write 0.05" in said


@pytest.mark.parametrize("written", ["0", "0.5", "1", "1.0", "7"])
def test_bad_rows_takes_shares_and_numbers(tmp_path: Path, written: str) -> None:
    job = load_job(write(tmp_path, f"{GOOD}limits:\n  bad_rows: {written}\n"))
    assert job.limits.bad_rows == float(written)


@pytest.mark.parametrize("key", ["1", "true", "2024-01-01", "1.5", "null"])
def test_a_name_that_yaml_reads_as_something_else_is_told_to_be_quoted(
    tmp_path: Path, key: str
) -> None:
    for text in (GOOD.replace("  mood:", f"  {key}:"), f"{GOOD}{key}: x\n"):
        said = refusal(tmp_path, text)
        assert "its name must be text. Put it in quotes" in said
        assert len(said.splitlines()) == 1
        assert not FOREIGN.search(said)


def test_many_mistakes_are_five_lines(tmp_path: Path) -> None:
    said = refusal(tmp_path, GOOD + "".join(f"x{n}: 1\n" for n in range(30))).splitlines()
    assert len(said) == 5
    assert said[-1] == "and 26 more mistakes: mend these first"


def test_a_huge_value_or_name_is_cut_in_what_is_said(tmp_path: Path) -> None:
    for text in (
        GOOD.replace("reviews", "x y" * 100_000, 1),
        GOOD + "y" * 100_000 + ": 1\n",
        GOOD.replace("kind: classify", "kind: " + "z" * 100_000),
    ):
        assert len(refusal(tmp_path, text)) < 700


def laughs(levels: int, name: str = "description") -> str:
    lines = [f"l0: &l0 [{', '.join(['lol'] * 10)}]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, levels)]
    return f"{GOOD}{chr(10).join(lines)}\n{name}: *l{levels - 1}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (laughs(9), "has more than 50,000 values, with what its aliases stand for"),
        (laughs(40), "has more than 50,000 values"),
        ("[" * 20_000, "has more than 64 levels"),
        ("[" * 20_000 + "]" * 20_000, "has more than 64 levels"),
        ("{a: " * 20_000, "has more than 64 levels"),
        ("- " * 20_000, "has more than 64 levels"),
        ("".join(f"{' ' * n}a:\n" for n in range(1_000)), "has more than 64 levels"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 5_000)),
            "has more than 64 levels",
        ),
        (
            "m0: &m0 {a: 1, b: 2}\n"
            + "".join(f"m{n}: &m{n}\n  <<: [*m{n - 1}, *m{n - 1}]\n" for n in range(1, 50)),
            "values",
        ),
        ("a: [" + "x, " * 60_000 + "]", "has more than 50,000 values"),
        (f"{GOOD}description: {'x' * 2_000_000}\n", "is larger than 1,024 kB"),
    ],
    ids=lambda text: text[:12],
)
def test_yaml_that_is_too_much_is_refused_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    told = refusal(tmp_path, text)
    assert said in told
    assert len(told.splitlines()) == 1
    assert len(told) < 300


def test_of_a_huge_file_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(JobError, match="is larger than 1,024 kB"):
        load_job(path)
    with pytest.raises(JobError, match="is larger than 1,024 kB"):
        load_job("/dev/zero")


def test_an_override_is_bounded_as_the_file_is(tmp_path: Path) -> None:
    said = refusal(tmp_path, GOOD, "description=" + "[" * 20_000)
    assert said.startswith("--set description=[")
    assert len(said) < 300


def test_an_override_leaves_what_an_alias_shares_with_it_alone(tmp_path: Path) -> None:
    text = GOOD.replace("  mood:\n", "  mood: &mood\n") + "  again: *mood\n"
    path = write(tmp_path, text)
    job = load_job(path, overrides=["tasks.again.top_k=1", "tasks.again.when=mood.score < 1"])
    assert (job.tasks["again"].top_k, job.tasks["mood"].top_k) == (1, None)
    assert job.tasks["mood"].when is None


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "job.yaml:1: a job file is a mapping with name, input, output and tasks; this is e"),
        (b"- name: x\n", "job.yaml:1: a job file is a mapping"),
        (b"PAR1\x15\x04\x15\xb2\xff", "job.yaml is a Parquet file, and no job file"),
        (bytes(range(256)), "job.yaml is no text in UTF-8"),
        (b"name: a\x00b\n", "job.yaml:1: this is not valid YAML: the character \\x00 must not"),
        (b"a: 1\nname: \x1b[2J\n", "job.yaml:2: this is not valid YAML: the character \\x1b"),
        (b"\xff\xfe\x00", "no text"),
        (b"name: a\n\tinput: b\n", "Indent with spaces: YAML takes no tabs"),
        (b'name: "C:\\data"\n', "A backslash in double quotes begins an escape"),
        (b"name: a\n---\nname: b\n", "Keep one job in a file"),
        (b"name: !!int abc\n", "job.yaml:1: this is not valid YAML: 'abc' is no int"),
        (b"name: !!bool abc\n", "'abc' is no bool"),
        (b"name: !!timestamp abc\n", "'abc' is no timestamp"),
        (b"name: !!int\n", "'' is no int"),
        (b'name: "a\\ud800"\n', "'a\\ud800' is no text"),
        (b"name: 2024-99-99\n", "'2024-99-99' is no timestamp"),
        (b"name: " + b"1" * 5_000 + b"\n", "is no int"),
    ],
)
def test_a_file_that_is_no_job_is_told_as_what_it_is(tmp_path: Path, raw: bytes, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(raw)
    with pytest.raises(JobError) as caught:
        load_job(path)
    told = str(caught.value).replace(str(path), "job.yaml")
    assert said in told
    assert len(told.splitlines()) == 1


def test_two_escapes_for_one_character_are_that_character(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, f'{GOOD}description: "\\ud83c\\udfac"\n'))
    assert job.description == "🎬"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(f"# Grüße\n{GOOD}".encode(encoding))
    assert load_job(path) == load_job(write(tmp_path, GOOD))


def test_the_text_of_a_job_is_a_job_file_of_that_job(tmp_path: Path) -> None:
    overrides = [
        "limits.stall=5m",
        "input.columns=[id]",
        "tasks.hide={kind: redact, model: m, hash_key: '${env:SECRET_OF_TEST}'}",
        "tasks.topic={kind: zero_shot, model: m, labels: {a: über, b: two}}",
    ]
    job = load_job(write(tmp_path, GOOD), overrides=overrides)
    text = job_text(job)
    assert load_job(write(tmp_path, text)) == job
    assert "${env:SECRET_OF_TEST}" in text
    assert "compression" not in text


def test_the_text_of_a_job_that_ran_names_its_device_and_dtype(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, GOOD))
    ran = yaml.safe_load(job_text(job.on("cuda")))
    assert ran == {**yaml.safe_load(GOOD), "compute": {"device": "cuda", "dtype": "bfloat16"}}


@pytest.mark.parametrize(
    ("written", "size"),
    [("4MB", 4_000_000), ("500kB", 500_000), ("1 GB", 10**9), ("80B", 80), ("12345", 12_345)],
)
def test_a_size_is_written_with_its_unit_or_as_bytes(
    tmp_path: Path, written: str, size: int
) -> None:
    assert load_job(write(tmp_path, f"{GOOD}limits: {{text: {written}}}\n")).limits.text == size


@pytest.mark.parametrize("written", ["0", "-1", "4mb", "4 megabytes", "1.5MB", "MB", "true", "[1]"])
def test_a_size_that_is_none_is_told_with_the_mend(tmp_path: Path, written: str) -> None:
    said = refusal(tmp_path, f"{GOOD}limits:\n  text: {written}\n")
    assert "job.yaml:16: `limits.text`" in said
