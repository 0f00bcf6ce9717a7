"""What a person does in the Prefect UI: fill the form, run, look at the table and the report, run again."""

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.browser.conftest import Camera, Service

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def open_form(page: "Page", service: Service, deployment: str = "tiny") -> None:
    page.goto(service.prefect)
    page.get_by_role("link", name="Deployments").click()
    page.get_by_placeholder("Search deployments").fill(deployment)  # the list shows ten at a time
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run").first.click()
    page.get_by_text("Custom run").click()
    page.get_by_text("Hook Points").wait_for()


def holding(page: "Page", value: str) -> "Locator":
    """The field that holds a value."""
    fields = page.locator("textarea, input")
    return next(fields.nth(index) for index in range(fields.count()) if fields.nth(index).input_value() == value)


def submit(page: "Page", service: Service) -> dict[str, Any]:
    """Submit the form, wait for the run to end, and return it."""
    before = {run["id"] for run in runs(service)}
    page.get_by_role("button", name="Submit").click()
    limit = time.monotonic() + 240
    while time.monotonic() < limit:
        new = [run for run in runs(service) if run["id"] not in before]
        if new and new[0]["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return new[0]
        time.sleep(1)
    raise AssertionError("the run did not end")


def open_artifact(page: "Page", service: Service, key: str) -> None:
    """Open the newest version of an artifact."""
    page.goto(f"{service.prefect}/v2/artifacts/key/{key}")
    page.locator("a[href*='/artifacts/artifact/']").first.click()


def runs(service: Service) -> list[dict[str, Any]]:
    answer = httpx.post(f"{service.api}/flow_runs/filter", json={"sort": "START_TIME_DESC"}, timeout=30)
    return answer.raise_for_status().json()


def task_states(service: Service, run: dict[str, Any]) -> dict[str, str]:
    """The last states of a run's tasks, which the server records a few seconds late."""
    wanted = {"flow_runs": {"id": {"any_": [run["id"]]}}, "limit": 200}
    limit = time.monotonic() + 60
    while True:
        answer = httpx.post(f"{service.api}/task_runs/filter", json=wanted, timeout=30).raise_for_status()
        states = {task["name"]: task["state_name"] for task in answer.json()}
        if (states and not {"Running", "Pending"} & set(states.values())) or time.monotonic() > limit:
            return states
        time.sleep(1)


def test_an_experiment_is_run_from_its_form_and_found_when_it_is_run_again(
    page: "Page", service: Service, camera: Camera
):
    open_form(page, service)
    holding(page, "blocks.2.mlp.hook_post").fill("blocks.0.hook_resid_post")
    page.get_by_label("K (Optional)").first.fill("3")
    camera(page, "form", whole=True)
    run = submit(page, service)
    assert run["state_type"] == "COMPLETED", run["state"]["message"]
    assert run["parameters"]["config"]["hook_points"] == ["blocks.1.hook_resid_post", "blocks.0.hook_resid_post"]
    assert run["parameters"]["config"]["dictionaries"][1]["k"] == 3
    assert {"saeflow", "experiment"} <= set(run["tags"])
    assert set(task_states(service, run).values()) == {"Completed"}

    page.goto(f"{service.prefect}/v2/runs/flow-run/{run['id']}")
    page.get_by_text("Completed").first.wait_for()
    camera(page, "run")
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("tiny-dictionaries").first.wait_for()
    camera(page, "artifacts")
    open_artifact(page, service, "tiny-dictionaries")
    page.get_by_text("blocks.0.hook_resid_post").first.wait_for()
    camera(page, "table")
    assert "k=3" in page.locator("body").inner_text()

    open_artifact(page, service, "tiny-report")
    page.get_by_text("Open the report").first.wait_for()
    camera(page, "report-link")
    link = page.get_by_role("link", name="Open the report").first.get_attribute("href")
    assert link is not None
    assert link.startswith(f"{service.reports}/report/")
    page.goto(link)
    page.get_by_role("heading", name="Dictionaries").wait_for()
    camera(page, "report")
    assert "blocks.0.hook_resid_post" in page.locator("body").inner_text()
    page.goto(service.reports)
    page.get_by_role("link", name="json").wait_for()
    camera(page, "index")

    open_form(page, service)
    holding(page, "blocks.2.mlp.hook_post").fill("blocks.0.hook_resid_post")
    page.get_by_label("K (Optional)").first.fill("3")
    again = submit(page, service)
    assert again["state_type"] == "COMPLETED", again["state"]["message"]
    states = task_states(service, again)
    assert set(states.values()) == {"Cached"}, states
    page.goto(f"{service.prefect}/v2/runs/flow-run/{again['id']}")
    page.get_by_role("tab", name="Task Runs").click()
    page.get_by_text("Cached").first.wait_for()
    camera(page, "again")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("Tokens (Optional)", "-5", "-5 is less than or equal to the minimum of 0"),
        ("Name", "not a name", "'not a name' does not match"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_the_form(
    page: "Page", service: Service, camera: Camera, field: str, value: str, said: str
):
    open_form(page, service)
    page.get_by_label(field, exact=True).fill(value)
    before = len(runs(service))
    page.get_by_role("button", name="Submit").click()
    page.get_by_text(said).first.wait_for()
    camera(page, "refused")
    assert len(runs(service)) == before


def test_fields_that_do_not_go_together_fail_the_run_with_a_message(page: "Page", service: Service, camera: Camera):
    open_form(page, service)
    page.get_by_label("Lr Warmup (Optional)", exact=True).fill("0.9")
    run = submit(page, service)
    page.goto(f"{service.prefect}/v2/runs/flow-run/{run['id']}")
    page.get_by_text("Failed").first.wait_for()
    page.get_by_role("tab", name="Details").click()
    camera(page, "failed")
    assert run["state_type"] == "FAILED"
    assert "lr_warmup=0.9 and lr_decay=0.2 are shares of the same steps" in run["state"]["message"]


def test_a_misspelt_hook_point_fails_the_run_with_the_nearest_ones(page: "Page", service: Service, camera: Camera):
    open_form(page, service)
    holding(page, "blocks.2.mlp.hook_post").fill("blocks.2.mlp.hook_pots")
    run = submit(page, service)
    page.goto(f"{service.prefect}/v2/runs/flow-run/{run['id']}")
    page.get_by_text("Failed").first.wait_for()
    page.get_by_role("tab", name="Details").click()
    camera(page, "misspelt")
    assert run["state_type"] == "FAILED"
    assert "blocks.2.mlp.hook_pots" in run["state"]["message"]
    assert "blocks.2.mlp.hook_post" in run["state"]["message"]
