"""``shardscribe status``."""

from __future__ import annotations

import click

from pipeline.cli.options import is_job_file, set_option
from pipeline.cli.say import say, say_json
from pipeline.job.file import load_job

FILES_SHOWN = 10


@click.command()
@click.argument("job_or_output", metavar="JOB_OR_OUTPUT")
@set_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
@click.option(
    "--watch",
    "watched",
    is_flag=True,
    help="First show how far the run is that is under way, until it ends; wait for one if there "
    "was none yet. Works from any terminal; Ctrl-C ends the watching and not the run.",
)
def status(job_or_output: str, overrides: tuple[str, ...], as_json: bool, watched: bool) -> None:
    """Count what is done, left, failed and bad, with reasons, and list the last runs.

    Give a job file to know what is left, or an output directory.

    \b
    Examples:
      shardscribe status jobs/movie_reviews.yaml
      shardscribe status data/annotated
      shardscribe status jobs/movie_reviews.yaml --watch
    """
    from pipeline.job.places import output_address

    job = load_job(job_or_output, overrides=overrides) if is_job_file(job_or_output) else None
    address = job_or_output if job is None else output_address(job)
    if watched:
        from pipeline.cli.watch import watch

        try:
            watch(address, as_json=as_json)
        except KeyboardInterrupt:
            return  # as other programs that watch end
    from pipeline.cli.display import status_line
    from pipeline.status import output_status

    found = output_status(address, job=job)
    if as_json:
        runs = [run.fields for run in found.runs]
        say_json({**vars(found), "rows": found.rows.said, "runs": runs})
        return
    rows = found.rows
    if not found.files and not found.runs:
        say(f"{found.output} holds no annotated files yet")
    say(f"output  {found.output}: {found.files:,} files, {found.bytes / 1e6:,.1f} MB")
    if found.total is not None and found.left is not None:
        say(f"splits  {found.total:,} = {found.total - found.left:,} done + {found.left:,} left")
    say(
        f"rows    {rows.rows:,} = {rows.annotated:,} annotated + {rows.bad:,} bad"
        f" + {rows.skipped:,} skipped"
    )
    for kind, files in (("damaged", found.damaged), ("unread", found.unread)):
        for path, why in list(files.items())[:FILES_SHOWN]:
            say(f"{kind:<7} {path}: {why}")
        if len(files) > FILES_SHOWN:
            say(f"        and {len(files) - FILES_SHOWN} more")
    if found.damaged:
        say("        the next `shardscribe run` annotates damaged files anew")
    if found.others:
        say(
            f"other   {found.others:,} of the files are of a job that gives other results: "
            f"{'; '.join(found.differs) or 'fingerprints differ'}. Set that back, choose another "
            "output directory, or let `run --supersede` replace them"
        )
    for run in found.runs:
        summary = run.summary
        seconds = f" in {summary.seconds:,.0f} s" if summary else ""
        say(f"run     {run.run}: {run.state}{seconds}")
        far = status_line(run.progress.progress) if run.progress else ""
        for told in (summary.error if summary else far, run.problem):
            if told:
                say(f"        {told}")
    # Of the last run alone: what failed before it may have been mended since.
    last = found.runs[0].summary if found.runs else None
    for failed in last.failed_splits[:FILES_SHOWN] if last else []:
        say(f"failed  {failed.told}: {failed.reason}")
