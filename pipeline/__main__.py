"""``python -m pipeline``: the same as the ``shardscribe`` command."""

from pipeline.cli.main import main

if __name__ == "__main__":
    main(prog_name="shardscribe")
