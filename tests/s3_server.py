"""An S3 server on loopback, which can be told to misbehave.

It is moto's, with a layer in front that refuses unknown keys, makes conditional puts atomic
(moto looks and then writes, without a lock), keeps a log of requests, and injects faults.
"""

import os
import random
import socket
import struct
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

KEY = "AKIDSHARDSCRIBETESTS"
SECRET = "this-is-the-secret-of-the-tests"
REFUSED = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidAccessKeyId</Code>'
    "<Message>The AWS Access Key Id you provided does not exist in our records.</Message>"
    "<AWSAccessKeyId>{key}</AWSAccessKeyId></Error>"
)
SAID = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
    "<Message>Please try again.</Message></Error>"
)
# Fault -> status and code of the answer, with which nothing is done.
TOLD = {
    "conflict": ("409 Conflict", "ConditionalRequestConflict"),
    "busy": ("503 Slow Down", "SlowDown"),
    "throttled": ("429 Too Many Requests", "TooManyRequests"),
}
FITS = {"lost": "PUT", "cut": "GET", "conflict": "PUT"}
CONDITIONS = ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH")
BROKEN = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>InternalError</Code>'
    "<Message>We encountered an internal error. Please try again.</Message></Error>"
)


@dataclass
class Faults:
    """What goes wrong, as shares of all requests, by a seeded die.

    Attributes:
        error: Answered 500, and not done.
        slow: Done after `delay` seconds.
        reset: The connection is reset, and nothing done.
        lost: Done, and the connection reset instead of an answer. Puts only.
        cut: Done, and the connection reset amid the answer. Gets only.
        conflict: Answered 409, try again, and not done. Conditional puts only.
        busy: Answered 503, slow down, and not done.
        throttled: Answered 429, and not done.
        seed: Of the die.
    """

    error: float = 0.0
    slow: float = 0.0
    reset: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    conflict: float = 0.0
    busy: float = 0.0
    throttled: float = 0.0
    delay: float = 0.3
    seed: int = 0
    seen: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._die = random.Random(self.seed)
        self._lock = threading.Lock()
        self._decks: dict[str, list[bool]] = {}
        self._owed: Counter[str] = Counter()

    def next(self, method: str) -> str:
        """The fault of the next request; empty for none.

        Drawn from a shuffled deck: of 1 / share requests exactly one is struck, so that a test may
        count on each kind however few requests there are.
        """
        kinds = ("error", "slow", "reset", "lost", "cut", *TOLD)
        with self._lock:
            fitting = [
                kind for kind in kinds
                if getattr(self, kind) and method == FITS.get(kind, method)
            ]  # fmt: skip
            for kind in fitting:
                deck = self._decks.setdefault(kind, [])
                if not deck:
                    deck += [True] + [False] * (round(1 / getattr(self, kind)) - 1)
                    self._die.shuffle(deck)
                self._owed[kind] += deck.pop()
            struck = next((kind for kind in fitting if self._owed[kind]), "")
            if struck:
                self._owed[struck] -= 1
                self.seen[struck] += 1
        return struck


class S3Server:
    """A server with one bucket, ``lake``.

    Attributes:
        faults: None, or what goes wrong.
        log: Method, path and Range header of each request.
        ignores: Whether it takes no notice of conditions, as old or simple stores do.
    """

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: object) -> None:
                pass

        self.faults: Faults | None = None
        self.log: list[tuple[str, str, str]] = []
        self.ignores = False
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._commit = threading.Lock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True,
                                   request_handler=Quiet)  # fmt: skip
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
        }

    def make_bucket(self, name: str) -> None:
        """Makes a bucket."""
        signed = f"AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/s3/aws4_request"
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{name}",
            method="PUT",
            headers={"Authorization": f"{signed}, SignedHeaders=host, Signature=0"},
        )
        urllib.request.urlopen(request).close()

    def close(self) -> None:
        """Stops it; what it held is gone."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.log.append((method, path, environ.get("HTTP_RANGE", "")))
        kind = self.faults.next(method) if self.faults is not None else ""
        if self.ignores:
            for name in CONDITIONS:
                environ.pop(name, None)
        conditional = any(name in environ for name in CONDITIONS)
        if kind == "conflict" and not conditional:
            kind = ""
        if kind in ("error", "reset", *TOLD):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if kind == "error":
            return _plain(start_response, "500 Internal Server Error", BROKEN)
        if kind in TOLD:
            status, code = TOLD[kind]
            return _plain(start_response, status, SAID.format(code=code))
        if kind == "reset":
            return _reset(environ)
        if kind == "slow":
            time.sleep(self.faults.delay)
        signed = environ.get("HTTP_AUTHORIZATION", "")
        if f"Credential={KEY}/" not in signed:
            key = signed.partition("Credential=")[2].partition("/")[0]
            return _plain(start_response, "403 Forbidden", REFUSED.format(key=key))
        if conditional:
            with self._commit:
                body = list(self._moto(environ, start_response))
        else:
            body = list(self._moto(environ, start_response))
        if kind == "cut":
            return _cut(environ, b"".join(body))
        return _reset(environ) if kind == "lost" else body


def _plain(start_response, status: str, body: str):
    start_response(status, [("Content-Type", "application/xml"),
                            ("Content-Length", str(len(body)))])  # fmt: skip
    return [body.encode()]


def _cut(environ, body: bytes):
    yield body[: len(body) // 2]
    _reset(environ)


def _reset(environ):
    """Closes the connection so that the other side sees a reset."""
    connection = environ["werkzeug.socket"]
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.shutdown(socket.SHUT_RD)
    connection.close()
    raise ConnectionResetError("as asked")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server; this process and its children find it in their environment."""
    server = S3Server()
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(server.environ)
    try:
        server.make_bucket("lake")
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.close()
