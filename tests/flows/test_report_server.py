"""The report server gives out reports and experiment records, and nothing else of the home."""

import json
import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows import report_server
from flows.experiment_records import ExperimentRecords
from flows.report_server import HEADERS, application
from storage.artifacts import ArtifactRef, ArtifactStore
from storage.remote_artifacts import RemoteArtifactStore
from tests.tasks.site.made_up import dictionary, material, overview

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "home")


@pytest.fixture
def report(store: ArtifactStore) -> ArtifactRef:
    def make(place: Path) -> None:
        (place / "index.html").write_text("<h1>it</h1>")
        (place / "figures").mkdir()
        (place / "figures" / "a.svg").write_text("<svg/>")

    return store.build("report", "0123abcd", make, code_version="1", spec={}, inputs={}, resumable=False)


@pytest.fixture
def client(store: ArtifactStore, report: ArtifactRef) -> TestClient:
    record = {"state": "finished", "config": {"hook_points": ["a", "b"]}, "dictionaries": [{}, {}, {}]}
    place = f"/elsewhere/report/{report.key}/report.md"
    ExperimentRecords(store.home_location).write("mine", {**record, "report": place, "artifacts": [str(report)]})
    return TestClient(application(store))


def test_the_index_leads_to_the_reports(client: TestClient):
    index = client.get("/")
    assert 'href="report/0123abcd/"' in index.text
    assert "mine" in index.text
    assert "finished" in index.text
    shown = client.get("/report/0123abcd/")
    assert (shown.status_code, shown.text) == (200, "<h1>it</h1>")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in shown.headers["content-security-policy"]
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert client.get("/report/0123abcd", follow_redirects=False).headers["location"] == "0123abcd/"
    assert client.get("/report/0123abcd/figures/a.svg").headers["content-type"] == "image/svg+xml"
    assert json.loads(client.get("/experiments/mine.json").text)["state"] == "finished"
    assert client.get("/health").text == "ok"


def test_the_hook_points_of_a_retraining_are_those_of_its_experiment(client: TestClient, store: ArtifactStore):
    record = {"state": "finished", "config": {"experiment": {"hook_points": ["a", "b", "c", "d", "e"]}}}
    ExperimentRecords(store.home_location).write("mine.retrain", record)
    assert '<td class="number">5</td>' in client.get("/").text


def test_an_empty_home_has_an_index_too(tmp_path: Path):
    assert "none yet" in TestClient(application(ArtifactStore(tmp_path))).get("/").text


@pytest.mark.parametrize(
    "path",
    [
        "/report/0123abcd/..%2f..%2fsecret.txt",
        "/report/0123abcd/%2e%2e/%2e%2e/secret.txt",
        "/report/0123abcd//etc/passwd",
        "/report/0123abcd/%2fetc%2fpasswd",
        "/report/0123abcd/not-listed.html",
        "/report/..%2fsecret.txt",
        "/report/0123abcd.partial/index.html",
        "/report/ffff/index.html",
        "/experiments/..%2fsecret.json",
        "/experiments/%2e%2e%2fsecret.json",
        "/experiments/other.json",
        "/secret.txt",
        "/prefect.db",
        "/dictionary/0123abcd/index.html",
    ],
)
def test_nothing_else_can_be_reached(client: TestClient, store: ArtifactStore, path: str):
    (store.home / "secret.txt").write_text("secret")
    (store.home / "secret.json").write_text('{"secret": 1}')
    (store.home / "report" / "0123abcd" / "not-listed.html").write_text("secret")
    answer = client.get(path)
    assert answer.status_code == 404
    assert "secret" not in answer.text


def test_a_manifest_that_names_files_outside_opens_none(client: TestClient, store: ArtifactStore, report: ArtifactRef):
    from storage.manifests import digest_of, read_manifest
    from storage.records import pack_readable_record

    (store.home / "secret.txt").write_text("secret")
    folder = store.path(report)
    manifest = read_manifest(folder, report.kind, report.key)
    manifest.pop("checksum", None)
    manifest["files"] = [*manifest["files"], {"name": "../../secret.txt", "size": 6, "sha256": "0" * 64}]
    manifest["digest"] = digest_of(manifest["files"])
    (folder / "manifest.json").write_bytes(pack_readable_record(manifest))
    assert client.get("/report/0123abcd/").status_code == 200
    assert client.get("/report/0123abcd/..%2f..%2fsecret.txt").status_code == 404


def test_a_file_that_the_browser_has_is_not_sent_again(client: TestClient):
    page = "/report/0123abcd/figures/a.svg"
    first = client.get(page)
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = client.get(page, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        assert HEADERS.items() <= {name: again.headers.get(name) for name in HEADERS}.items()
    assert client.get(page, headers={"if-none-match": '"other"'}).content == first.content
    assert HEADERS.items() <= {name: first.headers.get(name) for name in HEADERS}.items()
    manifest = client.get("/report/0123abcd/manifest.json")
    again = client.get("/report/0123abcd/manifest.json", headers={"if-none-match": manifest.headers["etag"]})
    assert again.status_code == 304


def test_a_home_in_a_bucket_is_served_alike(bucket: str):
    store = RemoteArtifactStore(bucket)

    def make(place: Path) -> None:
        (place / "index.html").write_text("<h1>it</h1>")

    store.build("report", "0123abcd", make, code_version="1", spec={}, inputs={}, resumable=False)
    client = TestClient(application(store))
    page = client.get("/report/0123abcd/")
    assert (page.status_code, page.text) == (200, "<h1>it</h1>")
    assert client.get("/report/0123abcd/", headers={"if-none-match": page.headers["etag"]}).status_code == 304
    assert client.get("/report/0123abcd/other.html").status_code == 404
    assert client.get("/report/ffff/").status_code == 404


def test_a_part_of_a_file_can_be_asked_for(client: TestClient):
    part = client.get("/report/0123abcd/", headers={"range": "bytes=1-2"})
    assert (part.status_code, part.text) == (206, "h1")


def test_a_manifest_is_parsed_once_and_again_when_it_was_rewritten(
    client: TestClient, store: ArtifactStore, report: ArtifactRef, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    reading = report_server.read_manifest
    monkeypatch.setattr(report_server, "read_manifest", lambda *asked: (read.append(asked[2]), reading(*asked))[1])
    tag = client.get("/report/0123abcd/").headers["etag"]
    assert [client.get("/report/0123abcd/").status_code for _ in range(5)] == [200] * 5
    assert read == [report.key]

    shutil.rmtree(store.path(report))
    assert client.get("/report/0123abcd/").status_code == 404
    store.build(
        "report", report.key, lambda place: (place / "index.html").write_text("<h1>new</h1>") and None,
        code_version="1", spec={}, inputs={}, resumable=False,
    )  # fmt: skip
    new = client.get("/report/0123abcd/", headers={"if-none-match": tag})
    assert (new.status_code, new.text) == (200, "<h1>new</h1>")
    assert client.get("/report/0123abcd/figures/a.svg").status_code == 404


def test_a_listed_file_that_is_gone_is_said_with_all_headers(
    client: TestClient, store: ArtifactStore, report: ArtifactRef
):
    (store.path(report) / "index.html").unlink()
    gone = client.get("/report/0123abcd/")
    assert gone.status_code == 500
    assert "default-src 'self'" in gone.headers["content-security-policy"]


def test_names_of_others_are_escaped(tmp_path: Path):
    store = ArtifactStore(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / f"{EVIL.replace('/', '_')}.json").write_text('{"state": "<b>"}')
    text = TestClient(application(store)).get("/").text
    assert "<script>" not in text
    assert "<b>" not in text
    told = dictionary(EVIL, 0.5, place=EVIL, ref=EVIL, params={"k": EVIL}, model=EVIL)
    page = overview(tmp_path, material(told))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_comparisons_are_listed_and_served(client: TestClient, store: ArtifactStore):
    def make(place: Path) -> dict[str, list[str]]:
        (place / "index.html").write_text("<h1>both</h1>")
        return {"experiments": ["mine", EVIL]}

    store.build("comparison", "4567abcd", make, code_version="1", spec={}, inputs={}, resumable=False)
    index = client.get("/").text
    assert 'href="comparison/4567abcd/"' in index
    assert "<script>" not in index
    assert client.get("/comparison/4567abcd/").text == "<h1>both</h1>"
    assert client.get("/comparison/0123abcd/").status_code == 404


@pytest.mark.parametrize(("host", "asks"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_it_says_where_it_is_and_how_to_get_in(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], host: str, asks: bool
):
    monkeypatch.delenv("SAEFLOW_REPORTS_TOKEN", raising=False)
    monkeypatch.setattr("uvicorn.run", lambda *_, **__: None)
    report_server.serve(store, host, 4201)
    said = capsys.readouterr().out
    assert "http://127.0.0.1:4201/; " in said
    assert ("?token=" in said) == asks
