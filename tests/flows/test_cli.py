"""The command as a person runs it: its own process, its exit code, what it prints where."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def saeflow(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, **environment},
        check=False,
    )


def assert_refused(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("saeflow: ")
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("hook_points=[blocks.1.hook_resid_pst]", ["blocks.1.hook_resid_pst", "Nearest: blocks.1.hook_resid_post"]),
        ("hook_points=[blocks.7.hook_resid_post]", ["3 layers"]),
        ("model.source=/no/such/model", ["/no/such/model", "Give a hub id"]),
        ("corpus.tokens=-1", ["corpus.tokens", "greater than 0"]),
        ("corpus.tokens=10000000000000", ["bytes", "are free", "corpus.tokens"]),
        ("corpus.sources=[/dev/null]", ["/dev/null"]),
        ("corpus.context_length=4096", ["reads at most 64 tokens"]),
        ("corpus.tokens=16", ["smaller than one row"]),
        ("dictionaries.1.k=1000", ["k is 1000", "only 64 features"]),
        ("training.batch_size=1000000", ["training.batch_size"]),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tiny_yaml: Path, tmp_path: Path, override: str, parts: list[str]):
    result = saeflow("check", tiny_yaml, "--home", tmp_path / "home", "--set", override)
    assert_refused(result, *parts)
    assert not list((tmp_path / "home").glob("tokens/*"))


def test_run_refuses_as_check_does(tiny_yaml: Path, tmp_path: Path):
    override = "hook_points=[blocks.1.hook_resid_pst]"
    assert_refused(saeflow("run", tiny_yaml, "--home", tmp_path / "home", "--set", override), "Nearest")


def test_an_empty_corpus_is_refused(tiny_yaml: Path, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    override = f"corpus.sources=[{tmp_path / 'empty.txt'}]"
    assert_refused(saeflow("check", tiny_yaml, "--home", tmp_path / "home", "--set", override), "holds no text")


def test_a_home_that_cannot_be_written_is_refused(tiny_yaml: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file" / "home", Path("/proc/home")):
        assert_refused(saeflow("run", tiny_yaml, "--home", home), str(home), "cannot be written", "--home")


def test_presets_are_listed():
    result = saeflow("presets")
    assert result.returncode == 0
    assert "quickstart" in result.stdout
    assert "paper-pythia-70m" in result.stdout


@pytest.mark.slow
def test_a_run_prints_one_json_object_and_the_plan_shows_what_it_made(tiny_yaml: Path, tmp_path: Path, prefect_server: str):
    home = tmp_path / "home"
    result = saeflow("run", tiny_yaml, "--json", SAEFLOW_HOME=str(home), PREFECT_API_URL=prefect_server)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert set(summary) == {"experiment", "home", "report", "stages", "dictionaries"}
    assert summary["experiment"] == "tiny"
    assert Path(summary["home"]) == home
    assert Path(summary["report"]).is_file()
    assert not any(stage["cached"] for stage in summary["stages"])
    assert len(summary["dictionaries"]) == 10
    for entry in summary["dictionaries"]:
        assert {"ref", "path", "hook_point", "method", "params", "l0", "fvu", "dead_fraction"} <= set(entry)
        assert (Path(entry["path"]) / "dictionary.safetensors").is_file()
    assert "harvest  100 %" in result.stderr
    plan = saeflow("check", tiny_yaml, "--home", home)
    assert plan.returncode == 0
    assert plan.stdout.count("\n  made ") == len(summary["stages"])
    assert "to do" not in plan.stdout
    changed = saeflow("check", tiny_yaml, "--home", home, "--set", "dictionaries.1.k=5").stdout
    todo = [line.split(maxsplit=2)[2] for line in changed.splitlines() if line.startswith("  to do")]
    hooks = ("blocks.1.hook_resid_post", "blocks.2.mlp.hook_post")
    assert todo == [*(f"topk expansion=2.0 k=5 {hook}" for hook in hooks)] + [
        *(f"evaluate topk expansion=2.0 k=5 {hook}" for hook in hooks)
    ] + ["report"]
