"""The page of a comparison, from a folder and from the report server: plots, sorting, links, both widths and themes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from storage.artifacts import ArtifactStore
from tests.browser.conftest import Camera, reports_served
from tests.tasks.test_compare import EVIL, compared, reported, topk

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

SIZES = {1440: 1000, 400: 850}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A comparison of two runs in a home of their own, by its key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(tmp_path_factory.mktemp("home")))
        a, b = reported("one", topk(60), expansion=2), reported("two", topk(90, seed=5), topk(60, seed=6), expansion=3)
        yield compared(a, b, names=("one", f"two {EVIL}"), sources=[EVIL]).name


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, comparison: str) -> Iterator[str]:
    store = ArtifactStore.from_environment()
    if request.param == "file":
        yield store.path("comparison", comparison).as_uri()
        return
    with reports_served(store) as server:
        yield f"{server}/comparison/{comparison}"


def opened(browser: "Browser", address: str, width: int, wrong: list[str], theme: str = "light") -> "Page":
    page = browser.new_page(
        viewport={"width": width, "height": SIZES[width]}, color_scheme="dark" if theme == "dark" else "light"
    )
    page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda said: said.type == "error" and wrong.append(f"console: {said.text}"))
    page.on(
        "request",
        lambda asked: asked.url.startswith((f"{address}/", "data:")) or wrong.append(f"request: {asked.url[:200]}"),
    )
    page.goto(f"{address}/index.html")
    return page


@pytest.mark.parametrize("width", SIZES)
def test_plots_are_drawn_tables_sort_and_features_are_listed(
    browser: "Browser", address: str, width: int, camera: Camera
):
    wrong: list[str] = []
    page = opened(browser, address, width, wrong)
    assert page.locator("h1").inner_text() == f"one and two {EVIL}"
    assert page.locator("#pairs tbody tr").count() == 1
    page.locator(".plot").first.scroll_into_view_if_needed()
    page.locator(".plot .main-svg").first.wait_for()
    camera(page, f"compare-{width}", whole=True)
    table = page.locator("section table").nth(1)
    cosines = table.locator("tbody td:last-child")
    table.get_by_role("button", name="cosine").click()
    shown = [float(text) for text in cosines.all_inner_texts()]
    assert shown == sorted(shown, reverse=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#theme").click()
    page.locator(".plot .main-svg").first.wait_for()
    page.close()
    assert wrong == []


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_axe_finds_no_serious_violation(browser: "Browser", comparison: str, theme: str, width: int):
    from axe_playwright_python.sync_playwright import Axe

    place = ArtifactStore.from_environment().path("comparison", comparison).as_uri()
    page = opened(browser, place, width, [], theme)  # axe asks for style sheets itself, which files refuse
    page.locator(".plot").first.scroll_into_view_if_needed()
    page.locator(".plot .main-svg").first.wait_for()
    found = Axe().run(page).response["violations"]
    page.close()
    assert [(each["id"], each["nodes"][0]["html"]) for each in found if each["impact"] in ("serious", "critical")] == []
