"""Questions to a report's dictionaries, answered in JSON (tasks.try_it).

    GET  /report/KEY/try/dictionaries    which there are, how much can be asked, which files say more of their features
    POST /report/KEY/try/features        which features fire on a text
    POST /report/KEY/try/continuation    how the model goes on from it, a line for each token (NDJSON)

One question is answered at a time: it takes all processors. Whoever comes meanwhile is told so at once (503). What goes
wrong is told as `{"error": …}`, in a stream too.
"""

import functools
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from flows.report_access import Access
from storage.artifacts import ArtifactRef
from storage.errors import StorageError
from tasks.errors import ExperimentError
from tasks.try_questions import CHARACTERS, NEW_TOKENS, TOKENS, ContinuationQuestion, FeaturesQuestion, Question

if TYPE_CHECKING:
    from tasks.try_it import Workbench

LARGEST_QUESTION = 64 * 1024  # bytes: CHARACTERS, each escaped twice, and the rest

Asked = TypeVar("Asked", bound=Question)
Endpoint = Callable[[Request], Awaitable[Response]]


def routes(access: Access, files: Callable[[ArtifactRef], Container[str]]) -> list[Route]:
    """The addresses of the questions.

    Args:
        files: those of a finished report, none where it is not there.
    """
    bench, turn = _Bench(), threading.Lock()

    def report_of(request: Request) -> ArtifactRef:
        report = ArtifactRef(kind="report", key=request.path_params["key"], digest="")
        if "dictionaries.json" not in files(report):
            raise HTTPException(404, "There is no such report.")
        return report

    async def dictionaries(request: Request) -> Response:
        access.check(request)
        report = await run_in_threadpool(report_of, request)
        return JSONResponse(await run_in_threadpool(_dictionaries, report, files(report)))

    async def features(request: Request) -> Response:
        access.check(request)
        question = await _question(request, FeaturesQuestion)
        report = await run_in_threadpool(report_of, request)

        def answer() -> dict[str, Any]:
            from tasks import try_it

            return try_it.features(bench.get().subject(report, question.dictionary), question)

        _take(turn)
        try:
            return JSONResponse(await run_in_threadpool(answer))
        finally:
            turn.release()

    async def continuation(request: Request) -> Response:
        access.check(request)
        question = await _question(request, ContinuationQuestion)
        report = await run_in_threadpool(report_of, request)

        def begin() -> tuple[dict[str, str], Iterator[dict[str, str]]]:
            from tasks import try_it

            texts = try_it.continuations(bench.get().subject(report, question.dictionary), question)
            return next(texts), texts  # what is wrong with the question is said before anything is sent

        _take(turn)
        try:
            first, texts = await run_in_threadpool(begin)
        except BaseException:  # also when the reader leaves: the next one must not wait for ever
            turn.release()
            raise
        return _Held(_lines(first, texts), turn)

    return [
        Route("/report/{key}/try/dictionaries", _in_json(dictionaries)),
        Route("/report/{key}/try/features", _in_json(features), methods=["POST"]),
        Route("/report/{key}/try/continuation", _in_json(continuation), methods=["POST"]),
    ]


class _Bench:
    """The workbench, which is made when the first question needs it: its libraries take seconds to import."""

    def __init__(self) -> None:
        self._made: Workbench | None = None

    def get(self) -> "Workbench":
        """Called by whoever has the turn."""
        if self._made is None:
            from tasks.try_it import Workbench

            self._made = Workbench()
        return self._made


class _Held(StreamingResponse):
    """A stream that ends its turn when it ends, or is left by who asked for it."""

    def __init__(self, lines: AsyncIterator[str], turn: threading.Lock) -> None:
        super().__init__(lines, media_type="application/x-ndjson")
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._turn.release()


async def _lines(first: dict[str, str], texts: Iterator[dict[str, str]]) -> AsyncIterator[str]:
    yield json.dumps(first) + "\n"
    try:
        async for text in iterate_in_threadpool(texts):
            yield json.dumps(text) + "\n"
    except (ExperimentError, StorageError) as error:
        yield json.dumps({"error": str(error)}) + "\n"


def _dictionaries(report: ArtifactRef, files: Container[str]) -> dict[str, Any]:
    from tasks.try_it import choices

    told = [
        {
            "slug": choice.slug,
            "ref": str(choice.ref),
            "name": choice.name,
            "browse": f"browse/{choice.slug}/index.js" in files,
            "more": f"browse/{choice.slug}/more.js" in files,
        }
        for choice in choices(report)
    ]
    limits = {"characters": CHARACTERS, "tokens": TOKENS, "new_tokens": NEW_TOKENS}
    return {"dictionaries": told, "limits": limits, "features_page": "features.html" in files}


async def _question(request: Request, kind: type[Asked]) -> Asked:
    """Raises HTTPException when it is none of this kind."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_QUESTION:
            raise HTTPException(413, f"A question has at most {LARGEST_QUESTION:,} bytes. Shorten the text.")
    try:
        return kind.model_validate(json.loads(body))
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, each['loc'])) or 'the question'}: {each['msg']}"
            for each in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise HTTPException(422, "; ".join(problems)) from None
    except (ValueError, RecursionError):
        raise HTTPException(422, "The question is not JSON.") from None


def _take(turn: threading.Lock) -> None:
    if not turn.acquire(blocking=False):
        raise HTTPException(503, "Another question is being answered. Ask again in a moment.", {"Retry-After": "1"})


def _in_json(endpoint: Endpoint) -> Endpoint:
    """An endpoint that tells what went wrong as `{"error": …}`."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException as error:
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        except ExperimentError as error:
            return JSONResponse({"error": str(error)}, 422)
        except (StorageError, OSError) as error:
            return JSONResponse({"error": str(error)}, 500)

    return answer
