"""The base job template: what Prefect's Kubernetes worker makes of it is a job that Kubernetes takes."""

import asyncio
import json
import uuid
from typing import Any

import jsonschema
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.utilities.templating import find_placeholders

from tests.docker.test_image import ROOT, environment, instructions, unknown_settings

# Prefect would import this collection at every start of a server or worker: `make test` does not install it.
kubernetes_validate = pytest.importorskip("kubernetes_validate")
worker = pytest.importorskip("prefect_kubernetes.worker")
KubernetesWorker, KubernetesWorkerJobConfiguration = worker.KubernetesWorker, worker.KubernetesWorkerJobConfiguration

pytestmark = pytest.mark.kubernetes

TEMPLATE = json.loads((ROOT / "docker" / "kubernetes-base-job-template.json").read_text())
PROPERTIES: dict[str, dict[str, Any]] = TEMPLATE["variables"]["properties"]


def job(values: dict[str, Any]) -> dict[str, Any]:
    """The job that the worker makes for a run with these job variables."""
    run = FlowRun(id=uuid.uuid4(), flow_id=uuid.uuid4(), name="brave-owl")
    configuration = asyncio.run(KubernetesWorkerJobConfiguration.from_template_and_values(TEMPLATE, values))
    configuration.prepare_for_flow_run(run)
    return configuration.job_manifest


def container(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["spec"]["template"]["spec"]["containers"][0]


def variables(manifest: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container(manifest)["env"]}


def check(manifest: dict[str, Any], version: str = "1.37") -> None:
    pod = manifest["spec"]["template"]["spec"]
    # The worker insists on these two in a place where Kubernetes has none, and ignores them.
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_form_is_a_schema_and_its_defaults_fit_it() -> None:
    jsonschema.Draft202012Validator.check_schema(TEMPLATE["variables"])
    defaults = {name: schema["default"] for name, schema in PROPERTIES.items() if "default" in schema}
    jsonschema.Draft202012Validator(TEMPLATE["variables"]).validate(defaults)
    assert [name for name, schema in PROPERTIES.items() if not (schema["title"] and schema["description"])] == []


def test_every_placeholder_is_a_variable_and_every_variable_is_used() -> None:
    used = {placeholder.name for placeholder in find_placeholders(TEMPLATE["job_configuration"])}
    assert used == set(PROPERTIES)


def test_it_has_every_variable_of_the_workers_own_template_that_our_form_does_not_fix() -> None:
    own = KubernetesWorker.get_default_base_job_template()
    assert set(own["variables"]["properties"]) <= set(PROPERTIES)
    assert set(own["job_configuration"]) == set(TEMPLATE["job_configuration"])


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_the_job_is_valid_with_the_defaults(prefect_server: str, version: str) -> None:
    check(job({}), version)


def test_the_job_is_valid_with_everything_set(prefect_server: str) -> None:
    manifest = job(
        {
            "gpus": 2,
            "cpu_limit": "4",
            "node_selector": {"pool": "gpus"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
            "service_account_name": "saeflow",
            "labels": {"team": "interpretability"},
            "annotations": {"note": "x"},
            "finished_job_ttl": None,
        }
    )
    check(manifest)
    assert container(manifest)["resources"] == {
        "requests": {"cpu": "2", "memory": "8Gi"},
        "limits": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": 2},
    }


def test_without_gpus_and_limits_none_are_asked_for(prefect_server: str) -> None:
    assert container(job({}))["resources"]["limits"] == {"memory": "16Gi"}


def test_it_runs_prefect_although_the_image_would_run_saeflow(prefect_server: str) -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["saeflow"]
    manifest = job({})
    assert container(manifest)["command"] + container(manifest)["args"] == [
        *["/usr/bin/env", "prefect", "flow-run", "execute"],
    ]


def test_what_a_deployment_sets_wins_over_the_pool(prefect_server: str) -> None:
    assert variables(job({"home": "s3://pool/home"}))["SAEFLOW_HOME"] == "s3://pool/home"
    set_by_both = job({"home": "s3://pool/home", "env": {"SAEFLOW_HOME": "s3://deployment/home"}})
    assert [entry["value"] for entry in container(set_by_both)["env"] if entry["name"] == "SAEFLOW_HOME"] == [
        "s3://deployment/home"
    ]
    check(set_by_both)


def test_credentials_come_from_a_secret_and_are_nowhere_else(prefect_server: str) -> None:
    manifest = job({})
    assert container(manifest)["envFrom"] == [{"secretRef": {"name": "saeflow-credentials"}}]
    assert not [name for name in variables(manifest) if "KEY" in name or "SECRET" in name]


def test_it_is_not_root_and_writes_where_the_image_lets_it(prefect_server: str) -> None:
    manifest = job({})
    pod = manifest["spec"]["template"]["spec"]
    user = int(instructions("USER")[-1].split(":")[0])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert {pod["securityContext"][key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {user}
    assert container(manifest)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    mounted = container(manifest)["volumeMounts"][0]["mountPath"]
    assert environment()["SAEFLOW_CACHE"].startswith(mounted)
    assert environment()["HF_HOME"].startswith(mounted)


def test_its_environment_names_settings_that_exist() -> None:
    manifest = TEMPLATE["job_configuration"]["job_manifest"]
    assert unknown_settings(variables(manifest)) == []
