"""What a server can do: found out by asking for one digit, in up to four ways.

prompt_logprobs      completions that give the log-probabilities of their prompt: `echo` of the legacy API, or
                     `prompt_logprobs` of vLLM
generated_logprobs   chat with log-probabilities of what it answers; some servers give no more than five a token
text                 chat
"""

from collections.abc import Collection
from typing import Any, NamedTuple

from tasks.interpret.answers import chat_answer, prompt_answer
from tasks.interpret.client import Client, NoReply, ServerError
from tasks.interpret.prompts import UNKNOWN, Message, simulate_messages
from tasks.interpret.replies import Replies, Request
from tasks.interpret.servers import Mode

DIGITS = "0123456789"
PROMPT = f"Count on, one number a line.\n1\n2\n3\n4\n{UNKNOWN}"


class Ability(NamedTuple):
    """How a server is asked for probabilities."""

    mode: Mode
    alternatives: int = 0
    """How many tokens it gives for each place."""
    echo: bool = False
    """Whether those of a prompt are asked for as the legacy API has it."""

    def __str__(self) -> str:
        return f"{self.mode} ({self.alternatives} alternatives)" if self.alternatives else self.mode


ABILITIES = (
    Ability("prompt_logprobs", 15),
    Ability("prompt_logprobs", 15, echo=True),
    Ability("prompt_logprobs", 5, echo=True),
    Ability("generated_logprobs", 20),
    Ability("generated_logprobs", 5),
    Ability("text"),
)
"""From the most faithful to the least."""


def prompt_request(model: str, prompt: str, ability: Ability) -> Request:
    """A completion of one token, for the sake of its prompt."""
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    asked = (
        {"echo": True, "logprobs": ability.alternatives} if ability.echo else {"prompt_logprobs": ability.alternatives}
    )
    return Request("completions", body | asked)


def chat_request(model: str, messages: list[Message], max_tokens: int, alternatives: int = 0) -> Request:
    """A chat with temperature 0, and with log-probabilities if alternatives are wanted."""
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
    asked = {"logprobs": True, "top_logprobs": alternatives} if alternatives else {}
    return Request("chat/completions", body | asked)


async def find_ability(client: Client, model: str, modes: Collection[Mode]) -> Ability:
    """The best ability of these modes that the server has. Raises ServerError when it has none."""
    told = []
    for ability in (ability for ability in ABILITIES if ability.mode in modes):
        try:
            if _shown(await client.ask(_probe(model, ability), probe=True), ability):
                return ability
            told.append(f"{ability}: none in its answer")
        except NoReply as error:
            told.append(f"{ability}: {error}")
    raise ServerError(
        f"{client.base_url} cannot do {' or '.join(modes)} with {model!r}: {'; '.join(told)}. Choose another mode, or "
        "auto."
    )


def remembered_ability(replies: Replies, model: str, modes: Collection[Mode]) -> Ability | None:
    """The same without asking: what the server has shown before."""
    for ability in (ability for ability in ABILITIES if ability.mode in modes):
        reply = replies.find(_probe(model, ability))
        if reply is not None and _shown(reply, ability):
            return ability
    return None


def _probe(model: str, ability: Ability) -> Request:
    if ability.mode == "prompt_logprobs":
        return prompt_request(model, PROMPT, ability)
    return chat_request(model, simulate_messages("numbers", [" seven"]), 8, ability.alternatives)


def _shown(reply: dict[str, Any], ability: Ability) -> bool:
    if ability.mode == "prompt_logprobs":
        return bool(prompt_answer(reply, PROMPT).digits(PROMPT.index(UNKNOWN), DIGITS))
    return ability.mode == "text" or bool(chat_answer(reply).choices)
