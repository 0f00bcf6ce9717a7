"""What is wrong with a server, a model or a key is said before any work, and says nothing of the key."""

import time
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret

from tasks.errors import ExperimentError
from tasks.interpret.access import Access
from tasks.interpret.client import ServerError
from tasks.interpret.llm import check
from tasks.interpret.servers import credentials
from tests.tasks.interpret.conftest import spec
from tests.tasks.interpret.loopback_server import KEY, loopback


def test_the_key_is_looked_up_before_any_work(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ExperimentError, match="needs a key: set OPENAI_API_KEY"):
        check(spec(type("S", (), {"url": None})()), Access(), ["simulation"])


def test_a_wrong_key_is_said_and_not_repeated(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-and-long")
    with loopback() as server, pytest.raises(ServerError, match="refuses the key") as raised:
        check(spec(server), Access(), ["simulation"])
    assert "sk-wrong" not in str(raised.value)


def test_no_part_of_a_key_is_repeated(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong" + "g" * 400)
    with loopback() as server, pytest.raises(ServerError, match="refuses the key") as raised:
        check(spec(server), Access(), ["simulation"])
    assert "sk-wrong" not in str(raised.value)
    monkeypatch.setenv("OPENAI_API_KEY", 'sk-wrong-"and\\strange')
    with loopback() as server, pytest.raises(ServerError, match="refuses the key") as raised:
        check(spec(server), Access(), ["simulation"])
    assert "sk-wrong" not in str(raised.value)


def test_a_key_with_a_line_break_behind_it_is_good(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\r\n")
    with loopback() as server:
        check(spec(server), Access(), [])
    assert server.seen_keys == {KEY}


@pytest.mark.parametrize("key", ["sk-sch\u00f6n", "sk-two\nlines", "sk-\u200bcopied"])
def test_what_can_be_no_key_is_said_at_once(key: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with loopback() as server, pytest.raises(ExperimentError, match=r"OPENAI_API_KEY .*printable ASCII") as raised:
        check(spec(server), Access(), [])
    assert "sk-" not in str(raised.value)
    assert not server.times


def test_a_kept_reply_does_not_hide_a_wrong_key(home: Path, monkeypatch: pytest.MonkeyPatch):
    with loopback(tells_anybody=True) as server:
        check(spec(server), Access(), [])
        monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-and-long")
        with pytest.raises(ServerError, match="refuses the key"):
            check(spec(server), Access(), [])


def test_a_server_that_forbids_is_said_with_its_words(home: Path):
    error = {"message": "your country is not supported"}
    with (
        loopback(fault=lambda number, body: (403, {}, error)) as server,
        pytest.raises(ServerError, match=r"does not chat with 'explaining': .*your country"),
    ):
        check(spec(server), Access(), [])


def test_a_check_needs_no_budget_and_leaves_nothing_behind(home: Path):
    with loopback() as server:
        check(spec(server), Access(budget_tokens=1), ["simulation"])
    assert not (home / "spending").exists()


def test_an_unknown_model_is_said_with_those_there_are(home: Path):
    with (
        loopback() as server,
        pytest.raises(ServerError, match=r"no model 'gpt-9' \(.*\)\. It has explaining, scoring\."),
    ):
        check(spec(server, scorer="gpt-9"), Access(), [])


def test_a_server_that_cannot_be_reached_is_said_within_seconds(home: Path):
    started = time.monotonic()
    with loopback() as server:
        pass
    with pytest.raises(ServerError, match=r"cannot be reached .*Check `base_url`"):
        check(spec(server), Access(), ["simulation"])
    assert time.monotonic() - started < 10


def test_probabilities_that_a_model_forbids_are_done_without(home: Path):
    def fault(number: int, body: dict[str, Any]) -> Any:
        return (403, {}) if body.get("logprobs") else None

    with loopback(fault=fault) as server:
        simulation, chat = check(spec(server), Access(), ["simulation", "detection"])
    assert (str(simulation), str(chat)) == ("text", "text")


def test_the_mode_text_asks_for_no_probabilities(home: Path):
    with loopback() as server:
        simulation, chat = check(spec(server, mode="text"), Access(), ["simulation", "detection"])
    assert (str(simulation), str(chat)) == ("text", "text")
    assert not any("logprobs" in body for body in server.asked)


def test_a_check_finds_how_the_server_is_asked(home: Path):
    with loopback() as server:
        simulation, chat = check(spec(server), Access(), ["simulation", "detection"])
    assert (str(simulation), str(chat)) == ("generated_logprobs (20 alternatives)",) * 2


def test_addresses_hold_no_secrets_and_the_environment_names_the_server(monkeypatch: pytest.MonkeyPatch):
    for url in ("http://me:secret@here/v1", "https://here/v1?key=secret", "here/v1", "ftp://here"):
        with pytest.raises(ValueError, match=r"base_url|no address"):
            spec(type("S", (), {"url": url})())
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1/")
    resolved = spec(type("S", (), {"url": None})()).resolved()
    assert resolved.base_url == "http://127.0.0.1:9/v1"
    assert KEY not in repr(credentials(resolved, Access()))


def test_the_key_may_be_in_a_secret_block(prefect_server: str, home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    Secret(value=KEY).save("interpreting", overwrite=True)  # pyright: ignore[reportUnusedCoroutine]
    with loopback() as server:
        check(spec(server), Access(secret="interpreting"), [])
        with pytest.raises(ExperimentError, match="no Secret block 'other'"):
            check(spec(server), Access(secret="other"), [])
    assert server.seen_keys == {KEY}
