"""Iceberg tables whose files lie in a bucket, from table to table."""

from collections.abc import Iterator
from pathlib import Path

import iceberg_tables
import pytest
from iceberg_tables import MADE, TABLE, added_once, ids, made, make, rows, settings
from s3_server import SECRET, S3Server, s3_server
from table_jobs import run, write_job

from pipeline.errors import JobError
from pipeline.job.file import load_job
from pipeline.planning import Choices
from pipeline.verify import verify_job

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        running.make_bucket("lake")
        yield running


@pytest.fixture
def bucket(server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place of its own in the bucket, where the catalogs of all folders have their tables."""
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    place = f"s3://lake/{tmp_path.name}"

    endpoint = server.environ["AWS_ENDPOINT_URL"]
    of_the_library = {"s3.endpoint": endpoint, "s3.region": "us-east-1"}

    def there(folder: Path) -> dict[str, str]:
        return settings(folder) | {"warehouse": place} | of_the_library

    monkeypatch.setattr(iceberg_tables, "settings", there)
    return place


def table_to_table(folder: Path) -> str:
    catalog = iceberg_tables.settings(folder)
    given = {"path": None, "table": TABLE, "catalog": catalog}
    taken = {"path": None, "format": "iceberg", "table": MADE, "catalog": catalog}
    return write_job(folder, input=given, output=taken)


def test_nights_from_a_table_in_a_bucket_to_another_commit_each_row_once(
    bucket: str, tmp_path: Path
) -> None:
    source = make(tmp_path, rows(1, 2), rows(3))
    job = table_to_table(tmp_path)
    assert run(job).exit_code == 0
    assert ids(tmp_path) == [1, 2, 3]
    assert made(tmp_path).location().startswith(bucket)
    assert run(job).state == "nothing to do"
    source.append(rows(4, 5))
    source.delete("id = 3")
    summary = run(job)
    assert (summary.exit_code, summary.rows.rows) == (0, 2)
    assert len(summary.vanished_outputs) == 1
    assert run(job, Choices(prune=True)).exit_code == 0
    assert ids(tmp_path) == [1, 2, 4, 5]
    assert len(added_once(tmp_path)) == 3
    assert verify_job(load_job(job)).problems == []


def test_credentials_that_are_wrong_are_told_in_a_line_without_the_secret(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, rows(1))
    job = table_to_table(tmp_path)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDOFSOMEBODYELSE00")
    with pytest.raises(JobError) as caught:
        run(job)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert TABLE in said
    assert SECRET not in said
