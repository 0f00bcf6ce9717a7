"""A run of a deployment has to know where its home is."""

import pytest

from flows.deployed_home import check_home
from tasks.errors import ExperimentError


@pytest.mark.parametrize(
    ("home", "message"), [(None, "it has no home"), ("", "it has no home"), ("runs", "'runs', is not a whole path")]
)
def test_a_home_that_would_be_lost_with_the_run_is_refused(
    home: str | None, message: str, monkeypatch: pytest.MonkeyPatch
):
    tell(home, monkeypatch)
    check_home()
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a deployment")
    with pytest.raises(ExperimentError, match=message):
        check_home()


@pytest.mark.parametrize("home", ["/data/sae", "file:///data/sae", "s3://bucket/sae"])
def test_a_home_that_others_find_is_used(home: str, monkeypatch: pytest.MonkeyPatch):
    tell(home, monkeypatch)
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a deployment")
    check_home()


def tell(home: str | None, patch: pytest.MonkeyPatch) -> None:
    if home is None:
        patch.delenv("SAEFLOW_HOME", raising=False)
    else:
        patch.setenv("SAEFLOW_HOME", home)
