"""Who may have the report server compute: on a loopback address this machine, elsewhere whoever has the token.

Reports are files, and are given to whoever reaches the server. What is tried on a report's dictionaries takes its
processor, so a page of another site must not ask for it in a reader's name. A question is answered when

    Content-Type    is application/json, which a form of another site cannot send
    Origin          is the server's own, or absent: a page of another site is refused (cross-site requests)
    the token       is right, where there is one; where there is none, Host is a loopback name (DNS rebinding)

The token comes once as `?token=` of any page and is kept as a cookie from then on, or as `Authorization: Bearer`.
"""

import hmac
import ipaddress
import os
import secrets
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.errors import ExperimentError

TOKEN = "SAEFLOW_REPORTS_TOKEN"
COOKIE = "saeflow-reports"
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Access:
    """The token that is asked for; None where the server listens to its own machine alone."""

    token: str | None = None

    @classmethod
    def at(cls, host: str) -> Self:
        """For a server that listens there: the token of the environment, or a new one where others reach it.

        Raises:
            ExperimentError: the token of the environment is too short to be a secret.
        """
        given = os.environ.get(TOKEN)
        if given and len(given) < SHORTEST_TOKEN:
            raise ExperimentError(
                f"${TOKEN} has {len(given)} characters, and a token needs {SHORTEST_TOKEN} at least: take the output "
                "of `openssl rand -hex 24`, or unset it, and one is made."
            )
        return cls(given or (None if is_loopback(host) else secrets.token_urlsafe(24)))

    def is_token(self, given: str) -> bool:
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def check(self, request: Request) -> None:
        """Raises HTTPException unless the server may compute for this request."""
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if origin is not None and (not host or _address(origin)[0].lower() != host.lower()):
            raise HTTPException(403, f"A page of {origin} may not ask this server.")
        if request.method == "POST" and not _is_json(request.headers.get("content-type", "")):
            raise HTTPException(415, "A question is JSON: send it as Content-Type: application/json.")
        if self.token is None:
            if not is_loopback(_address(f"//{host}")[1]):
                raise HTTPException(
                    403,
                    f"This server computes for its own machine alone, and was asked as {host!r}. Ask it as 127.0.0.1, "
                    f"or set ${TOKEN} where it is started.",
                )
            return
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else request.cookies.get(COOKIE, "")
        if not self.is_token(given):
            raise HTTPException(
                401,
                "This server asks for a token before it computes. Open any of its pages once with ?token=… behind its "
                f"address: `saeflow reports` printed the token when it started, or it is in ${TOKEN} there.",
                {"WWW-Authenticate": "Bearer"},
            )


LOOPBACK = Access()


class KeepsToken:
    """Takes `?token=` from an address and keeps it as a cookie: it stays in no history, bookmark or shared link."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self.access.token is None:
            return await self.app(scope, receive, send)
        request = Request(scope)
        given = request.query_params.get("token")
        if given is None or request.method != "GET":
            return await self.app(scope, receive, send)
        if not self.access.is_token(given):
            return await PlainTextResponse("This is not the token of this server.", 401)(scope, receive, send)
        others = [(name, value) for name, value in request.query_params.multi_items() if name != "token"]
        # Relative to the page that was asked for, so that it leads nowhere else.
        answer = RedirectResponse(f"?{urlencode(others)}")
        secure = scope["scheme"] == "https"
        answer.set_cookie(COOKIE, given, httponly=True, samesite="strict", secure=secure)
        return await answer(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Whether a name or an address is of the machine itself."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _address(url: str) -> tuple[str, str]:
    """The host with its port, and without it; both empty where the address cannot be parsed."""
    try:
        parts = urlsplit(url)
        return parts.netloc, parts.hostname or ""
    except ValueError:
        return "", ""


def _is_json(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == "application/json"
