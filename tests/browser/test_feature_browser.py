"""What a person does with the feature browser, from a folder and from a server, and what hostile text cannot do."""

import re
import shutil
import statistics
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser.conftest import Camera
from tests.browser.site_data import HOSTILE, STUDIES, hostile, large, tidy, write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TIDY, LARGE, BAD = tidy(), large(), hostile()
SIZES = {1440: 1000, 400: 850}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(tmp_path_factory.mktemp("site"), TIDY, LARGE, BAD).parent


@pytest.fixture(scope="session")
def served(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["file", "http"])
def address(request: pytest.FixtureRequest, site: Path) -> str:
    """Of the site, opened by double-click or from a server."""
    return request.getfixturevalue("served") if request.param == "http" else site.as_uri()


@dataclass
class Visitor:
    """Opens pages of sites, and keeps what should not have happened there."""

    browser: "Browser"
    wrong: list[str] = field(default_factory=list)
    opened: "list[Page]" = field(default_factory=list)

    def __call__(self, address: str, shown: str = "", width: int = 1440, theme: str = "light") -> "Page":
        page = self.browser.new_page(
            viewport={"width": width, "height": SIZES[width]}, color_scheme="dark" if theme == "dark" else "light"
        )
        page.set_default_timeout(20_000)
        page.on("dialog", lambda dialog: (self.wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        page.on("console", lambda said: said.type == "error" and self.wrong.append(f"console: {said.text}"))
        page.on("request", lambda asked: inside(asked.url, address) or self.wrong.append(f"request: {asked.url[:200]}"))
        page.goto(f"{address}/features.html{shown}")
        self.opened.append(page)
        return page


def inside(url: str, address: str) -> bool:
    return url.startswith((f"{address}/", "data:"))


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Visitor]:
    visitor = Visitor(browser)
    yield visitor
    for page in visitor.opened:
        page.close()
    assert visitor.wrong == []


def heading(page: "Page", said: str) -> None:
    page.get_by_role("heading", level=1, name=said, exact=True).wait_for()


def shown_features(page: "Page") -> list[int]:
    return [int(number) for number in page.locator("#features tbody th").all_inner_texts()]


def count_says(page: "Page", said: str) -> None:
    page.locator("#count", has_text=said).wait_for()


def fits(page: "Page") -> bool:
    """Whether nothing makes the page wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def by_maximum() -> list[int]:
    maxima = [(-value, feature) for feature, value in enumerate(TIDY.maximum) if value is not None]
    return [feature for _, feature in sorted(maxima)]


@pytest.mark.parametrize("width", SIZES)
def test_features_are_sorted_searched_opened_stepped_through_and_shared(
    visit: Visitor, address: str, width: int, camera: Camera
):
    page = visit(address, width=width)
    count_says(page, "320 features; rows 1 to 100")
    assert shown_features(page) == list(range(100))
    assert fits(page)
    camera(page, f"table-{width}")

    order = by_maximum()
    page.get_by_role("button", name="maximum", exact=True).click()
    assert page.get_by_role("columnheader", name="maximum", exact=True).get_attribute("aria-sort") == "descending"
    assert shown_features(page) == order[:100]
    page.get_by_role("button", name="Next page").click()
    assert shown_features(page) == order[100:200]
    page.go_back()
    page.locator("#features tbody th").first.get_by_text(str(order[0]), exact=True).wait_for()

    page.get_by_role("link", name=str(order[0]), exact=True).click()
    heading(page, f"Feature {order[0]}")
    assert fits(page)
    page.locator(".chart .main-svg").first.wait_for()
    camera(page, f"feature-{width}", whole=True)
    page.keyboard.press("ArrowRight")
    heading(page, f"Feature {order[1]}")
    page.keyboard.press("ArrowRight")
    heading(page, f"Feature {order[2]}")
    page.keyboard.press("ArrowLeft")
    heading(page, f"Feature {order[1]}")

    shared = visit(address, page.url.removeprefix(f"{address}/features.html"), width)
    heading(shared, f"Feature {order[1]}")
    for each in (shared, page):
        each.locator(".chart .main-svg").first.wait_for()
    assert shared.locator("#feature-view").inner_text() == page.locator("#feature-view").inner_text()
    shared.keyboard.press("Escape")
    shared.locator("#features tbody th").first.wait_for()
    assert shown_features(shared) == order[:100]

    shared.goto(f"{address}/features.html#{TIDY.slug}/{order[99]}?sort=-maximum")
    heading(shared, f"Feature {order[99]}")
    shared.keyboard.press("ArrowRight")
    heading(shared, f"Feature {order[100]}")
    shared.keyboard.press("Escape")  # to the page of the table that has it
    shared.locator("#features tbody th").first.get_by_text(str(order[100]), exact=True).wait_for()
    assert shown_features(shared) == order[100:200]

    page.go_back()
    heading(page, f"Feature {order[2]}")
    page.go_forward()
    heading(page, f"Feature {order[1]}")

    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"
    page.keyboard.type("documentation")
    explained = [feature for feature in order if feature in TIDY.explanations]
    count_says(page, f"{len(explained)} of 320 features")
    assert shown_features(page) == explained[:100]
    page.keyboard.press("Enter")
    heading(page, f"Feature {explained[0]}")
    page.keyboard.press("ArrowRight")
    heading(page, f"Feature {explained[1]}")


def test_filters_leave_what_they_say(visit: Visitor, address: str, camera: Camera):
    page = visit(address)
    count_says(page, "320 features")
    page.get_by_label("alive only").check()
    count_says(page, f"{320 - len(TIDY.dead)} of 320 features")
    page.get_by_label("has an explanation").check()
    count_says(page, f"{len(TIDY.explanations)} of 320 features")
    page.get_by_text("Filter by numbers").click()
    page.get_by_label("minimum of maximum").fill("5")
    page.get_by_label("maximum of maximum").fill("8.5")
    wanted = [feature for feature in TIDY.explanations if 5 <= (TIDY.maximum[feature] or 0) <= 8.5]
    count_says(page, f"{len(wanted)} of 320 features")
    assert shown_features(page) == wanted[:100]
    camera(page, "filters")
    again = visit(address, page.url.removeprefix(f"{address}/features.html"))
    count_says(again, f"{len(wanted)} of 320 features")
    assert again.get_by_label("maximum of maximum").input_value() == "8.5"
    again.get_by_role("button", name="Clear all").click()
    count_says(again, "320 features")
    again.get_by_role("searchbox").fill("nothing is like this")
    count_says(again, "None of the 320 features is like that")


def test_two_columns_are_plotted_and_a_point_opens_its_feature(visit: Visitor, address: str, camera: Camera):
    page = visit(address)
    page.get_by_text("Plot two columns").click()
    page.get_by_label("across").select_option("maximum")
    scored = len(TIDY.explanations) - 2
    page.get_by_text(f"{scored} features that have both numbers").wait_for()
    shared = visit(address, page.url.removeprefix(f"{address}/features.html"))
    shared.locator("#scatter .point").first.wait_for()
    assert shared.locator("#scatter .point").count() == scored
    camera(shared, "scatter")
    where = shared.locator("#scatter .point").first.bounding_box()
    assert where is not None
    shared.mouse.move(where["x"] + where["width"] / 2, where["y"] + where["height"] / 2)
    shared.wait_for_timeout(200)  # Plotly looks for what is under the pointer now and then
    shared.mouse.click(where["x"] + where["width"] / 2, where["y"] + where["height"] / 2)
    shared.get_by_role("heading", level=1, name=re.compile("Feature [0-9]+")).wait_for()


def test_a_token_tells_its_value_to_the_pointer_and_to_the_keyboard(visit: Visitor, address: str, camera: Camera):
    page = visit(address, f"#{TIDY.slug}/3")
    peak = page.locator(".contexts").last.locator(".peak").first
    peak.hover()
    readout = page.locator("#readout")
    readout.wait_for()
    assert re.search(r"value\s+[\d.]+\s+loss effect\s+(-?[\d.e-]+ nats|— \()", readout.inner_text())
    camera(page, "hover")
    page.mouse.move(0, 0)
    readout.wait_for(state="hidden")

    page.get_by_role("button", name="The whole fragment").first.focus()
    page.keyboard.press("Shift+Tab")
    first = readout.inner_text()
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "readout"
    page.keyboard.press("ArrowLeft")
    assert readout.inner_text() != first
    heading(page, "Feature 3")
    page.keyboard.press("Escape")
    readout.wait_for(state="hidden")
    heading(page, "Feature 3")

    fragment = page.locator(".contexts li").first
    cut = fragment.locator(".token").count()
    fragment.get_by_role("button").click()
    assert cut < fragment.locator(".token").count() == 64
    page.get_by_label("whole fragments").check()
    counts = [item.locator(".token").count() for item in page.locator(".contexts li").all()]
    assert set(counts) == {64}

    page.locator(".token").nth(5).click()  # who clicks on a token still turns the pages with the arrows
    page.keyboard.press("ArrowRight")
    heading(page, "Feature 4")


def test_a_feature_leads_to_where_it_can_be_tried_unless_it_is_in_a_file(visit: Visitor, address: str):
    page = visit(address, f"#{TIDY.slug}/3")
    heading(page, "Feature 3")
    there = [link.get_attribute("href") for link in page.get_by_role("link", name="try it", exact=True).all()]
    assert there == ([] if address.startswith("file:") else [f"try.html#{TIDY.slug}/3"])


def test_what_is_missing_says_why(visit: Visitor, address: str, camera: Camera):
    dead = min(TIDY.dead)
    page = visit(address, f"#{TIDY.slug}/{dead}")
    heading(page, f"Feature {dead}")
    camera(page, "dead")
    dashes = page.locator("#feature-view abbr", has_text="—").all()
    assert len(dashes) >= 6
    assert all(dash.get_attribute("title") for dash in dashes)
    page.keyboard.press("Escape")
    row = page.locator(f"tr[data-feature='{dead}']")
    row.wait_for()
    titles = [dash.get_attribute("title") for dash in row.locator("abbr").all()]
    assert "never fires on held-out text" in titles
    assert all(titles)


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("#nothing-like-it/3", "This report has no dictionary 'nothing-like-it'"),
        ("#%", "This report has no dictionary '%'"),
        (f"#{TIDY.slug}/320", "which has 320: 0 to 319"),
        (f"#{TIDY.slug}/999999999999999999999", "There is no feature 1e+21"),
        ("#<img src=x onerror=alert(1)>", "no dictionary '<img src=x onerror=alert(1)>'"),
    ],
)
def test_a_url_of_what_is_not_there_says_what_is(visit: Visitor, address: str, shown: str, said: str):
    page = visit(address, shown)
    page.get_by_role("alert").get_by_text(said).wait_for()
    assert page.get_by_role("alert").count() == 1
    page.get_by_role("alert").get_by_role("link").first.click()
    count_says(page, "320 features")


def test_a_site_that_was_not_copied_whole_says_what_is_missing(browser: "Browser", site: Path, tmp_path: Path):
    torn = shutil.copytree(site, tmp_path / "site", ignore=shutil.ignore_patterns("relu*"))
    (torn / "browse" / TIDY.slug / "shards" / "0001.js").unlink()
    whole = (torn / "browse" / TIDY.slug / "shards" / "0002.js").read_text()
    (torn / "browse" / TIDY.slug / "shards" / "0002.js").write_text(whole[: len(whole) // 2])
    visit = Visitor(browser)
    page = visit(torn.as_uri(), f"#{TIDY.slug}/64")
    page.get_by_role("alert").get_by_text("shards/0001.js cannot be loaded").wait_for()
    assert page.get_by_role("alert").count() == 1
    page = visit(torn.as_uri(), f"#{TIDY.slug}/128")
    page.get_by_role("alert").get_by_text("shards/0002.js holds no data").wait_for()
    page = visit(torn.as_uri(), f"#{LARGE.slug}")
    page.get_by_role("alert").get_by_text("cannot be loaded").wait_for()


@pytest.mark.parametrize("width", SIZES)
def test_hostile_text_is_seen_as_text(visit: Visitor, address: str, width: int, camera: Camera):
    page = visit(address, f"#{BAD.slug}", width)
    page.locator("#features tbody tr").first.wait_for()
    for text in HOSTILE[:10]:
        assert text in page.locator("main").inner_text()
    assert page.locator("#features thead").get_by_text("score").count() == 2  # of two studies
    camera(page, f"table-{width}")
    harmless(page)
    page.get_by_text("Plot two columns").click()
    page.get_by_label("across").select_option(BAD.said("score"))
    page.locator("#scatter .point").first.wait_for()
    harmless(page)
    camera(page, f"plot-{width}")
    page.get_by_text("Plot two columns").click()
    page.get_by_role("searchbox").fill("<script>alert(1)")
    count_says(page, " of 128 features")
    assert 0 in shown_features(page)
    for feature in (0, 1, 36, 61):
        page.goto(f"{address}/features.html#{BAD.slug}/{feature}")
        heading(page, f"Feature {feature}")
        page.get_by_label("whole fragments").check()
        page.locator(".peak").first.hover()
        page.locator("#readout").wait_for()
        page.locator(".chart .main-svg").first.wait_for()
        of_studies = page.locator(".explanation").all_inner_texts()[0]
        assert all(of_studies.count(title) == 1 for title in STUDIES)
        assert of_studies.count("0.6123") == 2  # the scores of both, beside one text and one reason
        assert of_studies.count("the server gave no answer") == 1
        harmless(page)
        camera(page, f"feature-{width}-{feature}")
    assert "W" * 10_240 in page.locator("main").inner_text()


def harmless(page: "Page") -> None:
    """No element came of text, nothing turns the direction of what is around it, and nothing is invisible."""
    assert page.locator("main :is(script, img, textarea, title, svg:not(.main-svg), [onload])").count() == 0
    assert page.evaluate("document.querySelectorAll('[onerror], [href^=javascript]').length") == 0
    seen = page.locator("main").inner_text()
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]", seen
    )
    assert all(name == "ltr" for name in page.eval_on_selector_all(".token, .word", "all => all.map(each => each.dir)"))
    assert fits(page)


def test_a_hundred_thousand_features_stay_smooth(visit: Visitor, address: str, camera: Camera):
    page = visit(address, f"#{LARGE.slug}")
    count_says(page, "100,000 features")
    painted = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    page.get_by_role("button", name="maximum", exact=True).click()
    page.get_by_role("button", name="kurtosis", exact=True).click()
    page.get_by_role("searchbox").fill("the")
    count_says(page, " of 100,000 features")
    camera(page, "large")
    page.goto(f"{address}/features.html#{LARGE.slug}/1")
    for feature in range(2, 60, 3):
        page.evaluate(f"location.hash = '#{LARGE.slug}/{feature}'")
        heading(page, f"Feature {feature}")
        page.wait_for_timeout(100)
    page.locator(".chart .main-svg").first.wait_for()
    took = page.evaluate("""Object.groupBy(performance.getEntriesByType('measure'), each => each.name)""")
    times = {name: [each["duration"] for each in entries] for name, entries in took.items()}
    print({name: [round(each) for each in values] for name, values in times.items()}, "first paint", round(painted))
    assert painted < 1500
    assert max(times["sort"]) < 200
    assert max(times["select"]) < 200
    assert statistics.median(times["feature"]) < 200


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", SIZES)
def test_axe_finds_no_serious_violation(visit: Visitor, served: str, theme: str, width: int, camera: Camera):
    from axe_playwright_python.sync_playwright import Axe

    views = {
        "table": (f"#{TIDY.slug}?min.maximum=1&x=density&y=score", "#scatter .point"),
        "feature": (f"#{TIDY.slug}/0", ".chart .main-svg"),
        "dead": (f"#{TIDY.slug}/{min(TIDY.dead)}", ".note"),
        "hostile": (f"#{BAD.slug}/3", ".chart .main-svg"),
        "nothing": ("#nothing", ".note"),
    }
    for name, (shown, there) in views.items():
        if width == 400 and name not in ("table", "feature"):
            continue
        page = visit(served, shown, width, theme)
        page.locator(there).first.wait_for()
        if name == "feature":
            page.locator(".peak").first.hover()
        camera(page, f"{name}-{theme}-{width}")
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [
            (each["id"], each["nodes"][0]["target"], each["nodes"][0]["failureSummary"])
            for each in found
            if each["impact"] in ("serious", "critical")
        ]
        assert serious == [], f"{name}, {theme}, {width}"


def test_the_theme_changes_the_chart_and_is_kept(visit: Visitor, address: str):
    page = visit(address, f"#{TIDY.slug}/0")
    colour = "getComputedStyle(document.querySelector('.chart .xtick text')).fill"
    page.locator(".chart .xtick text").first.wait_for()
    light = page.evaluate(colour)
    page.get_by_role("button", name="Dark").click()
    page.wait_for_function(f"{colour} !== '{light}'")
    page.get_by_role("button", name="log scale").click()
    page.wait_for_function("document.querySelector('.chart')._fullLayout.yaxis.type === 'log'")
    page.reload()
    page.get_by_role("button", name="Light").wait_for()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
