"""The overview and the studies of a report, opened by double-click: no errors, nothing from outside, for everybody."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser.conftest import Camera
from tests.conftest import write_text
from tests.tasks.evaluate import subjects
from tests.tasks.site.reports import HOOK_POINTS, Made, make_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

WIDTHS = (1440, 400)
SERIOUS = ("serious", "critical")


@pytest.fixture(scope="module")
def made(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    words = write_text(100).split()
    documents = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    with subjects.harvested(
        tiny_model, tmp_path_factory, *HOOK_POINTS, documents=documents, held_out_tokens=4096
    ) as refs:
        yield make_report(**refs)


class Visit:
    """A page under way, and what went wrong there."""

    def __init__(self, browser: "Browser", width: int, theme: str) -> None:
        scheme: Any = theme
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.wrong: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog {dialog.message}"))
        self.page.on("request", lambda request: self._request(request.url))

    def _request(self, url: str) -> None:
        if not url.startswith(("file:", "data:")):
            self.wrong.append(f"asks for {url}")

    def opened(self, file: Path) -> "Page":
        self.page.goto(file.as_uri())
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

        found = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found if each["impact"] in SERIOUS]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_overview_is_drawn_in_both_themes_and_widths(
    browser: "Browser", made: Made, camera: Camera, width: int, theme: str
):
    visit = Visit(browser, width, theme)
    page = visit.opened(made.place / "index.html")
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
        visit = Visit(browser, width, theme)
        page = visit.opened(file)
        assert page.locator("main a[href^='features.html#']").count() > 0, file.name
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), file.name
        camera(page, f"{file.stem}-{width}", whole=True)
        assert visit.violations() == [], file.name
        assert visit.wrong == [], file.name
        page.close()


def test_a_table_sorts_and_plots_follow_the_theme(browser: "Browser", made: Made):
    visit = Visit(browser, 1440, "light")
    page = visit.opened(made.place / "index.html")
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
    visit = Visit(browser, 1440, "light")
    page = visit.opened(made.place / "index.html")
    formula = page.locator(".tip").first
    hidden = page.locator("[role=tooltip]").first
    assert not hidden.is_visible()
    formula.focus()
    assert hidden.is_visible()
    page.close()
