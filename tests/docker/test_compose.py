"""The compose files: valid by the specification's schema, and whole: no engine is asked."""

import json
import os
import re
import runpy
import shlex
import urllib.error
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from tests.docker.test_image import ROOT, TEXT, instructions, unknown_settings

DOCKER = ROOT / "docker"
FILES = {name: yaml.safe_load((DOCKER / name).read_text()) for name in ("compose.yaml", "compose.cuda.yaml")}
SERVICES: dict[str, dict[str, Any]] = FILES["compose.yaml"]["services"]
EXAMPLE = dict(
    line.split("=", 1) for line in (DOCKER / ".env.example").read_text().splitlines() if line and line[0] != "#"
)
VARIABLE = re.compile(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}")
ONE_SHOT = {"bucket", "deploy"}
OURS = [name for name, service in SERVICES.items() if "SAEFLOW_IMAGE" in service["image"]]


def text(name: str) -> str:
    """A compose file without its comments."""
    return re.sub(r"^\s*#.*$", "", (DOCKER / name).read_text(), flags=re.MULTILINE)


def filled_in(value: str) -> str:
    """As compose does it, with .env.example as the environment."""
    return VARIABLE.sub(lambda match: EXAMPLE[match[1]] or f"secret of {match[1]}", value)


def problems(document: object) -> list[str]:
    """What the specification's schema says against a compose file."""
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    return [error.message for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(document)]


@pytest.mark.parametrize("name", FILES)
def test_it_is_valid_by_the_schema_of_the_specification(name: str) -> None:
    assert problems(yaml.safe_load(filled_in(text(name)))) == []


def test_the_schema_refuses_what_is_not_a_compose_file() -> None:
    assert problems({"services": {"worker": {"image": "x", "helthcheck": {}}}})


def test_every_service_waits_for_services_that_exist_and_can_be_what_it_waits_for() -> None:
    for name, service in SERVICES.items():
        for other, wait in service.get("depends_on", {}).items():
            assert other in SERVICES, name
            assert (wait["condition"] == "service_completed_successfully") == (other in ONE_SHOT), name
            if wait["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other], name


def test_no_services_wait_for_each_other() -> None:
    started: set[str] = set()
    while started != set(SERVICES):
        ready = {name for name, each in SERVICES.items() if set(each.get("depends_on", {})) <= started}
        assert ready > started, f"these wait in a circle: {set(SERVICES) - started}"
        started = ready


def test_what_runs_for_long_has_a_health_check_and_is_started_again() -> None:
    for name, service in SERVICES.items():
        assert ("healthcheck" in service) == (name not in ONE_SHOT), name
        assert service["restart"] == ("on-failure:5" if name in ONE_SHOT else "unless-stopped"), name


@pytest.mark.parametrize("name", FILES)
def test_every_image_has_a_version(name: str) -> None:
    for service, parts in FILES[name]["services"].items():
        if "image" in parts:
            image, _, tag = filled_in(parts["image"]).rpartition(":")
            assert image, service
            assert tag not in ("", "latest"), service


@pytest.mark.parametrize("name", FILES)
def test_every_variable_is_in_the_example_with_the_default_that_it_has(name: str) -> None:
    for variable, kind, rest in VARIABLE.findall(text(name)):
        assert kind, f"{variable}: give a default or refuse to start without it"
        assert EXAMPLE[variable] == (rest if kind == ":-" else ""), variable
    assert "$" not in VARIABLE.sub("", text(name))


def test_the_example_names_nothing_that_is_not_used() -> None:
    used = {found[0] for name in FILES for found in VARIABLE.findall(text(name))}
    assert set(EXAMPLE) == used


def test_no_secret_has_a_default() -> None:
    secret = re.compile("PASSWORD|SECRET|KEY|AUTH")
    for found in [*VARIABLE.findall(text("compose.yaml")), *VARIABLE.findall(text("compose.cuda.yaml"))]:
        assert bool(secret.search(found[0])) == (found[1] == ":?"), found[0]
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            assert not secret.search(key) or value.startswith("${"), f"{name}: {key}"


def test_git_does_not_see_the_secrets() -> None:
    assert ".env" in (DOCKER / ".gitignore").read_text().splitlines()


def test_nothing_is_privileged_and_ports_are_for_this_machine() -> None:
    for name, service in SERVICES.items():
        assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "user"} & set(service), name
        if name in OURS:
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
        for port in service.get("ports", []):
            assert filled_in(port).startswith("127.0.0.1:"), name
        for mount in service.get("volumes", []):
            assert mount.split(":")[0] in FILES["compose.yaml"]["volumes"], f"{name}: a named volume"


def test_volumes_of_ours_are_where_the_image_lets_its_user_write() -> None:
    writable = re.search(r"install --directory --owner=saeflow --group=saeflow (.*)", TEXT)
    assert writable
    for name in OURS:
        for mount in SERVICES[name].get("volumes", []):
            assert mount.split(":")[1] in writable[1].split(), name


def test_environments_name_settings_that_exist() -> None:
    for name in OURS:
        assert unknown_settings(SERVICES[name].get("environment", {})) == [], name


def test_the_image_is_built_from_the_dockerfile() -> None:
    build = SERVICES["server"]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()
    assert set(build["args"]) <= {argument.split("=")[0] for argument in instructions("ARG")}


def test_the_cuda_file_changes_every_service_of_ours() -> None:
    changed = FILES["compose.cuda.yaml"]["services"]
    assert set(changed) == set(OURS)
    assert len({service["image"] for service in changed.values()}) == 1
    assert changed["server"]["build"]["args"] == {"VARIANT": "cuda"}
    assert changed["worker"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", OURS)
def test_its_command_exists_and_takes_these_options(name: str) -> None:
    parse(SERVICES[name].get("entrypoint", ["saeflow"]), SERVICES[name]["command"])


@pytest.mark.parametrize(
    ("entrypoint", "command"),
    [
        (["saeflow"], ["deplay"]),
        (["saeflow"], ["presets", "--prot", "1"]),
        (["prefect"], ["server", "strat"]),
        (["prefect"], ["worker", "start", "--pol", "saeflow"]),
        (["python", "/opt/saeflow/lib/create_buckets.py"], []),
    ],
)
def test_a_misspelt_command_is_noticed(entrypoint: list[str], command: list[str]) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        parse(entrypoint, command)
    assert not isinstance(caught.value, NotImplementedError)


def parse(entrypoint: list[str], command: list[str]) -> None:
    """Raises when the program would not take these words. Nothing is run."""
    if entrypoint == ["saeflow"]:
        from flows.cli import app

        group = typer.main.get_group(app)
        assert command[0] in group.commands, f"saeflow has no command {command[0]!r}"
        group.commands[command[0]].make_context(command[0], list(command[1:]))
    elif entrypoint == ["prefect"]:
        from prefect.cli._app import _app as prefect

        prefect.parse_args(command, exit_on_error=False, print_error=False)
    elif entrypoint[0] == "python":
        there = dict(reversed(words.split()) for words in instructions("COPY") if len(words.split()) == 2)
        assert (ROOT / there[entrypoint[1]]).is_file()
    else:
        raise NotImplementedError(entrypoint)


def test_health_checks_ask_their_own_service() -> None:
    asked = {
        "server": "127.0.0.1:4200/api/health",
        "worker": "127.0.0.1:8080/health",
        "reports": "127.0.0.1:4201/health",
        "objects": "127.0.0.1:8333/healthz",
    }
    for name, address in asked.items():
        assert address in shlex.join(SERVICES[name]["healthcheck"]["test"])
    assert "--with-healthcheck" in SERVICES["worker"]["command"]
    assert SERVICES["objects"]["environment"].keys() <= SERVICES["worker"]["environment"].keys()
    assert SERVICES["worker"]["environment"]["AWS_ENDPOINT_URL"] == "http://objects:8333"


def load_create_bucket() -> dict[str, Any]:
    return runpy.run_path(str(DOCKER / "create_bucket.py"))


def test_the_bucket_is_created_once_and_found_afterwards(bucket: str) -> None:
    from obstore.store import S3Store

    create_bucket = load_create_bucket()["create_bucket"]
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    assert create_bucket("s3://quite-new/home", endpoint) == "quite-new"
    store = S3Store("quite-new", endpoint=endpoint, client_options={"allow_http": True})
    store.put("a", b"kept")
    assert create_bucket("s3://quite-new/home", endpoint) == "quite-new"
    assert store.get("a").bytes().to_bytes() == b"kept"


def test_a_bucket_that_the_store_refuses_is_an_error(bucket: str) -> None:
    with pytest.raises(urllib.error.HTTPError):
        load_create_bucket()["create_bucket"]("s3://No_Bucket!/home", os.environ["AWS_ENDPOINT_URL"])


def test_secrets_are_asked_for_where_they_are_needed() -> None:
    assert SERVICES["server"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?")
    for name in ("deploy", "worker"):
        assert SERVICES[name]["environment"]["PREFECT_API_AUTH_STRING"].startswith("${PREFECT_AUTH:?")
