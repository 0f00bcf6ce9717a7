"""`saeflow up` is ended and started again, in the middle of a run."""

from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.flows.services import service_running
from tests.services.conftest import Deployed

pytestmark = [pytest.mark.services, pytest.mark.timeout(1500)]


def test_a_run_under_way_goes_on_when_all_of_it_is_started_again(
    killable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    service = service_running(tmp_path / "home", "--experiment", str(killable))
    with service as where, temporary_settings({PREFECT_API_URL: where.api}):
        deployed = Deployed(killable, where.home, monkeypatch)
        run = deployed.start()
        deployed.wait_for_training()
    with service as where, temporary_settings({PREFECT_API_URL: where.api}):
        ended = deployed.wait_for_end(run)
        assert ended.state_name == "Completed", deployed.states(run.id)
        assert ended.run_count == 2
