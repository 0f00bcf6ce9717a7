"""What a person does on the page *Try it*: type, see what fires, change a feature, read on."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from flows.report_access import TOKEN
from tasks.caching import artifacts
from tests.browser.conftest import Camera
from tests.browser.site_data import HOSTILE
from tests.flows.ports import free_ports
from tests.tasks.evaluate import subjects
from tests.tasks.try_reports import (
    EXPLAINED_BY_HOSTILE_TEXT,
    HOOK_POINT,
    TEXT,
    TOLD_BY_HOSTILE_TOKENS,
    Made,
    made_report,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

# Characters that have no shape, or turn the direction of what stands around them.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")
WAIT = 60_000  # milliseconds: the first question loads the model


class Served(NamedTuple):
    """A report on disk and at an address."""

    folder: Path
    address: str
    made: Made


@pytest.fixture(scope="module")
def served(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with subjects.harvested(tiny_model, tmp_path_factory, HOOK_POINT) as refs:
        made = made_report(refs)
        with report_server(artifacts().uri) as server:
            yield Served(artifacts().path(made.report), f"{server}/report/{made.report.key}", made)


class report_server:
    """`saeflow reports` on a free port."""

    def __init__(self, home: str, **environment: str) -> None:
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        self.command = [sys.executable, "-m", "flows.cli", "reports", "--home", home, "--port", str(port)]
        self.environment = {**os.environ, **environment}

    def __enter__(self) -> str:
        self.process = subprocess.Popen(self.command, env=self.environment)
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return self.address
            except OSError:
                assert self.process.poll() is None
                time.sleep(0.1)
        raise AssertionError("`saeflow reports` does not answer")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def problems(page: "Page") -> list[str]:
    """What the console says, and requests that leave the machine."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on("dialog", lambda dialog: (found.append(dialog.message), dialog.dismiss()))
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith(("http://127.0.0.1", "file:", "data:")) else found.append(request.url)
        ),
    )
    return found


def opened(page: "Page", served: Served, fragment: str = "") -> None:
    page.goto(f"{served.address}/try.html{fragment}")
    page.locator("#tokens tbody tr").first.wait_for(timeout=WAIT)


def typed(page: "Page", text: str) -> None:
    page.get_by_label("Text", exact=True).fill(text)
    page.wait_for_function(
        "text => [...document.querySelectorAll('#strip button')].map((each) => each.textContent).join('') === text",
        arg=text,
    )


def serious(page: "Page") -> list[str]:
    from axe_playwright_python.sync_playwright import Axe

    found: Any = Axe().run(page).response["violations"]
    return [f"{each['id']}: {each['nodes'][0]['html']}" for each in found if each["impact"] in ("serious", "critical")]


def test_what_fires_is_seen_as_one_types(page: "Page", served: Served, problems: list[str], camera: Camera):
    opened(page, served)
    typed(page, TEXT)
    rows = page.locator("#tokens tbody tr")
    assert rows.count() == page.locator("#strip button").count()
    assert rows.first.locator("li").count() == 4  # topk, k=4
    choose = rows.first.locator("li button").first
    number = choose.get_attribute("data-feature")
    choose.click()
    page.locator("#strip button.fires").first.wait_for()
    assert page.get_by_label("Feature", exact=True).input_value() == number
    assert page.url.endswith(f"#topk-{HOOK_POINT}-{served.made.topk.key[:8]}/{number}")
    assert page.evaluate("document.activeElement.dataset.feature") == number  # the keyboard is where it was
    about = page.locator("#about").inner_text()
    assert "Here it is at most" in about
    assert "at “ cat”, “</script><script>alert(1)</script>”" in about  # what the browser of features says of it
    assert "On held-out text: 9.5 on average where it fires, at most 9.5." in about
    assert rows.first.get_by_text("<b>animals</b> that sleep").count() == 1
    link = rows.first.get_by_role("link").first.get_attribute("href")
    assert link == f"features.html#{page.url.partition('#')[2]}"
    camera(page, "features", whole=True)
    assert serious(page) == []
    assert problems == []


def test_all_features_of_a_token_are_there(page: "Page", served: Served):
    opened(page, served)
    page.get_by_label("Dictionary").select_option(index=2)  # PCA: all of them
    typed(page, TEXT)
    first = page.locator("#tokens tbody tr").first
    page.wait_for_function("() => document.querySelector('#tokens tbody td.number').textContent === '32'")
    assert first.locator("li").count() == 5
    first.get_by_role("button", name="all 32").click()
    assert first.locator("li").count() == 32


def test_a_feature_is_changed_and_both_texts_are_read(
    page: "Page", served: Served, problems: list[str], camera: Camera
):
    opened(page, served, f"#topk-{HOOK_POINT}-{served.made.topk.key[:8]}/7")
    assert page.get_by_label("Feature", exact=True).input_value() == "7"
    typed(page, TEXT)

    def write(strength: str) -> tuple[str, str]:
        page.get_by_label("Strength").fill(strength)
        page.get_by_role("button", name="Write on").click()
        page.get_by_text("Done.").wait_for(timeout=WAIT)
        return page.locator("#unsteered").inner_text(), page.locator("#steered").inner_text()

    clean, same = write("0")
    assert clean == same
    assert clean.startswith(TEXT)
    assert len(clean) > len(TEXT)
    unsteered, steered = write("1000")
    assert unsteered == clean != steered
    assert page.locator("#steered mark").count() == 1
    page.get_by_label("Each token").select_option("sampled")
    page.get_by_label("Change", exact=True).select_option("ablate")
    assert not page.get_by_label("Strength").is_visible()
    page.get_by_label("Seed").fill("5")
    camera(page, "continuations", whole=True)
    assert serious(page) == []
    assert problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_a_telephone(page: "Page", served: Served, camera: Camera, theme: str):
    page.set_viewport_size({"width": 400, "height": 800})
    page.emulate_media(color_scheme=theme)  # pyright: ignore[reportArgumentType]
    opened(page, served, f"#topk-{HOOK_POINT}-{served.made.topk.key[:8]}/7")
    typed(page, TEXT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    camera(page, f"narrow-{theme}", whole=True)
    page.locator("#tokens tbody li button").first.click()
    page.locator("#strip button.fires").first.wait_for()
    assert serious(page) == []


def test_hostile_text_is_seen_as_text(page: "Page", served: Served, problems: list[str]):
    slug = f"topk-{HOOK_POINT}-{served.made.topk.key[:8]}"
    for number in (TOLD_BY_HOSTILE_TOKENS, EXPLAINED_BY_HOSTILE_TEXT):
        opened(page, served, f"#{slug}/{number}")
        about = page.locator("#about")
        about.get_by_text("</textarea>").first.wait_for()
        assert "right-to-left override" in about.locator(".sign").evaluate_all("all => all.map((each) => each.title)")
        assert about.locator(":not(bdi, .sign)").count() == 0
        assert not UNSEEN.search(about.inner_text())
    for start in range(0, len(HOSTILE), 6):
        text = "\n".join(each[:8] for each in HOSTILE[start : start + 6])
        page.locator("#text").evaluate("(area, units) => { area.value = String.fromCharCode(...units); }", units(text))
        with page.expect_response("**/try/features") as answer:
            page.locator("#text").dispatch_event("input")
        assert answer.value.ok
        page.wait_for_timeout(100)
        assert page.locator("#strip button").count() > 5
        assert not UNSEEN.search(page.locator("main").inner_text())
        assert page.locator("#strip :not(button, .sign), #tokens :is(script, img, svg, textarea)").count() == 0
    assert problems == []


def units(text: str) -> list[int]:
    """As UTF-16, in which halves of surrogate pairs can be sent to a page."""
    sent = text.encode("utf-16-le", "surrogatepass")
    return [int.from_bytes(sent[at : at + 2], "little") for at in range(0, len(sent), 2)]


@pytest.mark.parametrize("fragment", ["#%", "#%E0%A4%A", "#/%/7"])
def test_an_address_with_a_stray_percent_sign_opens_the_page(
    page: "Page", served: Served, problems: list[str], fragment: str
):
    opened(page, served, fragment)
    assert problems == []


def test_markup_is_text(page: "Page", served: Served, problems: list[str]):
    opened(page, served)
    typed(page, "<script>alert(1)</script></textarea><img src=x onerror=alert(2)>")
    assert page.locator("#strip img, #strip script, #tokens img").count() == 0
    assert problems == []


def test_what_is_too_long_is_said(page: "Page", served: Served):
    opened(page, served)
    page.get_by_label("Text", exact=True).fill("qz" * 100)
    page.get_by_text("reads at most 63").wait_for()
    typed(page, TEXT)
    assert "tokens," in page.locator("#state").inner_text()


def test_a_file_says_how_to_start_it(page: "Page", served: Served, problems: list[str], camera: Camera):
    page.goto((served.folder / "try.html").as_uri())
    page.get_by_text("saeflow reports --home").wait_for()
    assert not page.get_by_label("Text", exact=True).is_visible()
    camera(page, "file", whole=True)
    assert problems == []
    assert serious(page) == []  # last: it asks for the style sheet, which a file must not


def test_a_plain_web_server_says_how_to_start_it(page: "Page", served: Served, problems: list[str]):
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(served.folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try:
                page.goto(f"http://127.0.0.1:{port}/try.html")
                break
            except Exception:  # it is not there yet
                page.wait_for_timeout(100)
        page.wait_for_timeout(500)
        assert page.get_by_text("saeflow reports --home").is_visible()
        assert not page.get_by_label("Text", exact=True).is_visible()
        assert problems == []
    finally:
        server.terminate()
        server.wait()


def test_with_a_token_the_page_asks_for_it_and_keeps_it(page: "Page", served: Served):
    secret = "a-token-that-nobody-guesses"
    with report_server(artifacts().uri, **{TOKEN: secret}) as address:
        there = f"{address}/report/{served.made.report.key}/try.html"
        page.goto(there)
        page.get_by_text("?token=…").wait_for()
        page.goto(f"{there}?token={secret}")
        page.locator("#tokens tbody tr").first.wait_for(timeout=WAIT)
        assert re.fullmatch(re.escape(there) + r"\??(#.*)?", page.url)
        assert secret not in page.evaluate("document.cookie")
