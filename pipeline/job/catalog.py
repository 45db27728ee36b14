"""Tables that a catalog knows: by which name, and how the catalog is opened."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pipeline.lake.iceberg import SECRET

# What catalogs and file systems call what nobody else may know, such as s3.secret-access-key.
SECRET_KEY = re.compile(r"secret|password|token|credential|access-key|sas|account-key|connection")
PASSWORD = re.compile(r"://[^/@]*:(?P<password>[^/@]*)@")
# By these keys a catalog loads any class that is installed.
CODE = ("py-catalog-impl", "py-io-impl", "s3.retry-strategy-impl", "auth")


def _texts(value: object) -> object:
    """As `pyiceberg` takes numbers and yes and no: as texts."""
    if not isinstance(value, dict):
        return value
    return {key: _text(said) for key, said in value.items()}


def _text(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _safe(catalog: dict[str, str]) -> dict[str, str]:
    for key, value in catalog.items():
        if key in CODE:
            raise ValueError(f"`{key}` would load code of its own, which a job file can't ask for")
        found = PASSWORD.search(value)
        secret = found["password"] if found else value if SECRET_KEY.search(key.lower()) else ""
        if secret and not SECRET.search(secret):
            # The message does not repeat what may be a secret.
            raise ValueError(
                f"`{key}` holds a secret: write ${{env:NAME}} in its place, which stands for what "
                "the environment has by that name"
            )
    return catalog


def _named(name: str) -> str:
    if not all(name.split(".")) or "." not in name:
        raise ValueError("a table is named namespace.table")
    return name


Catalog = Annotated[dict[str, str], BeforeValidator(_texts), AfterValidator(_safe)]
TableText = Annotated[str, AfterValidator(_named)]
CATALOG: Any = Field(
    {},
    title="Catalog",
    description="Of an Iceberg table: what pyiceberg takes to open the catalog, such as {type: "
    "rest, uri: ..., credential: '${env:NAME}'}; `name` is its own name. Secrets come from the "
    "environment, by name. By default what pyiceberg's own settings say.",
)


def path_or_table(path: object, table: str | None, catalog: dict[str, str]) -> None:
    """Refuses an input that names no place, or two.

    Raises:
        PydanticCustomError: Naming the field.
    """
    wrong = {
        "path": "it is missing. Add it, or `table` for an Iceberg table"
        if path is None and table is None
        else "",
        "table": "it stands beside `path`. Name one of both" if path and table else "",
        "catalog": "it is of a table, and none is named. Add `table`"
        if catalog and table is None
        else "",
    }
    for name, said in wrong.items():
        if said:
            raise clash(name, said)


def clash(name: str, said: str) -> PydanticCustomError:
    """What is wrong with a field of a part, by others of it."""
    return PydanticCustomError("clash", said, {"fields": [(name,)]})
