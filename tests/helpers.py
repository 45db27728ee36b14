"""What several tests share."""

import pyarrow.dataset as pads

CLASSIFY = {"kind": "classify", "model": "starter/sentiment"}
NER = {"kind": "ner", "model": "starter/pii"}
GIST = {
    "kind": "summarize",
    "model": "starter/minilm",
    "method": "extractive",
    "sentences": 2,
}


class QuietDisplay:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.phases: list[str] = []
        self.shares: list[float] = []

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def progress(self, progress) -> None:
        self.shares.append(progress.share)
        if not self.phases or self.phases[-1] != progress.phase:
            self.phases.append(progress.phase)


def rows_of(directory) -> list[dict]:
    """All rows below a directory, by id where they have one."""
    rows = pads.dataset(str(directory), format="parquet", partitioning="hive").to_table()
    found = rows.to_pylist()
    return sorted(found, key=lambda row: row["id"]) if found and "id" in found[0] else found
