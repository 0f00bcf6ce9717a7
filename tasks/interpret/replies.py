"""Every reply of a server, kept under the hash of its request: what was paid for once is never asked for again.

    home/replies/<hash>.json    the request without its key, and the reply, with a checksum; written whole or not at all

Requests have temperature 0, so another answer to the same one would say the same.
"""

import hashlib
from typing import Any, Literal, NamedTuple

from storage.locations import Location
from storage.records import canonical_json, pack_readable_record, unpack_record
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
            return unpack_record(self.place.read(self._name(request)))["reply"]
        except (FileNotFoundError, ValueError):
            return None

    def keep(self, request: Request, reply: dict[str, Any]) -> None:
        record = {"base_url": self.base_url, **request._asdict(), "reply": reply}
        self.place.commit(self._name(request), pack_readable_record(record))

    def _name(self, request: Request) -> str:
        question = {"base_url": self.base_url, **request._asdict()}
        return f"{hashlib.sha256(canonical_json(question)).hexdigest()[:32]}.json"


def replies_of(base_url: str) -> Replies:
    """Those of a server in this home."""
    return Replies(artifacts().home_location.child("replies"), base_url)
