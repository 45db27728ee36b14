"""One place by many names: an output inside its input is told however the two are written."""

import os
from pathlib import Path

import pytest

from pipeline.errors import JobError
from pipeline.lake.sink.open import open_sink
from pipeline.lake.source.open import open_source
from pipeline.lake.store.open import open_store
from pipeline.lake.store.places import is_within

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acct")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")


SAME = [
    ("s3://lake/in", "s3a://lake/in"),
    ("s3://lake/in/", "s3a://lake/in"),
    ("s3://lake/in", "s3://LAKE/in/"),
    ("s3://lake/in", "s3://lake/other/../in"),
    ("s3://lake/in", "s3://lake/./in/."),
    ("s3://lake/in", "s3://lake/%69n"),
    ("s3://lake/a b", "s3a://lake/a%20b/"),
    ("s3://lake/in", "s3://lake/x/%2e%2e/in"),
    ("s3://lake", "s3a://lake/"),
    ("gs://lake/in", "gs://lake/in/"),
    ("az://lake/in", "abfs://lake/in"),
    ("az://lake/in", "abfss://lake@acct.dfs.core.windows.net/in"),
    ("abfs://lake@acct.dfs.core.windows.net/in", "abfss://lake@acct.dfs.core.windows.net/in/"),
]
APART = [
    ("s3://lake/in", "s3a://lake/in2"),
    ("s3://lake/in", "s3://lake2/in"),
    ("s3://lake/in", "s3://lake/IN"),
    ("s3://lake/in", "gs://lake/in"),
    ("s3://lake/in", "s3://lake/in/../out"),
    ("abfss://lake@one.dfs.core.windows.net/in", "abfss://lake@two.dfs.core.windows.net/in"),
]


def refused(given: str, output: str) -> bool:
    try:
        open_sink(output).check(open_source(given))
    except JobError as error:
        return "are inside each other" in str(error)
    return False


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_place_of_an_object_store_is_one_however_it_is_written(one: str, other: str) -> None:
    for given, output in ((one, other), (other, one)):
        assert refused(given, output)
        assert refused(given, f"{output.rstrip('/')}/deep/er")
        assert refused(f"{given.rstrip('/')}/deep/er", output)


@pytest.mark.parametrize(("one", "other"), APART)
def test_two_places_of_an_object_store_are_two(one: str, other: str) -> None:
    assert not refused(one, other)
    assert not refused(other, one)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    (tmp_path / "lake/deep").mkdir(parents=True)
    (tmp_path / "lake/a.parquet").touch()
    (tmp_path / "link").symlink_to(tmp_path / "lake")
    (tmp_path / "up").symlink_to(tmp_path)
    return tmp_path / "lake"


@pytest.mark.parametrize(
    "form",
    ["{0}", "{0}/", "{0}/.", "{0}/deep/..", "{0}//", "file://{0}", "{1}/link", "file://{1}/link",
     "{1}/up/lake", "{1}/up/up/link", "{0}/deep", "{1}/link/new", "file://{1}/up/lake/new/er",
     "{1}", "{1}/up"],
)  # fmt: skip
def test_one_place_of_this_machine_is_one_however_it_is_written(
    lake: Path, tmp_path: Path, form: str
) -> None:
    assert refused(str(lake), form.format(lake, tmp_path))


@pytest.mark.parametrize("form", ["{0}2", "{1}/out", "{1}/up/out", "file://{1}/lak"])
def test_two_places_of_this_machine_are_two(lake: Path, tmp_path: Path, form: str) -> None:
    assert not refused(str(lake), form.format(lake, tmp_path))


def test_one_directory_of_two_names_is_one_place(
    lake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount has, or a file system that does not tell letters apart."""
    (tmp_path / "mounted").mkdir()
    stat = os.stat

    def as_mounted(path: object, *args: object, **named: object) -> os.stat_result:
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
        if str(text) == str(tmp_path / "mounted"):
            text = str(lake)
        return stat(text, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", as_mounted)
    assert is_within(open_store(str(tmp_path / "mounted/out")), open_store(str(lake)))


def test_an_output_beside_a_single_file_is_no_output_in_the_input(lake: Path) -> None:
    assert not refused(f"{lake}/a.parquet", f"{lake}/deep")
    assert refused(f"{lake}/a.parquet", f"{lake}/deep/..")


def test_addresses_of_one_place_share_their_own_files() -> None:
    roots = {
        open_store(address).own.root.partition("://")[2]
        for address in ("s3://b/x/out", "s3a://b/x/out/", "s3://b/x/./out", "s3://b/y/../x/out/.")
    }
    assert len(roots) == 1
