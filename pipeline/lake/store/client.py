"""Clients of object stores, and what to say of what they raise.

That holds no body of an answer and no query of a URL: there the stores repeat keys and tokens.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pipeline.errors import JobError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig

# Read from the environment, which obstore does only as long as it is given no option at all.
CLIENT_OPTIONS = (
    "allow_http",
    "allow_invalid_certificates",
    "proxy_url",
    "proxy_ca_certificate",
    "proxy_excludes",
    "root_certificate",
    "user_agent",
)
VARIABLES = {"s3": "AWS", "s3a": "AWS", "gs": "GOOGLE"}


def open_client(root: str, *, patience: float, seconds: float, pauses: tuple[float, float]) -> Any:
    """A client for the prefix that an address names.

    Args:
        root: The address.
        patience: Seconds in which a request is repeated; 0 for never.
        seconds: For one request.
        pauses: The first and the longest between two tries.

    Raises:
        JobError: The address makes no sense.
    """
    import obstore.store

    retry: RetryConfig = {
        "max_retries": 10 if patience else 0,
        "retry_timeout": timedelta(seconds=patience),
        "backoff": {
            "init_backoff": timedelta(seconds=pauses[0]),
            "max_backoff": timedelta(seconds=pauses[1]),
        },
    }
    client: ClientConfig = {"timeout": timedelta(seconds=seconds), "connect_timeout": "5s"}
    prefix = prefix_of(root)
    for name in CLIENT_OPTIONS:
        value = os.environ.get(f"{prefix}_{name.upper()}")
        if value:
            client[name] = value  # type: ignore[literal-required]
    # One at a time is how we remove things; not all stores know how to remove several at once.
    one: dict[str, Any] = {"disable_bulk_delete": True} if prefix == "AWS" else {}
    try:
        return obstore.store.from_url(root, client_options=client, retry_config=retry, **one)
    except Exception as error:  # obstore maps bad addresses to several classes
        raise JobError(
            f"{root} is no address of an object store that can be opened: {reason(error)}",
            hint="Write s3://bucket/prefix, gs://bucket/prefix or az://container/prefix, and "
            f"give the credentials in the environment ({prefix}_...)",
        ) from error


def mend_of(root: str, error: Exception) -> str:
    """What can be done about what a client raised."""
    from obstore import exceptions

    prefix = prefix_of(root)
    if isinstance(error, exceptions.PermissionDeniedError | exceptions.UnauthenticatedError):
        return f"Check the credentials in the environment ({prefix}_...) and their rights"
    at = (
        " AWS_REGION, AWS_ENDPOINT_URL and, for an endpoint without TLS, AWS_ALLOW_HTTP=true"
        if prefix == "AWS"
        else f" the variables {prefix}_..."
    )
    return f"Check the address, the network, the credentials and in the environment{at}"


def reason(error: Exception) -> str:
    """What a store said, without what it repeats of the request."""
    text, _, body = str(error).partition("Debug source:")[0].partition("<")
    said = [re.search(rf"<{tag}>([^<]*)</{tag}>", f"<{body}") for tag in ("Code", "Message")]
    text += ": ".join(found[1] for found in said if found)
    text = re.sub(r"://[^/\s@]*@", "://", re.sub(r"\?\S*", "", text))
    return " ".join(text.split())[:400]


def prefix_of(root: str) -> str:
    """What the names of an address's variables in the environment begin with."""
    return VARIABLES.get(root.partition("://")[0], "AZURE")
