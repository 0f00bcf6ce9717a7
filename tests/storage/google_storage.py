"""As much of Google Cloud Storage as saeflow asks for, on loopback: there a conditional write compares generations."""

import itertools
import threading
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape


@dataclass
class Object:
    data: bytes
    generation: int
    metadata: dict[str, str]

    def headers(self) -> dict[str, str]:
        return {
            "ETag": f'"{self.generation:x}"',
            "x-goog-generation": str(self.generation),
            "Last-Modified": formatdate(usegmt=True),
            **self.metadata,
        }


class GoogleStorage(ThreadingHTTPServer):
    """Any number of buckets, which need not be made first."""

    daemon_threads = True
    ignored: Literal["nothing", "create", "replace"] = "nothing"
    """The conditional write whose condition is not looked at."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.objects: dict[str, Object] = {}
        self.generations = itertools.count(1_700_000_000_000_000)
        self.one_at_a_time = threading.Lock()
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GoogleStorage  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        key = unquote(url.path).strip("/")
        with self.server.one_at_a_time:
            if self.command == "GET" and "list-type" in url.query:
                self.list(key, parse_qs(url.query).get("prefix", [""])[0], "delimiter" in url.query)
            elif self.command == "PUT":
                self.put(key, body)
            elif key not in self.server.objects:
                self.answer(404)
            elif self.command == "DELETE":
                del self.server.objects[key]
                self.answer(204)
            else:
                found = self.server.objects[key]
                self.answer(200, found.data, found.headers())

    def put(self, key: str, data: bytes) -> None:
        there = self.server.objects.get(key)
        expected = self.headers.get("x-goog-if-generation-match")
        kind = "create" if expected == "0" else "replace"
        if expected and kind != self.server.ignored and int(expected) != (there.generation if there else 0):
            self.answer(412)
            return
        metadata = {name: value for name, value in self.headers.items() if name.startswith("x-goog-meta-")}
        new = self.server.objects[key] = Object(data, next(self.server.generations), metadata)
        self.answer(200, headers=new.headers())

    def list(self, bucket: str, prefix: str, only_folders: bool) -> None:
        names = [key.removeprefix(f"{bucket}/") for key in sorted(self.server.objects) if key.startswith(f"{bucket}/")]
        names = [name for name in names if name.startswith(prefix)]
        inside = [name.removeprefix(prefix) for name in names] if only_folders else []
        folders = sorted({prefix + rest.split("/")[0] + "/" for rest in inside if "/" in rest})
        contents = [
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.server.objects[f'{bucket}/{name}'].data)}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for name in names
            if not only_folders or "/" not in name.removeprefix(prefix)
        ]
        shared = [f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        self.answer(200, f"<ListBucketResult>{''.join(contents + shared)}</ListBucketResult>".encode())

    def answer(self, status: int, data: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_PUT = do_DELETE = do_HEAD = handle_any
