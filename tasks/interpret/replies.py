"""Every reply of a server, kept under the hash of its request: what was paid for once is never asked for again.

    home/replies/<hash>.json.gz    the request without its key, and the reply; written whole or not at all

Twenty alternatives to every token are several hundred kB of text, hence gzip, which also knows when it is damaged. The
order within a reply is kept: it is how vLLM says which token is the one that is there.

Requests ask for temperature 0, but models that reason refuse that, and servers that work on several requests at once
round differently: another answer to the same request might say something else. The first one counts.
"""

import gzip
import hashlib
import json
import zlib
from typing import Any, Literal, NamedTuple

from storage.locations import Location
from storage.records import canonical_json
from tasks.caching import artifacts


class Request(NamedTuple):
    """A POST to a server."""

    endpoint: Literal["chat/completions", "completions"]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        return self.body["model"]

    def texts(self) -> list[str]:
        """What the model reads."""
        if self.endpoint == "completions":
            return [self.body["prompt"]]
        return [message["content"] for message in self.body["messages"]]


class Replies:
    """The replies of one server."""

    def __init__(self, place: Location, base_url: str) -> None:
        self.place, self.base_url = place, base_url

    def find(self, request: Request) -> dict[str, Any] | None:
        """The reply that was kept; None where there is none, or only a damaged one."""
        try:
            return json.loads(gzip.decompress(self.place.read(self._name(request))))["reply"]
        except (FileNotFoundError, gzip.BadGzipFile, zlib.error, EOFError, ValueError):
            return None

    def has(self, request: Request) -> bool:
        """Whether a reply was kept, be it damaged."""
        return self.place.exists(self._name(request))

    def keep(self, request: Request, reply: dict[str, Any]) -> None:
        record = {"base_url": self.base_url, **request._asdict(), "reply": reply}
        text = json.dumps(record, indent=1, allow_nan=False)
        self.place.commit(self._name(request), gzip.compress(text.encode(), mtime=0))

    def _name(self, request: Request) -> str:
        question = {"base_url": self.base_url, **request._asdict()}
        return f"{hashlib.sha256(canonical_json(question)).hexdigest()[:32]}.json.gz"


def replies_of(base_url: str) -> Replies:
    """Those of a server in this home."""
    return Replies(artifacts().home_location.child("replies"), base_url)
