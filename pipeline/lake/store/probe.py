"""Whether a store does what the output's rightness rests on: it refuses to create what is there."""

from __future__ import annotations

import uuid

from pipeline.errors import JobError
from pipeline.lake.store.base import Store

# It stays, so that a later run has to try but once.
PATH = "create-only"


def check_create_only(store: Store) -> None:
    """Creates a file that is there already, which a store has to refuse.

    Args:
        store: Where our own files are.

    Raises:
        JobError: The store takes the second for the first, or can't do without names that link.
        OSError: It can't be written.
    """
    for _ in range(2):
        if not store.create(PATH, uuid.uuid4().hex.encode()):
            return
    raise JobError(
        f"{store.root} can't keep two runs apart: asked to create a file only if there is none, "
        "it replaced the one that was there (it ignores `If-None-Match: *`)",
        hint="Choose a store that honours conditional puts, or update this one",
    )
