"""The one place where the command writes: whatever is said is escaped here."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from pipeline.errors import ShardscribeError
from pipeline.escape import json_line, visible

# Whatever somebody has written into a field may be repeated in a message.
LONGEST = 2_000


def say(text: object, *, err: bool = False) -> None:
    """Writes one line, to standard error if asked."""
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line = visible(text).encode(encoding, "backslashreplace").decode(encoding)
    click.echo(line, err=err)


def say_json(content: Any) -> None:
    """Writes one line of JSON to standard output."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    line = json_line(content)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = json.dumps(json.loads(line))
    click.echo(line)


def fail(error: ShardscribeError) -> None:
    """Says what is wrong, a line for each mistake."""
    for at, line in enumerate(error.lines):
        say(visible(line if at else f"Error: {line}", most=LONGEST), err=True)
