"""A client of a loopback server, for which time passes as fast as it waits."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.interpret.access import Access
from tasks.interpret.client import Client
from tasks.interpret.ledger import Clock, Ledger
from tasks.interpret.servers import ServerSpec, credentials
from tests.tasks.interpret.loopback_server import KEY, Server


class FastClock(Clock):
    """Waits take no time, and are counted as if they had."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now(self) -> float:
        return super().now() + sum(self.waits)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def clock() -> FastClock:
    return FastClock()


def spec(server: Server, **changes: Any) -> ServerSpec:
    return ServerSpec(**{"explainer": "explaining", "scorer": "scoring", "base_url": server.url, **changes})


def words(text: str) -> int:
    return len(text) // 4


@pytest.fixture
def use(home: Path, clock: FastClock) -> Callable[..., Any]:
    """Run a coroutine function with a client of a server."""

    def use(server: Server, run: Callable[[Client], Any], **access: Any) -> Any:
        limits = Access(timeout=0.5, **access)

        async def inside() -> Any:
            ledger = Ledger(home / "spending" / "test.json")
            async with Client(credentials(spec(server), limits), limits, words, ledger, clock) as client:
                return await run(client)

        return asyncio.run(inside())

    return use
