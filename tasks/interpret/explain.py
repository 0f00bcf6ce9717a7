"""Explain a feature in a sentence, from the fragments in which it is strongest."""

from tasks.interpret.answers import Answer
from tasks.interpret.asking import ask_twice
from tasks.interpret.client import Client
from tasks.interpret.fragments import FeatureFragments
from tasks.interpret.interpreted import Explanation
from tasks.interpret.modes import chat_request
from tasks.interpret.prompts import explain_messages
from tasks.interpret.replies import Request

MAX_TOKENS = 60


def explain_request(model: str, fragments: FeatureFragments, contrastive: bool) -> Request:
    """What is sent first for a feature."""
    messages = explain_messages(fragments.train, fragments.lookalike if contrastive else ())
    return chat_request(model, messages, MAX_TOKENS)


async def explain(client: Client, model: str, fragments: FeatureFragments, contrastive: bool) -> Explanation:
    """Ask for an explanation. A contrastive one is told as well where the feature is silent."""
    if not fragments.train:
        return Explanation(None, "it fires in too few fragments to explain it")
    if contrastive and not fragments.lookalike:
        return Explanation(None, "there are no look-alikes in which it is silent")
    request = explain_request(model, fragments, contrastive)
    return Explanation(*await ask_twice(client, request, sentence, "That was empty."))


def sentence(answer: Answer) -> str | None:
    """The explanation in an answer: its first line of text, without quotes and the words it was to go on from.

    Some models think aloud before they answer. One that has not come to the end of it has said nothing yet.
    """
    said = answer.text.rpartition("</think>")[2]
    lines = (" ".join(line.split()) for line in said.splitlines() if "<think>" not in said)
    text = next((line for line in lines if line), "")
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'`":
        text = text[1:-1].strip()
    return text.removeprefix("This unit responds to").strip() or None
