"""The report server answers questions to a report's dictionaries: one at a time, and only who may ask."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from flows.report_access import COOKIE, TOKEN, Access
from flows.report_server import application
from tasks import try_it
from tasks.caching import artifacts
from tasks.errors import ExperimentError
from tests.flows.command import assert_refused, saeflow
from tests.tasks.evaluate import subjects
from tests.tasks.try_reports import HOOK_POINT, TEXT, Made, made_report

SECRET = "a token that only its owner knows"
ADDRESS = "http://127.0.0.1:4201"
TRY = "/report/0123abcd/try"


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with subjects.harvested(tiny_model, tmp_path_factory, HOOK_POINT) as refs:
        yield made_report(refs)


@pytest.fixture(scope="module")
def client(made: Made) -> TestClient:
    return TestClient(application(artifacts()), base_url=ADDRESS)


@pytest.fixture
def guarded(made: Made) -> TestClient:
    """A server that others reach."""
    return TestClient(application(artifacts(), Access(SECRET)), base_url="http://reports.example:4201")


@pytest.fixture(scope="module")
def question(made: Made) -> dict[str, Any]:
    return {"dictionary": try_it.choices(made.report)[0].slug, "text": TEXT, "feature": 3}


def lines(text: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_dictionaries_are_those_of_the_report(client: TestClient, made: Made):
    told = client.get(f"{TRY}/dictionaries").json()
    assert [each["ref"] for each in told["dictionaries"]] == [str(ref) for ref in made[1:]]
    assert told["dictionaries"][0]["slug"] == f"topk-{HOOK_POINT}-{made.topk.key[:8]}"
    assert [each["browse"] for each in told["dictionaries"]] == [True, False, False, False]
    assert told["features_page"]
    assert client.get("/report/ffff/try/dictionaries").status_code == 404


def test_a_page_can_tell_that_it_is_served(client: TestClient):
    assert client.head("/report/0123abcd/try.html").headers["saeflow-reports"] == "try"


def test_the_features_of_a_text(client: TestClient, question: dict[str, Any]):
    answer = client.post(f"{TRY}/features", json=question)
    assert answer.status_code == 200
    assert "".join(token["text"] for token in answer.json()["tokens"]) == TEXT
    assert len(answer.json()["feature"]) == len(answer.json()["tokens"])


def test_a_continuation_comes_token_by_token(client: TestClient, question: dict[str, Any]):
    asked = {**question, "edit": "steer", "strength": 0, "new_tokens": 5}
    told = lines(client.post(f"{TRY}/continuation", json=asked).text)
    assert len(told) == 5
    assert told[-1]["unsteered"] == told[-1]["steered"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text": "a" * 2001}, "text: String should have at most 2000 characters"),
        ({"text": "qz" * 256}, "can be tried at once"),
        ({"dictionary": "x"}, "this report has no dictionary 'x'"),
        ({"feature": 96}, "there is no feature 96"),
        ({"feature": -1}, "feature: Input should be greater"),
        ({"other": 1}, "other: Extra inputs are not permitted"),
        ({"text": 1}, "text: Input should be a valid string"),
    ],
)
def test_what_cannot_be_answered_says_why(
    client: TestClient, question: dict[str, Any], changes: dict[str, Any], problem: str
):
    answer = client.post(f"{TRY}/features", json={**question, **changes})
    assert answer.status_code == 422
    assert problem in answer.json()["error"]


@pytest.mark.parametrize("changes", [{"new_tokens": 65}, {"strength": 1e9}, {"edit": "delete"}, {"new_tokens": 60}])
def test_a_continuation_that_cannot_be_written_is_refused_before_it_begins(
    client: TestClient, question: dict[str, Any], changes: dict[str, Any]
):
    answer = client.post(f"{TRY}/continuation", json={**question, "edit": "steer", **changes})
    assert answer.status_code == 422
    assert answer.json()["error"]
    assert client.post(f"{TRY}/features", json=question).status_code == 200  # the turn is over


@pytest.mark.parametrize("body", ["", "{", "[" * 60_000, "NaN", '{"feature": ' + "9" * 5000 + "}", "\ud800"])
def test_what_is_no_question_is_refused(client: TestClient, body: str):
    sent = body.encode("utf-8", "surrogatepass")
    answer = client.post(f"{TRY}/features", content=sent, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["error"]


def test_an_endless_question_is_not_read(client: TestClient):
    answer = client.post(f"{TRY}/features", content=b"1" * 70_000, headers={"content-type": "application/json"})
    assert answer.status_code == 413


def test_a_damaged_dictionary_is_named(made: Made, question: dict[str, Any]):
    weights = artifacts().path(made.topk) / "dictionary.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    try:
        answer = TestClient(application(artifacts()), base_url=ADDRESS).post(f"{TRY}/features", json=question)
    finally:
        weights.write_bytes(whole)
    assert answer.status_code == 500
    assert f"{made.topk} is damaged" in answer.json()["error"]
    assert "Run what made it again" in answer.json()["error"]


def test_who_comes_while_another_is_answered_is_told_so_and_the_reports_are_given_out_meanwhile(
    client: TestClient, question: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    begun, go_on = threading.Event(), threading.Event()

    def slow(*_: object) -> dict[str, Any]:
        begun.set()
        assert go_on.wait(30)
        return {}

    monkeypatch.setattr(try_it, "features", slow)
    first: list[int] = []
    with client:  # one event loop for all requests, as in a server
        asking = threading.Thread(
            target=lambda: first.append(client.post(f"{TRY}/features", json=question).status_code)
        )
        asking.start()
        assert begun.wait(30)
        busy = client.post(f"{TRY}/features", json=question)
        assert client.get("/report/0123abcd/try.html").status_code == 200
        go_on.set()
        asking.join()
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert "Another question" in busy.json()["error"]
    assert first == [200]
    monkeypatch.undo()
    assert client.post(f"{TRY}/features", json=question).status_code == 200


def test_what_goes_wrong_while_it_is_written_is_told_at_the_end(
    client: TestClient, question: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    def failing(*_: object) -> Iterator[dict[str, str]]:
        yield {"unsteered": "a", "steered": "b"}
        raise ExperimentError("it stops here")

    monkeypatch.setattr(try_it, "continuations", failing)
    told = lines(client.post(f"{TRY}/continuation", json={**question, "edit": "ablate"}).text)
    assert told[-1] == {"error": "it stops here"}
    monkeypatch.undo()
    assert client.post(f"{TRY}/features", json=question).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": ADDRESS}, 200),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:4202"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "evil.example:4201"}, 403),  # a name of theirs that leads here
        ({"host": "evil.example:4201", "origin": "http://evil.example:4201"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "[::1"}, 403),  # no address at all
        ({"host": "", "origin": "http://[x"}, 403),
        ({"origin": "http://[x"}, 403),
        ({"host": "localhost:4201"}, 200),
        ({"host": "[::1]:4201"}, 200),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_pages_of_others_ask_in_vain(
    client: TestClient, question: dict[str, Any], headers: dict[str, str], status: int
):
    sent = {"content-type": "application/json", **headers}
    answer = client.post(f"{TRY}/features", content=json.dumps(question), headers=sent)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_elsewhere_a_token_is_asked_for(guarded: TestClient, question: dict[str, Any]):
    def status(**headers: str | bytes) -> int:
        return guarded.post(f"{TRY}/features", json=question, headers=headers).status_code

    assert guarded.get(f"{TRY}/dictionaries").status_code == 401
    assert [status(), status(authorization="Bearer wrong"), status(authorization=f"Basic {SECRET}")] == [401] * 3
    assert status(cookie=f"{COOKIE}=wrong") == 401
    assert status(authorization="Bearer") == status(authorization=b"Bearer \xe9") == 401
    assert status(authorization=f"Bearer {SECRET}") == 200
    assert status(authorization=f"Bearer {SECRET}", origin="http://evil.example") == 403
    assert status(authorization=f"Bearer {SECRET}", origin="http://[x", host="") == 403
    assert guarded.get("/report/0123abcd/try.html").status_code == 200  # reports themselves are for everybody
    assert "?token=" in guarded.get(f"{TRY}/dictionaries").json()["error"]


def test_a_token_in_an_address_becomes_a_cookie(guarded: TestClient, question: dict[str, Any]):
    page = "/report/0123abcd/try.html"
    assert guarded.get(page, params={"token": "wrong"}).status_code == 401
    assert guarded.post(f"{TRY}/features", json=question, params={"token": SECRET}).status_code == 401
    answer = guarded.get(page, params={"token": SECRET, "a": "1&2"}, follow_redirects=False)
    assert answer.headers["location"] == "?a=1%262"
    kept = answer.headers["set-cookie"].lower()
    assert "httponly" in kept
    assert "samesite=strict" in kept
    assert guarded.post(f"{TRY}/features", json=question).status_code == 200


def test_a_token_is_made_where_others_reach_the_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TOKEN, raising=False)
    assert [Access.at(host).token for host in ("127.0.0.1", "localhost", "::1", "127.0.0.2")] == [None] * 4
    made = {Access.at(host).token for host in ("0.0.0.0", "::", "192.168.0.7", "reports")}
    assert len(made) == 4
    assert all(token and len(token) >= 32 for token in made)
    monkeypatch.setenv(TOKEN, SECRET)
    assert {Access.at(host).token for host in ("127.0.0.1", "0.0.0.0")} == {SECRET}
    monkeypatch.setenv(TOKEN, "")
    assert Access.at("127.0.0.1").token is None


def test_a_short_token_is_refused(tmp_path: Path):
    result = saeflow("reports", "--home", tmp_path, "--host", "0.0.0.0", **{TOKEN: "secret"})
    assert_refused(result, "$SAEFLOW_REPORTS_TOKEN has 6 characters")
