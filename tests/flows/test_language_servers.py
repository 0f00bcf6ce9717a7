"""Servers of language models are asked by runs that need them, and by nothing else."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.estimates import use_of_servers
from flows.experiment import run_experiment
from flows.language_servers import check_servers
from flows.parameters import ExperimentConfig
from flows.preflight import prepare
from flows.room import ready
from flows.stages import look_up, stages
from flows.why import answers
from tasks.errors import ExperimentError
from tasks.interpret.budget import BudgetSpent
from tests.flows.command import saeflow
from tests.flows.test_interpretability import TOLD, changed
from tests.tasks.interpret.loopback_server import KEY, loopback

LATER = "what it asks a server can be told once its features are read"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def asking(experiment: dict[str, Any], url: str) -> dict[str, Any]:
    """An experiment of two dictionaries, dense enough to be interpreted, whose evaluation asks a server."""
    server = {"explainer": "explaining", "scorer": "scoring", "base_url": url}
    told = {**TOLD, "features": 3, "explainer": "llm", "scorers": ["detection", "fuzzing"], "server": server}
    two = {
        "hook_points": experiment["hook_points"][:1],
        "dictionaries": [{"method": "tied_relu", "expansion": 2, "alpha": 0}],
        "baselines": [{"method": "pca", "k": None}],
    }
    return {**changed(experiment, name="asking"), **two, "evaluations": [told]}


@pytest.fixture
def stories(tiny_corpus: Path, tmp_path: Path) -> str:
    """Documents about as long as two fragments: each gives few, and so there are enough."""
    words = tiny_corpus.read_text().split()
    texts = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    file = tmp_path / "stories.jsonl"
    file.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return str(file)


@pytest.fixture
def nowhere() -> str:
    with loopback() as server:
        return server.url


def test_what_asks_nothing_needs_no_server(tiny_experiment: dict[str, Any], nowhere: str, home: Path):
    config = ExperimentConfig.model_validate(asking(tiny_experiment, nowhere))
    prepared = prepare(config)
    ready(config)
    assert [answer for answer in answers(config) if answer.job.name.startswith("interpretability")]
    check_servers(prepared, "train")
    with pytest.raises(ExperimentError, match="cannot be reached"):
        check_servers(prepared, "evaluate")


def test_a_run_that_would_ask_ends_before_any_work(tiny_experiment: dict[str, Any], nowhere: str, home: Path):
    with pytest.raises(ExperimentError, match="cannot be reached"):
        run_experiment(ExperimentConfig.model_validate(asking(tiny_experiment, nowhere)))
    assert not (home / "tokens").exists()


def test_the_plan_of_an_experiment_says_that_its_server_fails(
    tiny_experiment: dict[str, Any], nowhere: str, home: Path, tmp_path: Path
):
    file = tmp_path / "asking.yaml"
    file.write_text(yaml.safe_dump(asking(tiny_experiment, nowhere)))
    plan = saeflow("check", file, "--home", home)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.count(LATER) == 2, "of both dictionaries"
    assert f"  server  {nowhere} cannot be reached" in plan.stdout


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_what_a_run_asks_is_told_before_and_once_it_is_made_no_server_is_needed(
    tiny_experiment: dict[str, Any], stories: str, home: Path, tmp_path: Path
):
    file = tmp_path / "asking.yaml"
    with loopback() as server:
        parameters = asking(tiny_experiment, server.url)
        parameters["corpus"]["sources"] = [stories]
        file.write_text(yaml.safe_dump(parameters))
        poor = {**parameters, "compute": {**parameters["compute"], "access": {"budget_tokens": 1}}}
        with pytest.raises(BudgetSpent):
            run_experiment(ExperimentConfig.model_validate(poor))
        assert len(list((home / "spending").iterdir())) == 1, "both dictionaries count in one ledger"
        asked = len(server.asked)
        plan = saeflow("check", file, "--home", home)
        assert plan.returncode == 0, plan.stderr
        config = ExperimentConfig.model_validate(parameters)
        uses = [use for stage in stages(prepare(config), look_up) if (use := use_of_servers(stage)) is not None]
        assert len(uses) == 2
        assert all(use in plan.stdout for use in uses)
        assert "server  " not in plan.stdout
        assert LATER not in plan.stdout
        assert len(server.asked) == asked, "but for the shortest question nothing is asked"
        result = run_experiment(config)
        told = [int(use.split(" ")[0].replace(",", "")) for use in uses]
        assert len(server.asked) - asked == sum(told) > 0
    names = [stage["name"] for stage in result["stages"]]
    assert not any(name.startswith("compare ") for name in names), "there is no simulation to compare"
    again = run_experiment(config)
    assert all(stage["cached"] for stage in again["stages"]), "without a server"
    plan = saeflow("check", file, "--home", home)
    assert plan.returncode == 0, plan.stderr
    assert "to do" not in plan.stdout
    assert "server  " not in plan.stdout
