"""Shardscribe: transformer models over a data lake of text, Parquet in, annotated Parquet out."""

__version__ = "0.1.0"

# Raised whenever the code gives other annotations for the same job: part of every fingerprint.
RESULTS_VERSION = 3
