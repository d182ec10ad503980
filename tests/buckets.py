"""An S3 endpoint on this machine, and a proxy in front of it that answers badly."""

import http.client
import os
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

BUCKET = "screens"


@contextmanager
def endpoint() -> Iterator[str]:
    """Yield the host and port of an endpoint with one empty bucket."""
    pytest.importorskip("obstore", reason="the extra s3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        request = urllib.request.Request(f"http://{host}:{port}/{BUCKET}", method="PUT")
        urllib.request.urlopen(request).close()
        yield f"{host}:{port}"
    finally:
        running.stop()


def use(patch: pytest.MonkeyPatch, address: str) -> None:
    """Have an endpoint used from now on."""
    for key in [k for k in os.environ if k.startswith("AWS_")]:
        patch.delenv(key)
    for key, value in {
        "AWS_ENDPOINT_URL": f"http://{address}", "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "hush",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        patch.setenv(key, value)


class Proxy(ThreadingHTTPServer):
    """Passes requests on; every n-th is answered badly.

    Parameters
    ----------
    behind : str
        Host and port of the endpoint.
    every : int
        1: all of them; 0: none.
    how : str
        "503"; "403"; "late": done, and then a 500 is answered; "torn": half of the answer comes.
    """

    daemon_threads = True

    def __init__(self, behind: str, *, every: int = 3, how: str = "503") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.every, self.how = behind, every, how
        self.requests: list[tuple[str, str]] = []
        self.failed = 0
        self.guard = threading.Lock()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def fails(self, method: str, path: str) -> bool:
        with self.guard:
            self.requests.append((method, path))
            bad = bool(self.every) and len(self.requests) % self.every == 0
            self.failed += bad
        return bad

    def count(self, method: str, text: str = "") -> int:
        """Return how many requests of a kind there were."""
        return sum(m == method and text in path for m, path in self.requests)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        body = self._body()
        how = self.server.how if self.server.fails(self.command, self.path) else ""
        if how in ("503", "403"):
            self._refuse(int(how))
            return
        inner = http.client.HTTPConnection(self.server.behind, timeout=30)
        # signed for this name
        inner.request(self.command, self.path, body, dict(self.headers))
        answer = inner.getresponse()
        content = answer.read()
        inner.close()
        if how == "late":
            self._refuse(500)
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.casefold() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length or 0))
        if how == "torn":
            self.send_header("Connection", "close")
            content = content[: len(content) // 2]
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.close_connection = how == "torn"

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raise AssertionError("requests have a length")
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _answer


@contextmanager
def proxied(behind: str, *, every: int = 3, how: str = "503") -> Iterator[Proxy]:
    """Yield a running proxy."""
    proxy = Proxy(behind, every=every, how=how)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def wait_until(condition: object, seconds: float = 20.0) -> None:
    """Return when something has come true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)
