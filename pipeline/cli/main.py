"""The ``shardscribe`` command. Verbs are imported when they are called: `--help` stays instant."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from pipeline import __version__
from pipeline.cli.say import fail, say
from pipeline.errors import Interrupted, ShardscribeError, one_line

# verb -> (module, object, one line for --help)
VERBS = {
    "run": ("pipeline.cli.run", "run", "Annotate everything that a job file names."),
    "retry": ("pipeline.cli.run", "retry", "Annotate failed splits again."),
    "status": ("pipeline.cli.status", "status", "What is done, left, failed and bad."),
    "verify": ("pipeline.cli.verify", "verify", "Read the output against the input."),
    "validate": ("pipeline.cli.validate", "validate", "Check a job file, its input and models."),
    "preview": ("pipeline.cli.preview", "preview", "Annotate a few rows here and show them."),
    "evaluate": ("pipeline.cli.evaluate", "evaluate", "How good a task is, against gold rows."),
    "estimate": (
        "pipeline.cli.estimate",
        "estimate",
        "Shares in the whole output, with intervals.",
    ),
    "train": ("pipeline.cli.train", "train", "Train a model on labelled rows."),
    "distil": ("pipeline.cli.distil", "distil", "Train a small model to answer as a task does."),
    "show": ("pipeline.cli.show", "show", "Show annotated rows of an output."),
    "tasks": ("pipeline.cli.tasks", "tasks", "List the kinds of tasks and their options."),
    "models": ("pipeline.cli.models", "models", "Fetch and list models that need no hub."),
    "import": ("pipeline.cli.ingest", "import_rows", "CSV, JSON lines, text, Arrow to Parquet."),
    "inspect": ("pipeline.cli.inspect", "inspect", "What is there: files, columns, texts."),
    "compact": ("pipeline.cli.compact", "compact", "Many small files of an output into few."),
    "samples": ("pipeline.cli.samples", "samples", "Write sample datasets to try things on."),
}


class _Verbs(click.Group):
    """Loads a verb's module when the verb is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, name, _ = VERBS[cmd_name]
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, text) for verb, (_, _, text) in VERBS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            raise click.UsageError(
                f"there is no command {args[0]!r}; there are {', '.join(VERBS)}", ctx
            ) from error

    def main(self, *args: Any, **options: Any) -> Any:
        """Ends the process with an exit code; whatever happens is told in a line or two."""
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
        except ShardscribeError as error:
            fail(error)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            context = getattr(error, "ctx", None)
            say(f"Error: {error.format_message()}", err=True)
            if context is not None:
                say(f"Try `{context.command_path} --help`", err=True)
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            say("Error: interrupted", err=True)
            sys.exit(Interrupted.exit_code)
        except Exception as error:
            say(_unforeseen(error), err=True)
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)


def _unforeseen(error: Exception) -> str:
    """What to say of an error that nobody thought of; where it arose goes into a file."""
    import tempfile
    import traceback

    told = f"Error: this was not foreseen: {type(error).__name__}: {one_line(error, most=200)}"
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="shardscribe-", suffix=".log", delete=False, errors="backslashreplace"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return told
    return f"{told}. Please report it with {file.name}, which says where it arose"


@click.group(
    cls=_Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with: shardscribe run jobs/movie_reviews.yaml",
)
@click.version_option(__version__, prog_name="shardscribe")
def main() -> None:
    """Run transformer models over a data lake of text: Parquet in, annotated Parquet out.

    A job file in YAML names the input, the tasks and the output. What is annotated already is
    never annotated again, so the same command resumes.
    """
