"""The Dockerfile: held by hadolint and by what the project says of itself; building it is docker/try_build.sh."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(name: str) -> list[str]:
    """What follows each instruction of this name, continued lines joined."""
    joined = TEXT.replace("\\\n", " ")
    return [line.split(None, 1)[1].strip() for line in joined.splitlines() if line.split(None, 1)[:1] == [name]]


def copied() -> list[str]:
    """The paths that are copied from the project."""
    return [
        source
        for words in map(str.split, instructions("COPY"))
        if not words[0].startswith("--")
        for source in words[:-1]
    ]


def environment() -> dict[str, str]:
    return dict(re.findall(r"(\w+)=(\S+)", " ".join(instructions("ENV"))))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", "--failure-threshold", "style", DOCKERFILE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_what_is_copied_is_there_and_reaches_the_builder() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied()) == let_through
    assert [path for path in copied() if not (ROOT / path).exists()] == []


def test_every_package_is_copied() -> None:
    packages = {pattern.rstrip("*") for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(copied())


def test_what_pip_installs_comes_by_the_lock() -> None:
    installs = re.findall(r"pip install [^;&]*", " & ".join(instructions("RUN")))
    assert len(installs) == 5
    for install in installs:
        assert "--constraint constraints.txt" in install or install.strip().endswith("--no-deps --force-reinstall .")


def test_it_runs_saeflow_and_not_as_root() -> None:
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["saeflow"]
    assert "saeflow" in PROJECT["project"]["scripts"]
    user = instructions("USER")[-1]
    assert re.fullmatch(r"(\d+):\1", user)  # a number: Kubernetes cannot tell who a name is
    assert int(user.split(":")[0]) > 0


def test_its_environment_names_settings_that_exist() -> None:
    assert unknown_settings(environment()) == []


def test_the_trial_is_a_script_that_bash_can_read() -> None:
    subprocess.run(["bash", "-n", ROOT / "docker" / "try_build.sh"], check=True)


def unknown_settings(names: "dict[str, str]") -> list[str]:
    """Those that neither Prefect knows nor our code reads, of the names that begin as theirs do."""
    from prefect.settings.legacy import _get_valid_setting_names
    from prefect.settings.models.root import Settings

    ours = "".join(
        file.read_text() for package in ("flows", "tasks", "storage") for file in (ROOT / package).rglob("*.py")
    )
    known = _get_valid_setting_names(Settings)
    return [
        name
        for name in names
        if (name.startswith("PREFECT_") and name not in known) or (name.startswith("SAEFLOW_") and name not in ours)
    ]


def test_a_misspelt_setting_is_noticed() -> None:
    assert unknown_settings({"PREFECT_SERVER_ANALYTICS_ENABLD": "", "SAEFLOW_HOM_": "", "PATH": ""}) == [
        "PREFECT_SERVER_ANALYTICS_ENABLD",
        "SAEFLOW_HOM_",
    ]
