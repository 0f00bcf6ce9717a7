"""The deployments: prefect.yaml says the same as the code, forms take what they are given, schedules yield runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.utilities.callables import parameter_schema

from flows.deployments import deploy, job_environment, offers, prefect_yaml, schedule_of
from flows.parameters import ExperimentConfig, presets
from tasks.errors import ExperimentError
from tasks.specs import ICASpec, IdentitySpec, NMFSpec, PCASpec, RandomSpec
from tests.flows.services import prefect_server_process, wait_until
from tests.tasks.test_train import METHODS

ROOT = Path(__file__).parents[2]


def test_prefect_yaml_is_what_the_code_writes():
    assert (ROOT / "prefect.yaml").read_text() == prefect_yaml(), "run `python -m flows.deployments > prefect.yaml`"


def test_every_preset_and_every_flow_is_deployed():
    names = {f"{offer.entrypoint.rpartition('.')[2]}/{offer.name}" for offer in offers()}
    assert names == {f"experiment/{name}" for name in presets()} | {
        f"{flow}/quickstart" for flow in ("harvest", "train", "evaluate", "retrain")
    } | {"compare/runs"}


def test_experiments_of_a_person_are_retrained_on_the_schedule_and_the_quickstart_without_any(
    tmp_path: Path, tiny_experiment: dict[str, Any]
):
    def file(name: str, **changes: Any) -> str:
        (tmp_path / name).write_text(yaml.safe_dump({**tiny_experiment, "name": name, **changes}))
        return str(tmp_path / name)

    def retrainings(*experiments: str) -> dict[str, bool]:
        return {each.name: each.scheduled for each in offers(experiments) if each.entrypoint == "flows.retrain.retrain"}

    baselines, elsewhere = file("baselines", dictionaries=[]), file("far", compute={"train_deployment": "train/far"})
    assert retrainings() == {"quickstart": True}
    assert retrainings(file("mine"), baselines, elsewhere) == {"quickstart": False, "mine": True}
    with pytest.raises(ExperimentError, match="nothing to retrain on a schedule"):
        deploy([baselines], schedule=schedule_of(None, 60))


@pytest.mark.parametrize("offer", offers(), ids=lambda offer: f"{offer.entrypoint}-{offer.name}")
def test_a_form_accepts_what_it_starts_with(offer: Any):
    schema = parameter_schema(load_flow_from_entrypoint(offer.entrypoint)).model_dump_for_openapi()
    jsonschema.validate(dict(offer.parameters), schema)


def test_the_form_opens_the_tab_of_the_method_and_its_menu_holds_it():
    """The Prefect UI opens the first tab that shares the most names of fields with the value."""
    tabs = ExperimentConfig.model_json_schema()["properties"]
    baselines = [spec().model_dump() for spec in (PCASpec, ICASpec, NMFSpec, RandomSpec, IdentitySpec)]
    for field, values in (("dictionaries", [spec.model_dump() for spec in METHODS]), ("baselines", baselines)):
        offered = tabs[field]["items"]["anyOf"]
        for value in values:
            shared = [len(value.keys() & tab["properties"].keys()) for tab in offered]
            opened = offered[shared.index(max(shared))]
            assert value["method"] in opened["properties"]["method"]["enum"]
            assert value.keys() == opened["properties"].keys()
            jsonschema.validate(json.loads(json.dumps(value)), opened)


def test_every_field_of_the_form_says_what_it_is():
    def undescribed(schema: dict[str, Any], where: str) -> Iterator[str]:
        for name, field in schema.get("properties", {}).items():
            if "description" not in field and "$ref" not in field and name not in ("method", "evaluation"):
                yield f"{where}.{name}"
            for tab in field.get("items", {}).get("anyOf", ()) if isinstance(field.get("items"), dict) else ():
                yield from undescribed(tab, f"{where}.{name}.{tab['title']}")

    schema = ExperimentConfig.model_json_schema()
    nested = {name: part for name, part in schema["$defs"].items() if not name.endswith(("ReLUSpec", "KSpec"))}
    missing = [*undescribed(schema, "config")]
    missing += [each for name, part in nested.items() for each in undescribed(part, name)]
    assert missing == []


def test_a_run_finds_the_home_of_whoever_deployed_and_no_credentials():
    told = {"SAEFLOW_HOME": "/data/sae", "PREFECT_RESULTS_LOCAL_STORAGE_PATH": "/data/sae/records", "AWS_SECRET": "s"}
    environment = job_environment(told)
    assert environment["SAEFLOW_HOME"] == "/data/sae"
    assert environment["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] == "/data/sae/records"
    assert environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert "AWS_SECRET" not in environment
    assert "PREFECT_RESULTS_LOCAL_STORAGE_PATH" not in job_environment({**told, "SAEFLOW_HOME": "s3://bucket"})


def test_a_schedule_is_either_cron_or_an_interval():
    assert schedule_of(None, None) is None
    with pytest.raises(ValueError, match="not both"):
        schedule_of("0 6 * * *", 60)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_schedule_yields_runs_and_deploying_again_changes_nothing_else(
    tmp_path: Path, tiny_experiment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAEFLOW_HOME", str(tmp_path / "home"))
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump({**tiny_experiment, "name": "mine"}))
    with prefect_server_process(tmp_path) as server, temporary_settings({PREFECT_API_URL: server.api}):
        names = deploy([str(mine)], schedule=schedule_of(None, 60))
        assert {"experiment/mine", "experiment/quickstart", "retrain/quickstart", "retrain/mine"} <= set(names)
        with get_client(sync_client=True) as client:
            assert client.read_deployment_by_name("retrain/quickstart").schedules == []
            retrain = client.read_deployment_by_name("retrain/mine")
            assert retrain.concurrency_options is not None
            assert (retrain.global_concurrency_limit and retrain.global_concurrency_limit.limit) == 1
            assert retrain.entrypoint == "flows.retrain.retrain"
            assert not retrain.pull_steps
            assert retrain.work_pool_name == "saeflow"
            assert retrain.job_variables["env"]["SAEFLOW_HOME"] == str(tmp_path / "home")
            wait_until(lambda: len([run for run in client.read_flow_runs() if run.auto_scheduled]) >= 2, 120)
        deploy([str(mine)])
        deploy([str(mine)], schedule=schedule_of(None, 120))
        with get_client(sync_client=True) as client:
            again = client.read_deployment_by_name("retrain/mine")
            assert again.id == retrain.id
            assert [schedule.schedule.interval.total_seconds() for schedule in again.schedules] == [120]
            experiments = client.read_deployment_by_name("experiment/mine")
            assert experiments.schedules == []
