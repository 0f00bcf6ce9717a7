"""The pages of a report, opened by double-click and from the report server: no errors, nothing from outside."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tasks.caching import artifacts
from tests.browser.conftest import Camera, reports_served
from tests.browser.site_data import HOSTILE
from tests.tasks.site.reports import Made, tiny_report_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

WIDTHS = (1440, 400)
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with tiny_report_of(tiny_model, tmp_path_factory) as report:
        yield report


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, made: Made) -> Iterator[str]:
    """Of the site, opened by double-click or from the report server, whose policy forbids more than a file's."""
    if request.param == "file":
        yield made.place.as_uri()
        return
    with reports_served(artifacts()) as server:
        yield f"{server}/{made.ref}"


class Visit:
    """A page under way, and what went wrong there."""

    def __init__(self, browser: "Browser", address: str, width: int = 1440, theme: str = "light") -> None:
        self.address = address
        scheme: Any = theme
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.page.on("request", lambda request: self._request(request.url))

    def _request(self, url: str) -> None:
        if not url.startswith((f"{self.address}/", "data:")):
            self.wrong.append(f"asks for {url}")

    def opened(self, name: str) -> "Page":
        self.page.goto(f"{self.address}/{name}")
        return self.page

    def drawn(self) -> int:
        """Look at every plot; how many there are."""
        plots = self.page.locator("[data-plot]")
        for number in range(plots.count()):
            plots.nth(number).scroll_into_view_if_needed()
            plots.nth(number).and_(self.page.locator("[data-drawn]")).wait_for(timeout=30_000)
        return plots.count()

    def violations(self) -> list[str]:
        from axe_playwright_python.sync_playwright import Axe

        # axe would fetch the style sheets by itself, which a file may not.
        found = Axe().run(self.page, options={"preload": False}).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_overview_is_drawn_in_both_themes_and_widths(
    browser: "Browser", made: Made, camera: Camera, width: int, theme: str
):
    visit = Visit(browser, made.place.as_uri(), width, theme)
    page = visit.opened("index.html")
    assert page.evaluate("window.Plotly") is None, "not before it is needed"
    assert visit.drawn() > 10
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "tables scroll, and not the page"
    page.evaluate("scrollTo(0, 0)")
    camera(page, f"{width}-{theme}", whole=True)
    assert visit.violations() == []
    assert visit.wrong == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_studies_are_pages_that_lead_to_features(browser: "Browser", made: Made, camera: Camera, width: int):
    for theme, file in zip(["light", "dark"] * 9, sorted(made.place.glob("study-*.html")), strict=False):
        visit = Visit(browser, made.place.as_uri(), width, theme)
        page = visit.opened(file.name)
        assert page.locator("main a[href^='features.html#']").count() > 0, file.name
        assert (visit.drawn() > 0) == (file.stem in ("study-ioi", "study-erasure")), file.name
        page.evaluate("scrollTo(0, 0)")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), file.name
        camera(page, f"{file.stem}-{width}", whole=True)
        assert visit.violations() == [], file.name
        assert visit.wrong == [], file.name
        page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_text_on_any_page_is_text(browser: "Browser", made: Made, address: str, width: int):
    visit = Visit(browser, address, width)
    names = ["index.html", *sorted(file.name for file in made.place.glob("study-*.html"))]
    for name in names:
        page = visit.opened(name)
        harmless(page, name)
    assert HOSTILE[3] in visit.opened("study-ioi.html").locator("main").inner_text()
    for browsed in made.place.glob("browse/*"):
        visit.opened(f"features.html#{browsed.name}").locator("#features tbody tr").first.wait_for()
        harmless(visit.page, browsed.name)
    visit.opened(f"features.html#{browsed.name}/0").get_by_role("heading", name="Feature 0").wait_for()
    visit.page.locator("#feature-view .word", has_text="</textarea>").first.wait_for(timeout=10_000)
    harmless(visit.page, "a feature")
    assert visit.wrong == []
    visit.page.close()


def harmless(page: "Page", name: str) -> None:
    """No element came of text, and none of it is wider than the page."""
    assert page.locator("main :is(img[src=x], textarea, [onload], [onerror], [href^=javascript])").count() == 0, name
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


def test_a_table_sorts_and_plots_follow_the_theme(browser: "Browser", address: str):
    visit = Visit(browser, address)
    page = visit.opened("index.html")
    table = page.locator("table.sortable").first
    table.get_by_role("button", name="FVU").click()
    values = [float(cell.get_attribute("data-value") or "nan") for cell in table.locator("tbody td:nth-child(4)").all()]
    assert values == sorted(values, reverse=True)
    table.get_by_role("button", name="FVU").click()
    assert float(table.locator("tbody td:nth-child(4)").first.get_attribute("data-value") or "nan") == min(values)

    visit.drawn()
    background = "document.querySelector('[data-plot] .main-svg').style.background"
    light = page.evaluate(background)
    page.locator("#theme").click()
    page.wait_for_function(f"before => {background} !== before", arg=light)
    assert visit.wrong == []
    page.close()


def test_a_formula_is_one_focus_away(browser: "Browser", made: Made):
    visit = Visit(browser, made.place.as_uri())
    page = visit.opened("index.html")
    formula = page.locator(".tip").first
    hidden = page.locator("[role=tooltip]").first
    assert not hidden.is_visible()
    formula.focus()
    assert hidden.is_visible()
    page.close()
