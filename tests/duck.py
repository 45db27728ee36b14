"""DuckDB with its own readers of Delta and Iceberg tables, which packages carry."""

from importlib.resources import files

import duckdb


def ducks(*extensions: str) -> duckdb.DuckDBPyConnection:
    """A connection that has some of `avro`, `delta` and `iceberg`; nothing is fetched or kept."""
    connection = duckdb.connect()
    for name in extensions:
        folder = files(f"duckdb_extension_{name}") / "extensions" / f"v{duckdb.__version__}"
        connection.execute(f"LOAD '{folder / name}.duckdb_extension'")
    return connection
