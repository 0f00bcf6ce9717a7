"""Which server is asked, and how: any that speaks OpenAI's protocol.

What is asked of which model enters the keys of what comes of it; how fast, and for how much, does not
(tasks.interpret.access). The key itself comes from $OPENAI_API_KEY or from a Prefect Secret block, and goes nowhere but
into the header of a request.
"""

import os
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from tasks.errors import ExperimentError
from tasks.interpret.access import Access
from tasks.specs import Spec

OPENAI = "https://api.openai.com/v1"

Mode = Literal["prompt_logprobs", "generated_logprobs", "text"]
"""Where simulated values come from: see tasks.interpret.simulate."""


class ServerSpec(Spec, title="Server"):
    """The models that explain and score."""

    explainer: str = Field(min_length=1, description="The model that writes explanations, as its server calls it.")
    scorer: str = Field(min_length=1, description="The model that predicts activations from an explanation.")
    base_url: str | None = Field(
        default=None,
        description="Where the server is, such as http://127.0.0.1:8000/v1; empty takes $OPENAI_BASE_URL, or OpenAI.",
    )
    mode: Literal[Mode, "auto"] = Field(
        default="auto",
        description="How activations are simulated; auto takes the first that the server can do: from the "
        "log-probabilities of a prompt, from those of an answer, or from the text of an answer.",
    )

    @field_validator("base_url")
    @classmethod
    def check_base_url(cls, base_url: str | None) -> str | None:
        if base_url is None:
            return None
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{base_url!r} is no address of a server: give one such as http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("base_url must hold no user, password or query: keys belong into the environment")
        return base_url.rstrip("/")

    def resolved(self) -> "ServerSpec":
        """The same with the address that is meant, so that what comes of it is not taken for another server's."""
        address = self.base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI
        return ServerSpec.model_validate({**self.model_dump(), "base_url": address})


class Credentials(NamedTuple):
    """Where requests go, and with which key."""

    base_url: str
    key: str

    def __repr__(self) -> str:
        return f"Credentials({self.base_url}, key hidden)"


def credentials(server: ServerSpec, access: Access) -> Credentials:
    """Look the key up.

    Raises ExperimentError when there is none and OpenAI needs one, when it can be none, or when a price is missing.
    """
    base_url = server.resolved().base_url or OPENAI
    if access.budget_currency is not None:
        for model in (server.explainer, server.scorer):
            if access.cost(model, 0, 0) is None:
                raise ExperimentError(f"budget_currency needs the price of {model}: add it to `prices`.")
    if access.secret is not None:
        return Credentials(base_url, _secret(access.secret))
    key = _clean(os.environ.get("OPENAI_API_KEY", ""), "$OPENAI_API_KEY")
    if not key and base_url == OPENAI:
        raise ExperimentError(
            f"{OPENAI} needs a key: set OPENAI_API_KEY, or name a Prefect Secret block in `secret`. Another server is "
            "named with `base_url` or OPENAI_BASE_URL; explainer: token_lookup needs none."
        )
    return Credentials(base_url, key or "none")  # servers of one's own mostly ask for no key, and the client for some


def _secret(name: str) -> str:
    from prefect.blocks.system import Secret

    try:
        key = Secret.load(name).get()  # pyright: ignore[reportAttributeAccessIssue]
    except ValueError as error:
        raise ExperimentError(
            f"Prefect has no Secret block {name!r}. Make it in the UI under Blocks, or leave `secret` empty and set "
            "OPENAI_API_KEY."
        ) from error
    if not isinstance(key, str) or not key.strip():
        raise ExperimentError(f"the Prefect Secret block {name!r} holds no text.")
    return _clean(key, f"the Prefect Secret block {name!r}")


def _clean(key: str, place: str) -> str:
    """The key without the line break that files end with. Raises ExperimentError for what no header can hold."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ExperimentError(f"{place} holds no key: keys are printable ASCII in one line. Copy it once more.")
    return key
