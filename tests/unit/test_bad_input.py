"""What is wrong is told in one line with the mend and exit code 2, before anything starts."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner
from helpers import hollow_model

from pipeline.cli.main import main
from pipeline.tasks import TASKS

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch):
    def started(address):
        raise AssertionError("Ray was started")

    monkeypatch.setattr("pipeline.run.ray_cluster", started)


@pytest.fixture
def folder(tmp_path):
    """A model folder that is right as far as can be seen without loading it."""
    return hollow_model(tmp_path / "classifier", "BertForSequenceClassification")


@pytest.fixture
def lake(tmp_path):
    (tmp_path / "lake").mkdir()
    pq.write_table(pa.table({"id": [1], "body": ["x"], "n": [2]}), tmp_path / "lake/a.parquet")
    return tmp_path / "lake"


def run(tmp_path, *, verb="run", **fields):
    """Runs a verb on a job; returns its exit code and what it wrote to standard error."""
    job = {"name": "test", **fields}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    done = CliRunner().invoke(main, [verb, str(path)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stderr


def job_of(tmp_path, lake, folder, *, text="body", kind="classify", **task):
    return {
        "input": {"path": str(lake), "text": text},
        "output": {"path": str(tmp_path / "out")},
        "tasks": {"label": {"kind": kind, "model": str(folder), **task}},
    }


@pytest.mark.parametrize("verb", ["run", "validate", "preview"])
def test_a_missing_input_is_named(tmp_path, folder, verb):
    job = job_of(tmp_path, tmp_path / "nowhere", folder)
    code, said = run(tmp_path, verb=verb, **job)
    assert code == 2
    assert said.startswith(f"Error: input.path {tmp_path}/nowhere does not exist.")
    assert len(said.splitlines()) == 1


def test_an_empty_directory_is_told_from_one_with_other_files(tmp_path, folder):
    (tmp_path / "lake").mkdir()
    job = job_of(tmp_path, tmp_path / "lake", folder)
    code, said = run(tmp_path, **job)
    assert (code, "holds no Parquet file: it is empty" in said) == (2, True)
    (tmp_path / "lake/notes.txt").write_text("x")
    code, said = run(tmp_path, **job)
    assert (code, "holds no Parquet file: it holds 1 other files" in said) == (2, True)


def test_a_file_that_is_not_parquet_is_named(tmp_path, folder):
    (tmp_path / "a.parquet").write_text("id,text\n1,hello\n")
    code, said = run(tmp_path, **job_of(tmp_path, tmp_path / "a.parquet", folder))
    assert code == 2
    assert "a.parquet is not a readable Parquet file" in said
    assert len(said.splitlines()) == 1


def test_a_csv_file_is_refused_by_its_name(tmp_path, folder):
    (tmp_path / "a.csv").write_text("id,text\n1,hello\n")
    code, said = run(tmp_path, **job_of(tmp_path, tmp_path / "a.csv", folder))
    assert (code, "is not a Parquet file by its name" in said) == (2, True)


def test_a_missing_text_column_is_told_with_the_columns_that_there_are(tmp_path, lake, folder):
    code, said = run(tmp_path, **job_of(tmp_path, lake, folder, text="text"))
    assert code == 2
    assert "a.parquet has no column `text`; it has id, body, n. Name one of them" in said
    assert "in input.text" in said
    assert len(said.splitlines()) == 1


def test_a_text_column_of_another_type_is_refused(tmp_path, lake, folder):
    code, said = run(tmp_path, **job_of(tmp_path, lake, folder, text="n"))
    assert (code, "column `n` is int64, not text" in said) == (2, True)


def test_two_columns_of_one_name_can_not_both_be_carried(tmp_path, lake, folder):
    columns = [pa.array(["x"]), pa.array([1]), pa.array([2])]
    pq.write_table(pa.Table.from_arrays(columns, ["body", "n", "n"]), lake / "a.parquet")
    job = job_of(tmp_path, lake, folder)
    code, said = run(tmp_path, verb="validate", **job)
    assert (code, "a.parquet has more than one column `n`. Name the columns" in said) == (2, True)
    job["input"]["columns"] = ["body"]
    assert run(tmp_path, verb="validate", **job) == (0, "")


def test_a_carried_column_that_is_missing_is_named(tmp_path, lake, folder):
    job = job_of(tmp_path, lake, folder)
    job["input"]["columns"] = ["id", "author"]
    code, said = run(tmp_path, **job)
    assert (code, "has no column `author`; it has id, body, n" in said) == (2, True)


def test_a_task_named_like_an_input_column_is_refused(tmp_path, lake, folder):
    job = job_of(tmp_path, lake, folder)
    job["tasks"] = {"n": job["tasks"]["label"]}
    code, said = run(tmp_path, **job)
    assert (code, "a.parquet has a column `n`, which the output would overwrite" in said) == (
        2,
        True,
    )


@pytest.mark.parametrize("output", [".", "out", "../lake/deep/er"])
def test_an_output_inside_the_input_is_refused(tmp_path, lake, folder, output):
    job = job_of(tmp_path, lake, folder)
    job["output"]["path"] = str(lake / output)
    code, said = run(tmp_path, **job)
    assert (code, "are inside each other" in said) == (2, True)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("~nobody-here/x", "home directory"),
        ("a\0b", "null byte"),
        ("x" * 300, "File name too long"),
        ("a/" * 3_000, "File name too long"),
    ],
)
@pytest.mark.parametrize("field", ["input", "output", "model"])
def test_what_can_not_be_a_path_is_told_in_a_line(tmp_path, lake, folder, field, path, said):
    job = job_of(tmp_path, lake, path if field == "model" else folder)
    if field != "model":
        job[field]["path"] = path
    code, told = run(tmp_path, verb="validate", **job)
    assert code == 2
    assert "can't be a path: " in told
    assert said in told
    assert len(told.splitlines()) == 1
    assert len(told) < 400


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_an_output_below_a_file_is_refused(tmp_path, lake, folder, verb):
    for output in (lake / "a.parquet" / "x", lake / "a.parquet" / "x" / "y"):
        job = job_of(tmp_path, lake, folder)
        job["output"]["path"] = str(output)
        job["input"]["path"] = str(lake / "a.parquet")
        code, said = run(tmp_path, verb=verb, **job)
        assert code == 2
        assert f"{output} is below {lake}/a.parquet, which is a file. Name a directory" in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize("verb", ["validate", "run"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_secret_that_is_not_set_is_missed_before_anything_starts(
    tmp_path, lake, monkeypatch, verb, value
):
    monkeypatch.delenv("SECRET_OF_TEST", raising=False)
    if value is not None:
        monkeypatch.setenv("SECRET_OF_TEST", value)
    model = hollow_model(tmp_path / "ner", "BertForTokenClassification")
    job = job_of(tmp_path, lake, model, kind="redact", hash_key="${env:SECRET_OF_TEST}")
    code, said = run(tmp_path, verb=verb, **job)
    assert code == 2
    assert "tasks.label: the environment variable SECRET_OF_TEST is not set. Set it" in said
    assert len(said.splitlines()) == 1


def test_a_schema_that_can_not_be_met_is_found_by_validate(tmp_path, lake):
    model = hollow_model(tmp_path / "lm", "LlamaForCausalLM")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 5, "maximum": 3}},
    }
    options = {"format": "json", "json_schema": schema}
    code, said = run(
        tmp_path, verb="validate", **job_of(tmp_path, lake, model, kind="generate", **options)
    )
    assert code == 2
    assert "`tasks.label.json_schema`: json_schema.n: nothing can follow this" in said
    assert len(said.splitlines()) == 1


def test_an_input_inside_the_output_is_refused(tmp_path, lake, folder):
    job = job_of(tmp_path, lake, folder)
    job["output"]["path"] = str(tmp_path)
    code, said = run(tmp_path, **job)
    assert (code, "are inside each other" in said) == (2, True)


def test_an_output_that_holds_other_parquet_is_refused(tmp_path, lake, folder):
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"x": [1]}), tmp_path / "out/precious.parquet")
    code, said = run(tmp_path, **job_of(tmp_path, lake, folder))
    assert code == 2
    assert "holds precious.parquet, which shardscribe did not write" in said
    assert (tmp_path / "out/precious.parquet").exists()


def test_an_unknown_kind_names_the_known_ones(tmp_path, lake, folder):
    code, said = run(tmp_path, **job_of(tmp_path, lake, folder, kind="classifyy"))
    assert code == 2
    assert f"unknown kind `classifyy`. Use one of {', '.join(TASKS)}" in said


def test_an_unknown_starter_names_the_known_ones(tmp_path, lake):
    code, said = run(tmp_path, **job_of(tmp_path, lake, "starter/nothing"))
    assert code == 2
    assert "starter/minilm" in said
    assert "starter/nothing" in said


def test_a_model_folder_that_is_not_there_is_named(tmp_path, lake):
    code, said = run(tmp_path, **job_of(tmp_path, lake, "./models/none"))
    assert (code, "tasks.label: model folder ./models/none does not exist" in said) == (2, True)


def test_a_hub_model_that_can_not_be_had_offline_says_what_to_do(tmp_path, lake):
    code, said = run(tmp_path, **job_of(tmp_path, lake, "nobody/no-such-model"))
    assert code == 2
    assert "tasks.label: model nobody/no-such-model is no folder here" in said
    assert "starter/sentiment" in said
    assert len(said.splitlines()) == 1


def test_a_classifier_is_refused_for_ner(tmp_path, lake, folder):
    code, said = run(tmp_path, **job_of(tmp_path, lake, folder, kind="ner"))
    assert code == 2
    assert "tasks.label: model" in said
    assert "is a BertForSequenceClassification; ner needs a token-classification model" in said


def test_an_encoder_is_refused_for_abstractive_summaries(tmp_path, lake):
    encoder = hollow_model(tmp_path / "encoder", "BertModel")
    job = job_of(tmp_path, lake, encoder, kind="summarize", method="abstractive")
    code, said = run(tmp_path, **job)
    assert (code, "is a BertModel, which can't write text" in said) == (2, True)


def test_a_language_model_without_chat_template_is_refused(tmp_path, lake):
    model = hollow_model(tmp_path / "lm", "LlamaForCausalLM")
    job = job_of(tmp_path, lake, model, kind="summarize", method="abstractive")
    code, said = run(tmp_path, **job)
    assert (code, "has no chat template" in said) == (2, True)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(tmp_path, lake):
    model = hollow_model(
        tmp_path / "old", "BertForSequenceClassification", files=("pytorch_model.bin",)
    )
    code, said = run(tmp_path, **job_of(tmp_path, lake, model))
    assert code == 2
    assert "has only pickled weights (pytorch_model.bin)" in said
    assert "save_pretrained" in said


def test_a_model_folder_without_weights_is_refused(tmp_path, lake):
    model = hollow_model(tmp_path / "none", "BertForSequenceClassification", files=())
    code, said = run(tmp_path, **job_of(tmp_path, lake, model))
    assert (code, "has no weights (model.safetensors)" in said) == (
        2,
        True,
    )


def test_a_good_job_is_valid_and_said_to_be(tmp_path, lake, folder):
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"name": "test", **job_of(tmp_path, lake, folder)}))
    done = CliRunner().invoke(main, ["validate", str(path)])
    assert done.exit_code == 0, done.stderr
    assert "is a valid job: test" in done.stdout
    assert "1 files" in done.stdout


def test_one_broken_file_among_good_ones_is_no_reason_not_to_start(tmp_path, lake, folder):
    (lake / "0-broken.parquet").write_bytes(b"")
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({"name": "test", **job_of(tmp_path, lake, folder)}))
    assert CliRunner().invoke(main, ["validate", str(path)]).exit_code == 0


def test_a_wrong_verb_names_the_right_ones():
    done = CliRunner().invoke(main, ["annotate"])
    assert done.exit_code == 2
    assert "there is no command 'annotate'; there are run, retry, status" in done.stderr


@pytest.mark.parametrize("verb", ["run", "validate", "preview", "show", "models", "samples"])
def test_every_verb_has_help_with_an_example(verb):
    done = CliRunner().invoke(main, [verb, "--help"])
    assert done.exit_code == 0
    assert f"shardscribe {verb}" in done.stdout


@pytest.mark.parametrize("verb", ["validate", "run"])
def test_a_condition_that_reads_a_file_is_refused_without_reading_it(
    tmp_path, lake, folder, verb, monkeypatch
):
    monkeypatch.setattr("polars.scan_csv", lambda *a, **k: pytest.fail("a file was read"))
    monkeypatch.setattr("polars.read_csv", lambda *a, **k: pytest.fail("a file was read"))
    (tmp_path / "secret.csv").write_text("column_1\n2\n")
    when = f"n in (select column_1 from read_csv('{tmp_path}/secret.csv'))"
    code, said = run(tmp_path, verb=verb, **job_of(tmp_path, lake, folder, when=when))
    assert (code, "tasks.label.when: " in said, "it holds a query" in said) == (2, True, True)


@pytest.mark.parametrize(
    ("task", "place"),
    [
        ({"input": "boddy"}, "tasks.label.input"),
        ({"input": "id"}, "tasks.label.input"),
        ({"when": "boddy is null"}, "tasks.label.when"),
        ({"template": "{boddy}"}, "tasks.label.template"),
        ({"pair": "boddy"}, "tasks.label.pair"),
    ],
)
def test_a_wrong_column_of_a_task_is_mended_in_the_task_not_in_the_input(
    tmp_path, lake, folder, task, place
):
    code, said = run(tmp_path, verb="validate", **job_of(tmp_path, lake, folder, **task))
    assert (code, place in said, "input.text" in said) == (2, True, False)
    if "boddy" in str(task):
        assert "there are id, body, n, label. Name `body`" in said


def test_a_full_run_takes_no_limit_as_it_would_begin_with_the_same_rows_each_time() -> None:
    done = CliRunner().invoke(main, ["run", "job.yaml", "--full", "--limit", "5"])
    assert (done.exit_code, "--full begins anew" in done.output) == (2, True)
