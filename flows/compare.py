"""Two runs beside each other: what became of the dictionaries, their features and their numbers."""

import json
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.announcements import server_may_fail
from flows.deployed_home import check_home
from flows.report_links import report_url
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.compare import compare_runs, warnings
from tasks.output import outlive_readers
from tasks.progress import artifact_key
from tasks.runs import Run, find_run


@flow(name="compare", flow_run_name="{a} and {b}", validate_parameters=True)
def compare(a: str, b: str) -> dict[str, Any]:
    """Align the dictionaries of two finished experiments, and say what changed.

    Args:
        a: an experiment's name, or report/KEY.
        b: the one to compare it with.
    """
    check_home()
    outlive_readers()
    ref = compare_runs.run(f"compare {a} and {b}", **inputs(a, b))
    url = report_url(str(ref))
    with server_may_fail():
        key, about = artifact_key("compare", f"{a}-{b}"), f"{a} and {b} beside each other"
        if url.startswith("http"):
            create_link_artifact(key=key, link=url, link_text="Open the comparison", description=about)
        else:  # a browser follows no link from the UI to a file
            create_markdown_artifact(key=key, markdown=f"    {url}", description=about)
    return told(ref)


def inputs(a: str, b: str) -> dict[str, Any]:
    """What the step reads of two runs. Raises ExperimentError where one is not there."""
    runs = [find_run(artifacts(), name) for name in (a, b)]
    return {
        "a": runs[0].report,
        "b": runs[1].report,
        "names": tuple(run.name for run in runs),
        "reports": tuple(str(run.report) for run in runs),
        "configs": tuple(map(_config, runs)),
    }


def told(ref: ArtifactRef) -> dict[str, Any]:
    """`{comparison, page, pairs, warnings, …}` of a comparison that was made."""
    store = artifacts()
    notes = store.manifest(ref)["notes"]
    return {"comparison": str(ref), "page": f"{store.path(ref)}/index.html", **notes, "warnings": list(warnings(notes))}


def _config(run: Run) -> str | None:
    return None if run.config is None else json.dumps(run.config, sort_keys=True)
