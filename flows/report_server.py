"""A small web server for reports: an index of the experiments, and the files of their reports.

    /                          the experiments of the home
    /experiments/NAME.json     the record of one
    /report/KEY/               its report; /report/KEY/FILE the files beside it
    /report/KEY/try/…          questions to its dictionaries (flows.try_routes)
    /comparison/KEY/           two experiments beside each other, and the files beside that

Nothing else of the home can be reached: a file is served when the manifest of a finished report or comparison lists it.
Its checksum there is its ETag: a browser asks each time, and is sent what it does not have.
"""

import os
import re
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any

from jinja2 import Environment, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flows.command import AnyStore
from flows.experiment_records import ExperimentRecords
from flows.report_access import LOOPBACK, TOKEN, Access, KeepsToken
from flows.try_routes import routes
from storage.artifacts import ArtifactRef
from storage.errors import StorageError
from storage.locations import LocalDirectory
from storage.manifests import MANIFEST, read_manifest

SERVED = ("report", "comparison")
"""The kinds of artifacts that are given out."""

LISTS_KEPT = 16
"""Of files, in memory: a report can have thousands, and its page asks for one after the other."""

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "md": "text/plain; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
    "parquet": "application/vnd.apache.parquet",
}

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A report shows text of models and corpora: escaped, and should that fail once, it can load and send nothing.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' data:; form-action 'none'; frame-ancestors 'self'",
    "Cache-Control": "no-cache",
    # By which a page knows that there is somebody to ask, and that it is not just a file somewhere.
    "Saeflow-Reports": "try",
}

INDEX = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>saeflow: experiments</title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .4rem .7rem; text-align: left; border-bottom: 1px solid #8885; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
.home { opacity: .7; overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1>Experiments</h1>
<p class="home">{{ home }}</p>
{% if experiments %}
<table>
<thead><tr><th>experiment</th><th>state</th><th class="number">hook points</th><th class="number">dictionaries</th>
<th>report</th><th>record</th></tr></thead>
<tbody>
{% for each in experiments %}
<tr><td>{{ each.name }}</td><td>{{ each.state }}</td><td class="number">{{ each.hook_points }}</td>
<td class="number">{{ each.dictionaries }}</td>
<td>{% if each.report %}<a href="{{ each.report }}">{{ each.made }}</a>{% else %}—{% endif %}</td>
<td><a href="experiments/{{ each.name | urlencode }}.json">json</a></td></tr>
{% endfor %}
</tbody>
</table>
{% else %}
<p>There are none yet.</p>
{% endif %}
{% if comparisons %}
<h2>Comparisons</h2>
<ul>
{% for each in comparisons %}
<li><a href="{{ each.place }}">{{ each.name }}</a> {{ each.made }}</li>
{% endfor %}
</ul>
{% endif %}
</body>
</html>
"""


def application(store: AnyStore, access: Access = LOOPBACK) -> Starlette:
    """The server of one home, which is the one that steps find in the environment."""
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(INDEX)
    listed = lru_cache(LISTS_KEPT)(partial(_listed, store))

    def files(report: ArtifactRef) -> Mapping[str, str]:
        """The checksums of the files of a finished report; none if it is not there."""
        if not re.fullmatch(r"[0-9a-f]+", report.key):
            return {}
        try:
            # A manifest that was written anew has another checksum, and is not the one whose list is kept.
            return listed(report.kind, report.key, store.location(report).sha256(MANIFEST))
        except (FileNotFoundError, ValueError):
            return {}

    def index(_: Request) -> Response:
        records = ExperimentRecords(store.home_location)
        experiments = [_told(store, records, name) for name in records.names()]
        return HTMLResponse(page.render(home=store.uri, experiments=experiments, comparisons=_comparisons(store)))

    def record(request: Request) -> Response:
        name, records = request.path_params["name"], ExperimentRecords(store.home_location)
        if name not in records.names():
            raise HTTPException(404, "There is no such experiment.")
        return JSONResponse(records.read(name))

    def without_slash(request: Request) -> Response:
        return RedirectResponse(f"{request.path_params['key']}/")

    def file(request: Request, kind: str) -> Response:
        key, name = request.path_params["key"], request.path_params["file"] or "index.html"
        report = ArtifactRef(kind=kind, key=key, digest="")
        checksum = files(report).get(name)
        if checksum is None:
            raise HTTPException(404, "There is no such file in a finished report.")
        tag = {"ETag": f'"{checksum}"'}
        known = request.headers.get("if-none-match", "").split(",")
        if tag["ETag"] in (each.strip().removeprefix("W/") for each in known):
            return Response(status_code=304, headers=tag)
        location, media_type = store.location(report), TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        if isinstance(location, LocalDirectory):
            path = location.path / name
            return FileResponse(path, headers=tag, media_type=media_type, stat_result=path.stat())
        return Response(location.read(name), headers=tag, media_type=media_type)

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok")

    async def said(_: Request, error: Exception) -> Response:
        return PlainTextResponse(getattr(error, "detail", str(error)), getattr(error, "status_code", 500))

    return Starlette(
        routes=[
            Route("/", index),
            Route("/health", health),
            Route("/experiments/{name}.json", record),
            *(Route(f"/{kind}/{{key}}", without_slash) for kind in SERVED),
            *routes(access, files),
            *(Route(f"/{kind}/{{key}}/{{file:path}}", partial(file, kind=kind)) for kind in SERVED),
        ],
        middleware=[Middleware(WithHeaders), Middleware(KeepsToken, access=access)],
        exception_handlers={HTTPException: said, StorageError: said, FileNotFoundError: said},
    )


class WithHeaders:
    """Adds HEADERS to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
            await send(message)

        await self.app(scope, receive, with_headers)


def serve(store: AnyStore, host: str, port: int) -> None:
    """Serve a home until the process is told to end."""
    import uvicorn

    access = Access.at(host)
    address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/"
    print(f"Reports are at {address}; ctrl-C ends the server", flush=True)
    if access.token is not None:
        told = f"{address}?token=$" + TOKEN if os.environ.get(TOKEN) else f"{address}?token={access.token}"
        print(f"'Try it' asks for a token. Once for each browser, open {told}", flush=True)
    uvicorn.run(application(store, access), host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)


def _listed(store: AnyStore, kind: str, key: str, checksum: str) -> Mapping[str, str]:
    """The checksums of the files that a manifest lists, and its own. Raises ValueError when it cannot be used."""
    location = store.location(ArtifactRef(kind=kind, key=key, digest=""))
    manifest = read_manifest(location, kind, key)
    listed = {file["name"]: file["sha256"] for file in manifest["files"]} | {MANIFEST: checksum}
    return {name: sha256 for name, sha256 in listed.items() if not name.startswith("/") and ".." not in name.split("/")}


def _told(store: AnyStore, records: ExperimentRecords, name: str) -> dict[str, Any]:
    """One line of the index."""
    try:
        record: Mapping[str, Any] = records.read(name)
    except StorageError:
        return {
            "name": name,
            "state": "unreadable",
            "hook_points": "",
            "dictionaries": "",
            "report": None,
            "made": None,
        }
    config = record.get("config", {})
    experiment = config.get("experiment", config)  # a retraining's holds that of what it retrains
    # The place of the report is a path of the machine that made it: its folder's name is the key.
    key = PurePosixPath(record["report"]).parent.name if "report" in record else None
    made = _made(store, ArtifactRef(kind="report", key=key, digest="")) if key else None
    return {
        "name": name,
        "state": record.get("state", ""),
        "hook_points": len(experiment.get("hook_points", ())),
        "dictionaries": len(record.get("dictionaries", ())),
        "report": f"report/{key}/" if made else None,
        "made": made,
    }


def _comparisons(store: AnyStore) -> list[dict[str, str]]:
    """The comparisons of the home, as the index lists them."""
    return [
        {
            "place": f"{ref}/",
            "name": " and ".join(manifest["notes"]["experiments"]),
            "made": _minute(manifest["created"]),
        }
        for ref, manifest in store.list("comparison")
    ]


def _made(store: AnyStore, report: ArtifactRef) -> str | None:
    """When a report was made, or None if it is not there any more."""
    try:
        created = read_manifest(store.location(report), report.kind, report.key)["created"]
    except ValueError:
        return None
    return _minute(created)


def _minute(created: str) -> str:
    return datetime.fromisoformat(created).strftime("%Y-%m-%d %H:%M UTC")
