"""Requests keep to their limits, come again where that helps, and are never paid for twice."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import ExperimentError
from tasks.interpret.access import Access, Price
from tasks.interpret.budget import BudgetSpent
from tasks.interpret.client import IN_VAIN, LONGEST_WAIT, PROBES, TRIES, Client, NoReply, ServerError, all_of
from tasks.interpret.dialects import THINKING
from tasks.interpret.ledger import Ledger
from tasks.interpret.modes import chat_request
from tasks.interpret.pace import Pace
from tasks.interpret.replies import Request
from tasks.interpret.servers import credentials
from tests.tasks.interpret.conftest import FastClock, spec
from tests.tasks.interpret.loopback_server import KEY, loopback


def request(number: int = 0) -> Request:
    return chat_request("scoring", [{"role": "user", "content": f"Say {number}."}], 16)


def ask(*numbers: int) -> Callable[[Client], Any]:
    return lambda client: all_of(client.ask(request(number)) for number in numbers)


@pytest.mark.parametrize(
    ("fault", "waited"),
    [
        ((429, {"Retry_After": "7"}), 7),
        ((503, {"Retry_After": "in 9 seconds"}), 9),
        ((500, {}), None),
        ((408, {}), None),
        ("reset", None),
        ("silence", None),
        ("truncated", None),
    ],
)
def test_what_may_pass_is_tried_again(fault: Any, waited: float | None, use: Callable[..., Any], clock: FastClock):
    def twice(number: int, body: dict[str, Any]) -> Any:
        if waited == 9:
            fault[1]["Retry_After"] = formatdate(time.time() + 9, usegmt=True)
        return fault if number < 2 else None

    with loopback(fault=twice) as server:
        (reply,) = use(server, ask(0))
    assert reply["choices"][0]["message"]["content"] == "1"
    assert len(server.times) == 3
    first, second = clock.waits
    if waited is None:
        assert 0.5 <= first <= 1 <= second <= 2, "twice as long each time"
    else:
        assert clock.waits == pytest.approx([waited, waited], abs=1.1)


def test_a_request_that_never_works_is_given_up_with_its_reason(use: Callable[..., Any], clock: FastClock):
    with loopback(fault=lambda number, body: (500, {})) as server, pytest.raises(NoReply, match=r"8 tries.*fault 500"):
        use(server, ask(0))
    assert len(server.times) == TRIES
    assert LONGEST_WAIT / 2 <= max(clock.waits) <= LONGEST_WAIT


def test_a_server_that_is_busy_for_a_minute_is_waited_for(use: Callable[..., Any], clock: FastClock):
    began = clock.now()

    def busy(number: int, body: dict[str, Any]) -> Any:
        return (429, {}) if clock.now() < began + 60 else None

    with loopback(fault=busy) as server:
        use(server, ask(0, 1, 2))


def test_what_is_refused_is_not_tried_again(use: Callable[..., Any]):
    with loopback(fault=lambda number, body: (400, {})) as server, pytest.raises(NoReply, match=r"refused.*fault 400"):
        use(server, ask(0))
    assert len(server.times) == 1


def test_a_server_that_is_gone_ends_the_run(use: Callable[..., Any]):
    async def all_in_vain(client: Client) -> None:
        for number in range(50):
            with suppress(NoReply):
                await client.ask(request(number))

    with (
        loopback(fault=lambda number, body: "reset") as server,
        pytest.raises(ServerError, match="answers nothing any more"),
    ):
        use(server, all_in_vain)
    assert len(server.times) == TRIES * IN_VAIN + PROBES, "the shortest question is asked at the end"


@pytest.mark.parametrize(("status", "tries"), [(500, TRIES), (403, 1)])
def test_requests_in_vain_are_no_end_while_the_server_answers_others(status: int, tries: int, use: Callable[..., Any]):
    async def all_in_vain(client: Client) -> int:
        given_up = 0
        for number in range(3 * IN_VAIN):
            with suppress(NoReply):
                await client.ask(request(10 + number))
            given_up += 1
        return given_up

    def fault(number: int, body: dict[str, Any]) -> Any:
        return None if "Say 1." in str(body) else (status, {})

    with loopback(fault=fault) as server:
        assert use(server, all_in_vain) == 3 * IN_VAIN
    assert len(server.times) == 3 * (IN_VAIN * tries + 1)


def test_a_server_that_refuses_everything_ends_the_run(use: Callable[..., Any]):
    async def all_refused(client: Client) -> None:
        for number in range(50):
            with suppress(NoReply):
                await client.ask(request(number))

    with (
        loopback(fault=lambda number, body: (403, {})) as server,
        pytest.raises(ServerError, match=r"answers nothing any more.* fault 403"),
    ):
        use(server, all_refused)
    assert len(server.times) == IN_VAIN + 1


def test_a_wait_of_hours_ends_the_run(use: Callable[..., Any]):
    with (
        loopback(fault=lambda number, body: (429, {"Retry_After": "7200"})) as server,
        pytest.raises(ServerError, match="come back in 7,200 s"),
    ):
        use(server, ask(0))


def test_no_more_requests_than_allowed_are_under_way(use: Callable[..., Any]):
    with loopback(slow=0.05) as server:
        use(server, ask(*range(12)), concurrency=3)
    assert server.most_under_way == 3


def test_replies_are_kept_whole_and_without_the_key(use: Callable[..., Any], home: Path):
    with loopback() as server:
        first = use(server, ask(1, 2, 3))
        assert use(server, ask(1, 2, 3)) == first
        assert sum(server.asked.values()) == 3
        damaged = sorted((home / "replies").iterdir())[0]
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
        assert use(server, ask(1, 2, 3)) == first
        assert sum(server.asked.values()) == 4
    assert server.seen_keys == {KEY}
    replies = [gzip.decompress(path.read_bytes()).decode() for path in (home / "replies").iterdir()]
    assert sorted(text.partition("Say ")[2][0] for text in replies) == ["1", "2", "3"]
    assert not any(KEY in text for text in replies)
    assert not any(KEY.encode() in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_equal_requests_that_wait_for_each_other_are_sent_once(use: Callable[..., Any]):
    with loopback() as server:
        one, other = use(server, ask(0, 0), concurrency=1)
    assert one == other
    assert sum(server.asked.values()) == 1


def test_models_that_reason_are_asked_as_they_want_it(use: Callable[..., Any], home: Path):
    with loopback(refuses=("max_tokens", "temperature")) as server:
        first = use(server, ask(0, 1, 2), concurrency=1)
        assert len(server.times) == 3 + 2, "what a model refuses is found out once"
        assert use(server, ask(0, 1, 2)) == first, "they are kept under the request as it was"
    bodies = [json.loads(body) for body in server.asked]
    assert all(body["max_completion_tokens"] == 16 + THINKING for body in bodies)
    assert not any("temperature" in body or "max_tokens" in body for body in bodies)


def test_what_a_model_may_think_is_set_aside(use: Callable[..., Any]):
    with loopback(refuses=("max_tokens",)) as server, pytest.raises(BudgetSpent):
        use(server, ask(0), budget_tokens=THINKING)
    assert not server.asked
    with loopback() as server:
        use(server, ask(0), budget_tokens=THINKING)


def test_a_request_that_is_too_long_changes_no_other(use: Callable[..., Any]):
    def fault(number: int, body: dict[str, Any]) -> Any:
        return (400, {}, {"message": "max_tokens is too large"}) if "Say 7." in str(body) else None

    async def run(client: Client) -> None:
        with pytest.raises(NoReply, match="max_tokens is too large"):
            await client.ask(request(7))
        await client.ask(request(8))

    with loopback(fault=fault) as server:
        use(server, run)
    (body,) = map(json.loads, server.asked)
    assert body["max_tokens"] == 16


def test_another_server_is_asked_anew(use: Callable[..., Any]):
    with loopback() as one, loopback() as other:
        use(one, ask(0))
        use(other, ask(0))
    assert sum(other.asked.values()) == 1


IN_A_PROCESS = """
import asyncio, sys
from pathlib import Path
from tasks.interpret.client import Client, all_of
from tasks.interpret.ledger import Clock, Ledger
from tasks.interpret.access import Access
from tasks.interpret.servers import credentials
from tests.tasks.interpret.conftest import spec, words
from tests.tasks.interpret.loopback_server import Server
from tests.tasks.interpret.test_client import request

async def main():
    server, access = spec(Server(url=sys.argv[1])), Access(concurrency=2)
    async with Client(credentials(server, access), access, words, Ledger(Path(sys.argv[2])), Clock()) as client:
        await all_of(client.ask(request(number)) for number in range(40))

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_run_that_was_killed_pays_for_nothing_twice(use: Callable[..., Any], home: Path, tmp_path: Path):
    command = [sys.executable, "-c", IN_A_PROCESS]
    environment = {**os.environ, "SAEFLOW_HOME": str(home)}
    with loopback(slow=0.02) as server:
        running = subprocess.Popen([*command, server.url, str(tmp_path / "ledger.json")], env=environment)
        while sum(server.asked.values()) < 15 and running.poll() is None:
            time.sleep(0.005)
        running.send_signal(signal.SIGKILL)
        running.wait()
        time.sleep(0.2)
        kept = len(list((home / "replies").glob("*.json.gz")))
        before = sum(server.asked.values())
        assert 12 <= kept <= before < 40
        use(server, ask(*range(40)))
        assert len(server.asked) == 40
        assert sum(server.asked.values()) == 40 + before - kept, "only what was under way is asked again"
        assert before - kept <= 2


def test_a_budget_of_tokens_ends_the_run_and_the_next_one_goes_on(use: Callable[..., Any], home: Path):
    runs = 0
    with loopback(slow=0.01) as server:
        while True:
            runs += 1
            (home / "spending" / "test.json").unlink(missing_ok=True)  # another run
            with suppress(BudgetSpent):
                use(server, ask(*range(20)), budget_tokens=100, concurrency=4)
                break
            assert len(list((home / "replies").glob("*"))) == sum(server.asked.values()), "what was under way ended"
        assert sum(server.asked.values()) == 20
    assert 2 < runs < 8


def test_a_budget_of_money_counts_what_models_cost(use: Callable[..., Any], home: Path):
    prices = (Price(model="scoring", input=1e6, output=2e6), Price(model="explaining", input=1, output=1))
    with loopback() as server, pytest.raises(BudgetSpent, match=r"budget_currency is 150, and .* is spent"):
        use(server, ask(*range(20)), budget_currency=150, prices=prices, concurrency=1)
    (spent,) = [json.loads(path.read_text()) for path in (home / "spending").iterdir()]
    read = [len(json.dumps(json.loads(body)["messages"])) // 4 for body in server.asked]
    assert spent["tokens used"] == sum(read) + len(read), "as the server counts them: each answer is one token"
    assert spent["cost"] == pytest.approx(sum(read) + 2 * len(read))
    assert 100 < spent["cost"] <= 150


def test_a_budget_of_money_ends_the_run_and_the_next_one_goes_on(use: Callable[..., Any], home: Path):
    prices = (Price(model="scoring", input=1e6, output=2e6), Price(model="explaining", input=1, output=1))
    runs = 0
    with loopback() as server:
        while True:
            runs += 1
            (home / "spending" / "test.json").unlink(missing_ok=True)  # another run
            with suppress(BudgetSpent):
                use(server, ask(*range(20)), budget_currency=150, prices=prices, concurrency=4)
                break
        assert sum(server.asked.values()) == len(server.asked) == 20, "each was paid for once"
    assert 2 < runs < 8


def test_a_budget_of_money_needs_the_price_of_every_model():
    with loopback() as server, pytest.raises(ExperimentError, match="needs the price of explaining"):
        credentials(spec(server), Access(budget_currency=1, prices=(Price(model="scoring", input=1, output=1),)))


def test_a_minute_sees_no_more_than_its_limit(tmp_path: Path, clock: FastClock):
    sent: list[float] = []

    async def run(pace: Pace) -> None:
        for _ in range(100):
            await pace.wait(50)
            sent.append(clock.now())

    async def both() -> None:
        """Two processes would do the same through the same file."""
        paces = [Pace(Ledger(tmp_path / "ledger.json"), 60, 6000, clock) for _ in range(2)]
        await asyncio.gather(*map(run, paces))

    asyncio.run(both())
    assert len(sent) == 200
    for start in (sent[0], sent[40], sent[100]):
        assert sum(start <= at < start + 60 for at in sent) <= 1.1 * 60 + 2
    assert sent[-1] - sent[0] == pytest.approx(200 - 6, abs=3)


def test_a_request_larger_than_the_bucket_is_waited_for(tmp_path: Path, clock: FastClock):
    pace = Pace(Ledger(tmp_path / "ledger.json"), None, 600, clock)

    async def run() -> None:
        await pace.wait(300)
        await pace.wait(30)

    asyncio.run(run())
    assert sum(clock.waits) == pytest.approx(27, abs=1)
