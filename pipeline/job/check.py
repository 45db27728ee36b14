"""Everything that can be known of a job before anything heavy is imported or started."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError, SplitError
from pipeline.job.columns import carried_columns, output_columns
from pipeline.job.job import Job, fingerprint
from pipeline.job.places import absolute_input, sink_of, source_of
from pipeline.lake.memory import Memory
from pipeline.lake.sink.base import Sink
from pipeline.lake.source.alike import Needs, remembered
from pipeline.lake.source.base import Listing, Source
from pipeline.lake.source.files import FileSource
from pipeline.lake.source.keyed import KeyedSource
from pipeline.lake.source.table import TableSource
from pipeline.lake.source.where import Where
from pipeline.lake.split import Split
from pipeline.lake.store.base import Entry
from pipeline.models.adapters import with_adapter
from pipeline.models.device import device_here
from pipeline.models.engines import ENGINES
from pipeline.models.families import check_family
from pipeline.models.resolve import ModelInfo, look_up
from pipeline.tasks.chain import check_chain

if TYPE_CHECKING:
    import pyarrow as pa

# Footers that are read before a run. A file that is wrong among good ones fails alone, later;
# a dataset of which none of these is right is the job's mistake.
SAMPLED_FILES = 8
# What is looked at where the whole of a dataset is not.
FIRST_FILES = 64


@dataclass(frozen=True)
class Checked:
    """A job whose input, output and models are there and fit each other.

    Attributes:
        job: With absolute addresses.
        source: The input.
        sink: The output.
        listing: What the input holds.
        infos: The models by reference.
    """

    job: Job
    source: Source
    sink: Sink
    listing: Listing
    infos: Mapping[str, ModelInfo]

    def listed(
        self, *, at_most: int | None = None, footers: int | None = None, keep: bool = False
    ) -> Checked:
        """The same job with the files that are there now.

        Args:
            at_most: Only the first so many files that are found.
            footers: Of how many files it is looked at which columns they have together; of all
                by default.
            keep: Keep what was read of them for the next time, beside the output.

        Raises:
            JobError: There are none, none that fits, or a column has types that no type holds.
        """
        listing = self.source.listing(at_most=at_most)
        source = self.source.settled(listing)
        needs = _needs(self.job)
        if isinstance(source, FileSource) and needs is not None:
            memory = Memory(self.sink.own, "schemas")
            try:
                source = source.alike(listing.files[:footers], needs, listing.told, memory)
            except JobError:
                if footers is None:
                    raise  # else it is only a look at some rows
            if keep:
                memory.save(remembered(listing.files, memory))
        try:
            carried = check_columns(self.job, source, listing.files)
        except JobError:
            if at_most is None or len(listing.files) < at_most:
                raise  # among those that were not looked at there may be better ones
            return replace(self, source=source, listing=listing)
        # Of the others a column may be wider, as a table has it by now.
        count = len(listing.files)
        partly = count == at_most or (footers is not None and count > footers)
        sink = self.sink
        try:
            sink = self.sink.declared(output_columns(self.job, carried))
        except JobError:
            if not partly:
                raise
        return replace(self, source=source, listing=listing, sink=sink)


def check(job: Job, *, at_most: int | None = None, footers: int | None = None) -> Checked:
    """Checks models, input and output without loading a model.

    Args:
        job: From `load_job`.
        at_most: Look only at the first so many files of the input: what a run does before it
            holds the output, to tell a mistake before anything is written.
        footers: Of how many files it is looked at which columns they have together; of all by
            default.

    Raises:
        JobError: Something is missing or does not fit.
    """
    infos = check_models(job)
    source = source_of(job.input)
    if job.output.columns == "annotations":
        if isinstance(source, TableSource):  # what is named has to be a file of the table
            source = replace(source, moved=False)
        source = KeyedSource(source)
    sink = sink_of(job)
    sink.check(source)
    absolute = job.model_copy(
        update={
            "input": absolute_input(job.input),
            "output": job.output.model_copy(update={"path": sink.address}),
        }
    )
    return Checked(absolute, source, sink, Listing([]), infos).listed(
        at_most=at_most, footers=footers
    )


def check_models(job: Job) -> dict[str, ModelInfo]:
    """Finds every model and refuses those that do not fit their task.

    Raises:
        JobError: Naming the task.
    """
    engine = ENGINES[job.compute.engine]
    infos: dict[str, ModelInfo] = {}
    for name, task in job.configured.items():
        reference = task.options.model
        try:
            if reference not in infos:
                infos[reference] = look_up(reference, weights=engine.weights)
            model = infos[reference]
            if model.is_adapter:
                raise JobError(
                    f"{reference} is an adapter, not a model",
                    hint="Name the model that it was trained on, and this one as `adapter`",
                )
            adapter = task.options.adapter
            if adapter is not None:
                infos.setdefault(adapter, look_up(adapter))
                if not infos[adapter].is_adapter:
                    raise JobError(
                        f"{adapter} is a model, not an adapter",
                        hint="Name a folder or a hub id with adapter_config.json",
                    )
                model = with_adapter(model, infos[adapter])
            task.bind(model)
            task.check_model(model)
            head = task.head(model)
            check_family(model.config, head=head, reference=reference)
            engine.check(model, head=head, adapter=infos[adapter] if adapter else None)
        except JobError as error:
            raise JobError(f"tasks.{name}: {error.message}", hint=error.hint) from error
    if job.compute.dtype == "int8" and not any(t.has_labels for t in job.configured.values()):
        raise JobError(
            "compute.dtype is int8, which serves classify, ner, and zero_shot but with a chat "
            "model: no task of this job is one",
            hint="Leave compute.dtype at auto",
        )
    return infos


def check_columns(job: Job, source: Source, files: Sequence[Entry]) -> pa.Schema:
    """Reads footers until one has the columns that the job names.

    Args:
        job: Whose tasks are bound to their models, as `check_models` leaves them.
        source: The input.
        files: Its files; some are read.

    Returns:
        The carried columns.

    Raises:
        JobError: None of the sampled files will do; says what is wrong with the first.
    """
    first: SplitError | None = None
    step = max(1, len(files) // SAMPLED_FILES)
    for entry in files[::step][:SAMPLED_FILES]:
        try:
            with closing(source.open(Split.of(entry, fingerprint=""))) as found:
                check_chain(job.configured, found.schema, text=job.input.text)
                if job.input.filter is not None:
                    Where(job.input.filter).check(found.schema)
                where = source.where(entry.path)
                return carried_columns(job, found.schema, where=where, beside=found.beside)
        except SplitError as error:
            first = first or error
    if first is None:
        raise JobError(f"input.path {source.address} holds no file")
    raise JobError(first.message, hint=first.hint) from first


def _needs(job: Job) -> Needs | None:
    """What the job asks of columns; None if it can't be told, as `check_columns` says better."""
    try:
        return Needs(job.carried, frozenset(job.reads), frozenset(job.texts_read))
    except JobError:
        return None


@dataclass(frozen=True)
class Pinned:
    """A checked job with the weights of every model pinned.

    Attributes:
        checked: The job.
        revisions: What pins each model's weights, by reference.
        parts: What the fingerprint is made of.
        fingerprint: Of the job with these weights.
    """

    checked: Checked
    revisions: dict[str, str]
    parts: dict[str, Any]
    fingerprint: str

    def splits(self, memory: Memory | None = None, *, there: Container[str] = ()) -> list[Split]:
        """All splits of the dataset. Footers are read where they decide.

        Args:
            memory: Holds what was read of them before, and takes what is read now.
            there: Names of the output's files: what is annotated stays as it was cut.
        """
        checked = self.checked
        return list(
            checked.source.splits(
                checked.listing.files,
                fingerprint=self.fingerprint,
                cut=checked.job.cut,
                memory=memory,
                there=there,
            )
        )


def pin(checked: Checked, *, device: str = "", like: Collection[str] = ()) -> Pinned:
    """Pins the weights of every model, which for a local folder means hashing it.

    Args:
        checked: The job.
        device: What ``compute.device: auto`` becomes; what this machine has by default.
        like: Fingerprints of an output that may have been made on another kind of device: where
            the job leaves it open, the device that gives one of these is taken.
    """
    revisions = {reference: info.revision() for reference, info in checked.infos.items()}
    compute = checked.job.compute
    if compute.device != "auto" or compute.dtype != "auto":
        return _pinned(checked, revisions, checked.job.on(device or compute.device))
    first = _pinned(checked, revisions, checked.job.on(device or device_here()))
    others = (_pinned(checked, revisions, checked.job.on(name)) for name in ("cpu", "cuda"))
    return next((other for other in others if other.fingerprint in like), first)


def _pinned(checked: Checked, revisions: dict[str, str], job: Job) -> Pinned:
    parts = job.fingerprint_parts(revisions)
    return Pinned(replace(checked, job=job), revisions, parts, fingerprint(parts))
