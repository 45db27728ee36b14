"""A training job from beginning to end; killed anywhere, the same command goes on."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError, OutOfMemory, OutputBusy, RunError, ShardscribeError
from pipeline.lake.store.own import own_address
from pipeline.learn.evaluate import check_libraries
from pipeline.learn.train.data import PARTS, LabelledRows, read_rows
from pipeline.learn.train.figures import MEASURED_AS, measured
from pipeline.learn.train.job import SCRATCH_BASE, ScratchOptions, TrainJob
from pipeline.models.resolve import ModelInfo, look_up

if TYPE_CHECKING:
    from pipeline.learn.train.classifier import Learner
    from pipeline.learn.train.writer import Writer

RECORD = "training.json"
# Counted up with every change of what the same job and rows give.
RECIPE = 1


def train_job(job: TrainJob, *, command: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Trains what a job says, unless it is there already.

    Args:
        job: As it was read.
        command: Which made it, for the card.
        say: Told of progress, a line at a time.

    Returns:
        What ``training.json`` in the model's folder says.

    Raises:
        JobError: The job, its rows or its base are wrong, or another model is at the output.
        OutputBusy: Another run trains it.
        RunError: Training came apart, or there is no room for it.
    """
    check_libraries(MEASURED_AS[job.task.kind])
    output = Path(job.output.path).expanduser()
    there = _record_at(output)
    info = None if job.base == SCRATCH_BASE else look_up(job.base)
    rows = read_rows(job.data, seed=job.train.seed, kind=job.task.kind)
    mark = _fingerprint(job, rows, info)
    if there is not None:
        return _as_it_was(there, mark, output)
    own = Path(own_address(str(output)), "train")
    with _alone(own):
        if (there := _record_at(output)) is not None:
            return _as_it_was(there, mark, output)
        _tell(rows, say)
        record = {"fingerprint": mark, "command": command, "job": job.model_dump(mode="json")}
        made = _trained(job, rows, info, record, own / mark, say)
        _publish(made, output)
        shutil.rmtree(own, ignore_errors=True)
    return record


def _record_at(output: Path) -> dict[str, Any] | None:
    """What is at the output: None if nothing is.

    Raises:
        JobError: It is no model of a training job.
    """
    try:
        if not output.is_dir():
            if output.exists():
                raise JobError(f"output.path: {output} is a file", hint="Name a new directory")
            return None
        if not any(output.iterdir()):
            return None
        found = json.loads((output / RECORD).read_text(encoding="utf-8"))
        if isinstance(found, dict) and "fingerprint" in found:
            return found
    except (OSError, ValueError):
        pass
    raise JobError(f"output.path: {output} holds something that no training job made",
                   hint="Name a new directory")  # fmt: skip


def _as_it_was(record: dict[str, Any], mark: str, output: Path) -> dict[str, Any]:
    if record["fingerprint"] != mark:
        raise JobError(
            f"output.path: {output} holds a model that was trained from other rows, another "
            "base or other options",
            hint="Name another directory, or remove that one",
        )
    # Killed between publishing and tidying up.
    shutil.rmtree(Path(own_address(str(output)), "train"), ignore_errors=True)
    return {**record, "was_there": True}


def _fingerprint(job: TrainJob, rows: LabelledRows, info: ModelInfo | None) -> str:
    said = job.model_dump(mode="json", exclude={"name", "description", "output"})
    parts = {"recipe": RECIPE, "job": said, "rows": rows.seen, "base": _revision(info)}
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _revision(info: ModelInfo | None) -> str:
    return "none" if info is None else info.commit or info.revision()


@contextmanager
def _alone(own: Path) -> Iterator[None]:
    """Keeps a second run of this machine out; whoever is killed lets go."""
    try:
        own.parent.mkdir(parents=True, exist_ok=True)
        lock = (own.parent / "train.lock").open("w")
    except OSError as error:
        raise JobError(f"output.path: {own.parent} can't be written: {error.strerror}",
                       hint="Name a directory that can") from error  # fmt: skip
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputBusy("another run trains this model", hint="Let it end") from error
        yield


def _tell(rows: LabelledRows, say: Callable[[str], None]) -> None:
    sizes = ", ".join(f"{len(getattr(rows, part)):,} {part}" for part in PARTS)
    say(f"{f'{len(rows.labels):,} labels; ' if rows.labels else ''}rows: {sizes}")
    for why, count in sorted(rows.left_out.items()):
        say(f"left out: {count:,} {why}")


def _trained(
    job: TrainJob, rows: LabelledRows, info: ModelInfo | None, record: dict[str, Any], work: Path,
    say: Callable[[str], None],
) -> Path:  # fmt: skip
    """A finished model folder beside its place. What is known of it goes into the record."""
    import transformers

    from pipeline.learn.train.card import card, versions
    from pipeline.learn.train.classifier import class_weights, load_learner
    from pipeline.learn.train.tagger import Tagger, tags_of
    from pipeline.learn.train.trainer import Examples, last_checkpoint, make_trainer
    from pipeline.learn.train.writer import new_writer

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    learner: Learner | Writer
    weights = None
    if info is None:
        learner = new_writer(job, rows.train)
    elif job.task.kind == "ner":
        learner = load_learner(job, info, tags_of(rows.labels), several=False, made=Tagger)
    else:
        learner = load_learner(job, info, rows.labels, several=rows.several)
        weights = class_weights(job, learner, rows.train)
    model = learner.model
    for other in work.parent.glob("*"):  # checkpoints of what the job said before
        if other.name != work.name:
            shutil.rmtree(other, ignore_errors=True)
    made = work / "made"
    shutil.rmtree(made, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    _check_room(model, work)
    parts = {
        part: Examples(*learner.encode(getattr(rows, part)))
        for part in ("train", "validation") if getattr(rows, part)
    }  # fmt: skip
    if learner.inexact:
        say(f"{learner.inexact:,} spans begin or end within a token, which is learned as theirs")
    trainer = make_trainer(
        model, job.train, train=parts["train"], validation=parts.get("validation"),
        frozen=learner.frozen, weights=weights, collate=learner.collate,
        smoothing=(job.scratch or ScratchOptions()).label_smoothing if info is None else 0.0,
        folder=work, say=say,
    )  # fmt: skip
    last = last_checkpoint(work)
    if last is not None:
        say(f"going on from {last.name.replace('-', ' of step ')}")
    with _told(model, work):
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    figures = measured(learner, rows, job)
    state = trainer.state
    best = state.best_global_step if rows.validation else None
    record |= {
        "labels": list(learner.labels),
        "rows": {part: len(getattr(rows, part)) for part in PARTS},
        "left_out": rows.left_out,
        "base_revision": _revision(info),
        "head_kept": learner.head_kept,
        "max_tokens": learner.max_tokens,
        "cut": learner.cut,
        "inexact": learner.inexact,
        "parameters": sum(one.numel() for one in model.parameters()),
        "trained": sum(one.numel() for one in model.parameters() if one.requires_grad),
        "steps": state.global_step,
        "best_step": best,
        "best_loss": state.best_metric if best is not None else None,
        "losses": [
            {name: line[name] for name in ("step", "loss", "eval_loss") if name in line}
            for line in state.log_history if "loss" in line or "eval_loss" in line
        ],
        "versions": versions(),
        "figures": figures,
    }  # fmt: skip
    with _told(model, work):
        learner.save(made)
        (made / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        said = card(job, rows, figures=figures, record=record)
        (made / "README.md").write_text(said, encoding="utf-8")
    look_up(str(made))
    return made


def _size(model: Any) -> int:
    return sum(one.numel() * one.element_size() for one in model.parameters())


def _check_room(model: Any, work: Path) -> None:
    """Refuses to begin where three checkpoints and the model don't fit."""
    learned = sum(one.numel() * 8 for one in model.parameters() if one.requires_grad)
    needed = 4 * _size(model) + 3 * learned
    free = shutil.disk_usage(work).free
    if free < needed:
        raise JobError(
            f"{work.parent} has {free / 1e6:,.0f} MB free; checkpoints need {needed / 1e6:,.0f} MB",
            hint="Free some, or name an output elsewhere",
        )


@contextmanager
def _told(model: Any, work: Path) -> Iterator[None]:
    """Says in our words what ends a training."""
    from pipeline.models.torch.faults import own_errors

    try:
        with own_errors():
            yield
    except OutOfMemory as error:
        raise RunError("there is no memory for a step",
                       hint="Lower train.batch_size or train.max_tokens") from error  # fmt: skip
    except ShardscribeError:
        raise
    except Exception as error:
        full = shutil.disk_usage(work).free < _size(model)
        if not full and not isinstance(error, OSError):
            raise
        why = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        raise RunError(
            f"{work} can't be written: {why}",
            hint="Make room and run the same command: it goes on from the last whole checkpoint",
        ) from error


def _publish(made: Path, output: Path) -> None:
    """Puts a finished folder in its place in one step."""
    mode = (made / RECORD).stat().st_mode
    for path in made.rglob("*"):
        if path.is_file():
            path.chmod(mode)  # safetensors writes files that only their owner may read
            with path.open("rb") as file:
                os.fsync(file.fileno())
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        made.rename(output)
    except OSError as error:
        raise RunError(f"{output} can't be made: {error.strerror}",
                       hint="See what is there, and run the same command") from error  # fmt: skip
    where = os.open(output.parent, os.O_RDONLY)
    try:
        os.fsync(where)
    finally:
        os.close(where)
