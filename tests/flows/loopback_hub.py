"""A Hugging Face hub of one repository on this machine: as much of its HTTP interface as the client uses here."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 39 + "1"


@dataclass
class Hub:
    url: str
    repository: str
    token: str
    files: dict[str, bytes] = field(default_factory=dict)


@contextmanager
def hub_of(repository: str, token: str) -> Iterator[Hub]:
    """Serve a repository that only the bearer of `token` may write to or read."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, body: Any, status: int = 200, **headers: str) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"X-Repo-Commit": COMMIT, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refused(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {token}":
                return False
            self.answer({"error": "Invalid username or password."}, 401)
            return True

        def do_GET(self) -> None:
            if self.refused():
                return
            resolve = f"/{repository}/resolve/{COMMIT}/"
            if self.path == f"/api/models/{repository}/revision/main":
                siblings = [{"rfilename": name} for name in hub.files]
                self.answer({"id": repository, "sha": COMMIT, "siblings": siblings})
            elif self.path.startswith(f"/api/models/{repository}/tree/"):
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": COMMIT} for name, data in hub.files.items()
                ]
                self.answer(entries)
            elif self.path.startswith(resolve) and self.path.removeprefix(resolve) in hub.files:
                name = self.path.removeprefix(resolve)
                self.answer(hub.files[name], ETag=f'"{name}"')
            else:
                self.answer({"error": "not found"}, 404)

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.refused():
                return
            if self.path == "/api/repos/create":
                self.answer({"url": f"{hub.url}/{repository}"})
            elif "/preupload/" in self.path:
                files = [file | {"uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
                self.answer({"files": files})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        hub.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                self.answer({"commitUrl": f"{hub.url}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})
            else:
                self.answer({"error": "not found"}, 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}", repository, token)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
