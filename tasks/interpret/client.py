"""Ask a server: no faster and no more than allowed, again where that helps, and never twice for the same.

What can become of a request:

    a reply         as JSON with choices; kept on disk before anybody reads it
    NoReply         this request cannot be answered: refused as it is, or in vain several times. A null with a reason.
    ServerError     nothing more will be: the key, the model, the server or the budget is gone. The run ends; what is
                    under way ends first, and all that was answered is there for the next run.

What can be answered is kept, so that another run sends only what could not be: requests in vain, one after another, do
not show that the server is gone. After some of them the shortest question does.
"""

import asyncio
import json
import random
from collections.abc import Callable, Iterable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from tasks.errors import ExperimentError
from tasks.interpret.access import Access
from tasks.interpret.budget import Budget, Usage
from tasks.interpret.dialects import refused_by, thinking, translated
from tasks.interpret.ledger import Clock, Ledger
from tasks.interpret.pace import Pace
from tasks.interpret.replies import Request, replies_of
from tasks.interpret.servers import Credentials

if TYPE_CHECKING:
    from openai import APIConnectionError, APIError, APIStatusError

TRIES = 8
PROBES = 2
FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
"""Seconds between tries: doubled each time, and drawn from the upper half, so that not all come back together. All of
them are a minute at least, which is what limits are counted by."""
LONGEST_RETRY_AFTER = 300.0
"""A server that sends us away for longer means a quota of hours or days."""
LONGEST_GREETING = 10.0
IN_VAIN = 5
"""Requests in a row that were given up, after which the server is asked the shortest question."""
GREETING = {"messages": [{"role": "user", "content": "Say 1."}], "max_tokens": 1, "temperature": 0}
TOKENS_OF_A_MESSAGE = 4
"""What a chat template adds to each message, about."""

CountTokens = Callable[[str], int]
"""How many tokens a text has. The subject's tokenizer stands in for those of servers, which are not to be had."""


class NoReply(Exception):
    """A request that is given up; what becomes of it is null, and this says why."""


class InVain(NoReply):
    """One of which several in a row may mean that the server answers nothing any more."""


class ServerError(ExperimentError):
    """The server answers nothing any more, or not to us."""


class Client:
    """One server, as one process asks it. To be used as a context manager within one event loop."""

    def __init__(
        self, credentials: Credentials, access: Access, count_tokens: CountTokens, ledger: Ledger, clock: Clock
    ) -> None:
        self.base_url, self._key = credentials
        self.access, self.count_tokens, self.clock = access, count_tokens, clock
        self.replies = replies_of(self.base_url)
        self.budget = Budget(ledger, access)
        self.pace = Pace(ledger, access.requests_per_minute, access.tokens_per_minute, clock)
        self._slots = asyncio.Semaphore(access.concurrency)
        self._ended: ExperimentError | None = None
        self._in_vain = 0
        self._refused: dict[tuple[str, str], frozenset[str]] = {}
        """By endpoint and model, the parameters that it does not take."""
        self._models: list[str] | None = None

    async def __aenter__(self) -> "Client":
        from openai import AsyncOpenAI  # most of a second, for those who ask a server

        # It is told to try once: only what is here knows the pace and the budget.
        self._openai = AsyncOpenAI(
            api_key=self._key, base_url=self.base_url, max_retries=0, timeout=self.access.timeout
        )
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._openai.close()

    async def ask(self, request: Request, probe: bool = False) -> dict[str, Any]:
        """The reply to a request, from disk if it was ever answered. Raises NoReply, ServerError or BudgetSpent.

        A probe finds out what the server can do: it is refused sooner, and where it gets no answer all ends.
        """
        if (kept := await asyncio.to_thread(self.replies.find, request)) is not None:
            return kept
        async with self._slots:
            # All stop with the first that has to; those that are under way by then end as they will.
            if self._ended is not None:
                raise self._ended
            # While it waited another may have been answered the same.
            if (kept := await asyncio.to_thread(self.replies.find, request)) is not None:
                return kept
            try:
                reply = await (self._ask(request, probe) if probe else self._ask_while_answered(request))
            except ExperimentError as error:
                self._ended = error
                raise
            await asyncio.to_thread(self.replies.keep, request, reply)
            return reply

    async def greet(self, model: str) -> None:
        """Ask the shortest question, past any reply that was kept. Raises NoReply or ServerError, as a probe does."""
        await self._ask(Request("chat/completions", {"model": model, **GREETING}), probe=True)

    async def reach(self) -> None:
        """See that the server is there, and what models it says that it has. Raises ServerError."""
        from openai import APIConnectionError, APIError, APIStatusError

        try:
            patient = self._openai.with_options(timeout=min(self.access.timeout, LONGEST_GREETING))
            answer = await patient.models.with_raw_response.list()
            self._models = [entry["id"] for entry in _json(answer.http_response.text)["data"]]
        except APIStatusError as error:
            if error.status_code == 401:
                raise self._refused_key(error) from None
        except APIConnectionError as error:
            raise self._unreachable(error) from None
        except (APIError, ValueError, KeyError, TypeError):
            pass  # not every server has such a list

    def offers(self) -> str:
        """The models of the server, to follow a message; nothing where it does not say."""
        return "" if self._models is None else f" It has {', '.join(self._models[:10]) or 'none'}."

    async def _ask_while_answered(self, request: Request) -> dict[str, Any]:
        """A request after which the server still answers, be it not this one."""
        try:
            return await self._ask(request, probe=False)
        except InVain:
            self._in_vain += 1
            if self._in_vain >= IN_VAIN:
                self._in_vain = 0
                try:
                    await self.greet(request.model)
                except (NoReply, ServerError) as error:
                    raise ServerError(
                        f"{self.base_url} answers nothing any more, nor the shortest question: "
                        f"{str(error).rstrip('.')}. What was answered is kept: another run goes on from there."
                    ) from None
            raise

    async def _ask(self, request: Request, probe: bool) -> dict[str, Any]:
        from openai import APIConnectionError, APIStatusError

        known, reason = most_used(request, self.count_tokens), ""
        place = request.endpoint, request.model
        refused = self._refused.get(place, frozenset())
        for number in range(1, TRIES + 1):
            most = known._replace(output=known.output + thinking(refused))
            await self.pace.wait(sum(most))
            self.budget.reserve(request.model, most)
            used, wait = Usage(0, 0), None
            try:
                reply = await self._send(request.endpoint, translated(request.body, refused))
                used = _usage(reply) or most
                self._in_vain, self._refused[place] = 0, refused
                return reply
            except APIStatusError as error:
                self._end_if_final(request, error)
                reason, wait = self._told(error), _retry_after(error)
                if number < TRIES and (more := refused_by(error) - refused):
                    refused |= more
                    continue
                if error.status_code == 403:
                    raise InVain(f"the server refused: {reason}") from None
                if wait is not None and wait > LONGEST_RETRY_AFTER:
                    raise ServerError(f"{self.base_url} asks to come back in {wait:,.0f} s: {reason}") from None
                # Some servers have a 500 for what they cannot do, too.
                if not _may_pass(error) or (probe and number >= PROBES and error.status_code >= 500):
                    raise NoReply(f"the server refused: {reason}") from None
            except APIConnectionError as error:
                # A time-out may have been paid: it stays counted.
                used, reason = most if _timed_out(error) else used, self._told(error)
                if probe and number >= PROBES:
                    raise self._unreachable(error) from None
            except ValueError as error:
                used, reason = most, f"no reply of the protocol: {error}"
            finally:
                self.budget.settle(request.model, most, used)
            if number < TRIES:
                await self.clock.sleep(wait if wait is not None else _back_off(number))
        told = f"no answer in {TRIES} tries; the last time: {reason}"
        raise ServerError(f"{self.base_url}: {told}.") if probe else InVain(told)

    async def _send(self, endpoint: str, body: dict[str, Any]) -> dict[str, Any]:
        """One try. Raises the errors of the openai client, and ValueError for what is no reply."""
        answer = await self._openai.post(f"/{endpoint}", body=body, cast_to=_raw_response())
        reply = _json(answer.text)
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise ValueError("it has no choices")
        return reply

    def _end_if_final(self, request: Request, error: "APIStatusError") -> None:
        told = self._told(error)
        if error.status_code == 401:
            raise self._refused_key(error) from None
        # Completions of a model that only chats are refused with a 404 too, and that is no end.
        unknown = error.code == "model_not_found" or (
            request.endpoint == "chat/completions" and "model" in told.lower()
        )
        if error.status_code == 404 and unknown:
            raise ServerError(f"{self.base_url} has no model {request.model!r} ({told}).{self.offers()}") from None
        if error.code == "insufficient_quota":
            raise ServerError(f"{self.base_url}: the account has nothing left ({told}).") from None

    def _refused_key(self, error: "APIStatusError") -> ServerError:
        return ServerError(
            f"{self.base_url} refuses the key ({self._told(error)}). Check OPENAI_API_KEY, or the Prefect Secret block "
            "that `secret` names."
        )

    def _unreachable(self, error: "APIConnectionError") -> ServerError:
        return ServerError(
            f"{self.base_url} cannot be reached ({self._told(error)}). Check `base_url` or OPENAI_BASE_URL, and that "
            "the server runs."
        )

    def _told(self, error: "APIError") -> str:
        """An error in a line; a server may repeat the key that it was sent, as it is or with escapes."""
        told = f"{error.message}: {error.__cause__}" if error.__cause__ else error.message
        if len(self._key) > 4:
            for key in (self._key, repr(self._key)[1:-1], json.dumps(self._key)[1:-1]):
                told = told.replace(key, "…")
        return " ".join(told.split())[:300]


def most_used(request: Request, count_tokens: CountTokens) -> Usage:
    """The most tokens that a request can use, by estimate."""
    texts = request.texts()
    return Usage(sum(map(count_tokens, texts)) + TOKENS_OF_A_MESSAGE * len(texts), request.body["max_tokens"])


async def all_of(coroutines: Iterable[Any]) -> list[Any]:
    """The results of coroutines that run side by side. The first error is raised when all have ended."""
    results = await asyncio.gather(*coroutines, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors:
        raise errors[0]
    return results


def _raw_response() -> Any:
    import httpx2  # what the openai client speaks HTTP with

    return httpx2.Response


def _json(text: str) -> Any:
    """JSON; what is no number (servers write -Infinity for the logarithm of nothing) is null."""
    return json.loads(text, parse_constant=lambda _: None)


def _usage(reply: dict[str, Any]) -> Usage | None:
    usage = reply.get("usage")
    if not isinstance(usage, dict):
        return None
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    return Usage(read, written or 0) if isinstance(read, int) and isinstance(written, int | None) else None


def _may_pass(error: "APIStatusError") -> bool:
    return error.status_code in (408, 409, 425, 429) or error.status_code >= 500


def _timed_out(error: "APIConnectionError") -> bool:
    from openai import APITimeoutError

    return isinstance(error, APITimeoutError)


def _retry_after(error: "APIStatusError") -> float | None:
    """Seconds that the server asks to wait: it says how many, or until when."""
    told = error.response.headers.get("retry-after")
    if told is None:
        return None
    try:
        return max(float(told), 0)
    except ValueError:
        pass
    try:
        sent = parsedate_to_datetime(error.response.headers.get("date", ""))
        return max((parsedate_to_datetime(told) - sent).total_seconds(), 0)
    except (ValueError, TypeError):
        return None


def _back_off(number: int) -> float:
    return min(FIRST_WAIT * 2 ** (number - 1), LONGEST_WAIT) * random.uniform(0.5, 1)
