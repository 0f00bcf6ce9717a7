"""Ask, check the answer, and where it has not the form that was asked for, ask once more and say what was wrong."""

from collections.abc import Callable
from typing import TypeVar

from tasks.interpret.answers import Answer, chat_answer
from tasks.interpret.client import Client, NoReply
from tasks.interpret.prompts import repair_messages
from tasks.interpret.replies import Request

T = TypeVar("T")

EMPTY = "(nothing)"
"""In the place of an answer without text, which some servers do not take back."""


async def ask_twice(
    client: Client, request: Request, read: Callable[[Answer], T | None], problem: str
) -> tuple[T | None, str | None]:
    """What `read` makes of the answer, or of the second one; or None and why."""
    try:
        answer = chat_answer(await client.ask(request))
        if (said := read(answer)) is not None:
            return said, None
        said = read(chat_answer(await client.ask(repaired(request, answer, problem))))
    except NoReply as error:
        return None, str(error)
    return (said, None) if said is not None else (None, f"asked twice, and the answer was wrong: {problem}")


def repaired(request: Request, answer: Answer, problem: str) -> Request:
    """The request that follows an answer that will not do."""
    messages = repair_messages(request.body["messages"], answer.text or EMPTY, problem)
    return Request(request.endpoint, {**request.body, "messages": messages})
