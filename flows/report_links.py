"""Where a person opens a report: on the report server, if there is one, or in the home."""

import os

from tasks.caching import artifacts

REPORTS_URL = "SAEFLOW_REPORTS_URL"
"""The address of the report server, which `saeflow up` sets for the runs that its worker starts."""


def report_url(report: str) -> str:
    """The address of `report/KEY`."""
    server = os.environ.get(REPORTS_URL)
    kind, _, key = report.partition("/")
    if server:
        return f"{server.rstrip('/')}/{kind}/{key}/"
    return f"{artifacts().path(kind, key).absolute().as_uri()}/"
