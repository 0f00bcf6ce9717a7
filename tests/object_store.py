"""A real S3 protocol server on loopback, in a process of its own, and a proxy before it that can be told to fail."""

import http.client
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",  # nothing is asked outside loopback, whatever a test leaves out
}

# One request at a time: a real store carries out conditional writes one after the other, moto's threads do not.
_SERVE = """
import logging
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app))
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def s3_server() -> Iterator[str]:
    """The URL of a fresh server."""
    process = subprocess.Popen([sys.executable, "-c", _SERVE], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.wait()


def new_bucket(server: str) -> str:
    """The name of an empty bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    urllib.request.urlopen(urllib.request.Request(f"{server}/{name}", method="PUT"))
    return name


@dataclass
class Fault:
    """What becomes of the next `times` requests whose line (`GET /bucket/key`) holds `matching`."""

    matching: str
    what: int | str
    """A status; "reset" before anything is done, "lost" after it was done; "cut" the answer; "slow"."""
    times: int = 1
    seconds: float = 0.0
    after: int = 0
    """How many requests pass before."""


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on to `server`, except where a fault says otherwise; `delay` seconds later each."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, server: str, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = server.removeprefix("http://")
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.delay = delay
        self.faults: list[Fault] = []
        self.seen: list[str] = []
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def next_fault(self, line: str) -> Fault | None:
        with self._lock:
            self.seen.append(line)
            for fault in self.faults:
                if fault.matching in line and fault.times > 0:
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FaultyProxy  # pyright: ignore[reportIncompatibleVariableOverride]
    dropped: ClassVar[set[str]] = {"connection", "transfer-encoding", "date", "server"}

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        time.sleep(self.server.delay)
        fault = self.server.next_fault(f"{self.command} {self.path}")
        what = fault.what if fault else None
        if isinstance(what, int):
            self.answer(what, [], b"<Error><Code>Injected</Code><Message>by a test</Message></Error>")
            return
        if what == "reset":
            self.reset()
            return
        if fault and what == "slow":
            time.sleep(fault.seconds)
        connection = http.client.HTTPConnection(self.server.upstream)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        data = response.read()
        connection.close()
        if what == "lost":
            self.reset()
            return
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in self.dropped]
        self.answer(response.status, headers, data, cut=what == "cut")

    def answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers or [("Content-Length", str(len(data)))]:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.wfile.flush()
            self.reset()

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any
