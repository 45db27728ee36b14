"""What `load_job` takes, what it says of what it refuses, and what a fingerprint holds."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from pipeline.errors import JobError
from pipeline.job import Job, Limits, fingerprint
from pipeline.job_file import load_job

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
        (("  text: text", "  txt: text"), 4, "input.txt", "path, text, columns"),
        (("output:", "outputs:"), 5, "outputs", "name, description, input, output"),
        (
            ("    model: starter/sentiment", "    model: m\n    topk: 3"),
            11,
            "tasks.mood.topk",
            "top_k",
        ),
        (("name: reviews", "name: 3"), 1, "name", "string, not 3"),
        (("name: reviews", "name: 2024-01-01"), 1, "name", "string"),
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
        (("kind: classify", "kind: classify\n    top_k: '2'"), 10, "tasks.mood.top_k", "integer"),
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
        ("compute: {dtype: int8}", "compute.dtype"),
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
    with pytest.raises(JobError, match=r"job\.yaml can't be read"):
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
        assert line.startswith(f"--set {field}: `{field}`: ")


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
    monkeypatch.setattr("pipeline.job.RESULTS_VERSION", 10_000)
    assert print_of(BASE) != before


def test_a_fingerprint_is_sixteen_hexadecimal_digits() -> None:
    assert len(print_of(BASE)) == 16
    assert int(print_of(BASE), 16) >= 0
