"""Clients of object stores: how long they try, what they say when they give up.

Credentials, region and endpoint come from the environment variables that every client of the store reads, such as
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL. Plain http is used only where the endpoint
says http://.

What may pass (5xx, "slow down", a connection that breaks or stalls) is tried again with growing pauses for
$SAEFLOW_STORE_PATIENCE seconds, by default a minute. What no second try can mend is told at once: a refusal, a
bucket that does not exist, and, before a process has heard from the store at all, silence.
"""

import asyncio
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from storage.errors import StorageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

T = TypeVar("T")

# What to set, by scheme: credentials, endpoint.
_VARIABLES = {
    "s3": ("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"),
    "gs": ("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BASE_URL"),
    "az": ("AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ENDPOINT"),
}
_HTTP_ENDPOINTS = (
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT",
    "GOOGLE_BASE_URL",
    "AZURE_STORAGE_ENDPOINT",
)
_FIRST_ANSWER = 5.0  # seconds to wait for a store that this process has not yet heard from


def patience() -> float:
    """Seconds for which a request that fails in passing is tried again."""
    return float(os.environ.get("SAEFLOW_STORE_PATIENCE") or 60)


def client(uri: str, *, at_root: bool = True, for_data: bool = False) -> "ObjectStore":
    """The store of the bucket that `uri` is in or, not `at_root`, of that prefix alone; made once in each process.

    One `for_data` is for writing large objects, the other for everything else: a client's clock for a stalled
    answer also runs while it sends, so that it would cut off a large upload on a slow line.

    Raises StorageError when the store does not answer, or refuses.
    """
    if _used_in and _used_in != {os.getpid()}:
        raise StorageError(
            f"{uri} cannot be used here: this process was forked from one that had used an object store, and its "
            "connections do not survive that. Start processes with the method 'spawn' or 'forkserver', such as "
            "DataLoader(…, multiprocessing_context='spawn')."
        )
    _used_in.add(os.getpid())
    bucket = "{0.scheme}://{0.netloc}".format(urlsplit(uri))
    if bucket not in _heard_from:
        _hear_from(uri)
        _heard_from.add(bucket)
    return _client(bucket if at_root else uri, for_data)


_heard_from: set[str] = set()
_used_in: set[int] = set()
"""The process whose threads serve the connections. In one forked from it, every request would wait for ever."""


@lru_cache
def _client(uri: str, for_data: bool) -> "ObjectStore":
    seconds = patience()
    if for_data:
        return _open(uri, retry_for=2 * seconds, timeout=timedelta(seconds=seconds))
    stalled = timedelta(seconds=max(seconds / 4, 1.0))
    return _open(uri, retry_for=seconds, read_timeout=stalled, timeout=timedelta(seconds=10 * seconds))


@contextmanager
def naming_errors(uri: str) -> Iterator[None]:
    """Turn what an object store says about the object `uri` into a StorageError; FileNotFoundError stays."""
    from obstore.exceptions import BaseError

    try:
        yield
    except FileNotFoundError as error:
        if "NoSuchBucket" not in str(error) and "ContainerNotFound" not in str(error):
            raise FileNotFoundError(f"{uri} is missing") from None
        raise explained(uri, error) from error
    except BaseError as error:
        raise explained(uri, error) from error


def answered(request: Callable[[], T]) -> T:
    """The result of a request that may be carried out twice.

    obstore repeats most requests itself, but not every one whose connection breaks while it is answered.
    """
    end, pause = time.monotonic() + patience(), 0.1
    while True:
        try:
            return request()
        except Exception as error:
            if not _answer_was_lost(error) or time.monotonic() >= end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


async def answered_async(request: Callable[[], Awaitable[T]]) -> T:
    """The same where nothing may block."""
    end, pause = time.monotonic() + patience(), 0.1
    while True:
        try:
            return await request()
        except Exception as error:
            if not _answer_was_lost(error) or time.monotonic() >= end:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, 5.0)


def explained(uri: str, error: Exception) -> StorageError:
    """What was asked of which object, what the server said, and what to do."""
    tries = re.search(r"after (\d+) retries", str(error))
    how_often = f", at {int(tries[1]) + 1} tries" if tries else ""
    return StorageError(f"{uri}: {_answer(error)}{how_often}. {_what_to_do(uri, error)}")


def _hear_from(uri: str) -> None:
    """One small request: wrong names and credentials, and silence, are told within seconds."""
    impatient = {"connect_timeout": timedelta(seconds=2), "timeout": timedelta(seconds=_FIRST_ANSWER)}
    try:
        store = _open(uri, retry_for=min(_FIRST_ANSWER, patience()), max_retries=3, **impatient)
        next(iter(store.list("saeflow-is-there")), None)
    except Exception as error:
        status = _status(error) or 0
        if status < 500 and status not in (408, 429):  # else it is there and busy: what follows is patient
            raise explained(uri, error) from error


def _open(uri: str, *, retry_for: float, max_retries: int = 50, **timeouts: timedelta) -> "ObjectStore":
    from obstore.store import from_url

    explicit_http = any(os.environ.get(name, "").startswith("http://") for name in _HTTP_ENDPOINTS)
    options: Any = {"connect_timeout": timedelta(seconds=5), "allow_http": explicit_http, **timeouts}
    return from_url(
        uri,
        client_options=options,
        retry_config={
            "max_retries": max_retries,
            "retry_timeout": timedelta(seconds=retry_for),
            "backoff": {"max_backoff": timedelta(seconds=5)},
        },
    )


def _answer_was_lost(error: Exception) -> bool:
    from obstore.exceptions import GenericError

    return isinstance(error, GenericError) and _status(error) is None and "HttpError" in str(error)


def _status(error: Exception) -> int | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def _answer(error: Exception) -> str:
    """`the store answered 503 Service Unavailable (SlowDown: Please reduce your request rate)`"""
    text, _, details = str(error).partition("\n\nDebug source")
    found = re.search(r"status code: (\d{3}[^:]*)", text)
    if found:
        code, message = (re.search(rf"<{tag}>([^<]*)", text) for tag in ("Code", "Message"))
        said = ": ".join(part[1] for part in (code, message) if part)
        return f"the store answered {found[1].strip()}" + (f" ({said})" if said else "")
    if "TimedOut" in details:
        return "the store did not answer in time"
    cause = re.search(r'(?:message|error): "([^"]+)"', details)
    return "the store could not be reached" + (f" ({cause[1]})" if cause else f" ({text.rpartition(' - ')[2]})")


def _what_to_do(uri: str, error: Exception) -> str:
    text, status = str(error), _status(error)
    credentials, endpoint = _VARIABLES[urlsplit(uri).scheme]
    if re.search("NoSuchBucket|ContainerNotFound", text):
        return f"Create {urlsplit(uri).netloc}, or name another home with --home or $SAEFLOW_HOME."
    if re.search("PermanentRedirect|AuthorizationHeaderMalformed", text) or status in (301, 307):
        return "Set AWS_REGION to the region of the bucket."
    # Where the environment holds none, they are asked of the machine that a cloud provider lends out.
    if re.search("/latest/|computeMetadata|metadata/identity|must be specified", text):
        return f"There are no credentials: set {credentials}."
    if status in (401, 403) or "ExpiredToken" in text:
        return f"Check {credentials}: they must be allowed to list, read, write and delete there."
    if status is None:
        return f"Check {endpoint}, now {os.environ.get(endpoint) or 'not set'}, and the network."
    return "Run again once the store is well: what is committed is kept."
