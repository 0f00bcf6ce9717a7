"""The command as a person runs it: its exit code, what it prints where."""

import json
from pathlib import Path

import pytest

from flows.cli import print_table
from tests.flows.command import assert_refused, saeflow, saeflow_process


def test_a_misspelt_hook_point_is_refused_with_the_nearest_ones(tiny_yaml: Path, tmp_path: Path):
    override = "hook_points=[blocks.1.hook_resid_pst]"
    result = saeflow("run", tiny_yaml, "--home", tmp_path / "home", "--set", override)
    assert_refused(result, "blocks.1.hook_resid_pst", "Nearest: blocks.1.hook_resid_post")
    assert not list((tmp_path / "home").glob("tokens/*"))


def test_a_wrong_parameter_is_refused(tiny_yaml: Path, tmp_path: Path):
    result = saeflow("check", tiny_yaml, "--home", tmp_path / "home", "--set", "corpus.tokens=-1")
    assert_refused(result, "corpus.tokens", "greater than 0")
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_written_is_refused(tiny_yaml: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"
    result = saeflow_process("run", tiny_yaml, "--home", home)
    assert_refused(result, str(home), "cannot be written", "--home")


def test_presets_are_listed():
    result = saeflow_process("presets")
    assert result.returncode == 0
    assert "quickstart" in result.stdout
    assert "paper-pythia-70m" in result.stdout


@pytest.mark.slow
def test_a_run_prints_one_json_object_and_the_plan_shows_what_it_made(tiny_yaml: Path, tmp_path: Path):
    home = tmp_path / "home"
    parameters = (tiny_yaml, "--set", "hook_points=[blocks.2.mlp.hook_post]")
    environment = {"SAEFLOW_HOME": str(home), "PREFECT_HOME": str(tmp_path / "prefect")}
    result = saeflow_process("run", *parameters, "--json", **environment)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert set(summary) == {"experiment", "home", "report", "stages", "dictionaries", "studies", "warnings"}
    assert summary["experiment"] == "tiny"
    assert Path(summary["home"]) == home
    assert Path(summary["report"]).is_file()
    assert not any(stage["cached"] for stage in summary["stages"])
    assert len(summary["dictionaries"]) == 5
    for entry in summary["dictionaries"]:
        assert {"ref", "path", "hook_point", "method", "params", "l0", "fvu", "dead_fraction"} <= set(entry)
        assert (Path(entry["path"]) / "dictionary.safetensors").is_file()
    assert "harvest  100 %" in result.stderr
    plan = saeflow("check", *parameters, "--home", home)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.count("\n  made ") == len(summary["stages"])
    assert "to do" not in plan.stdout


def test_where_not_all_numbers_fit_more_tables_have_the_rest(capsys: pytest.CaptureFixture[str]):
    methods = ["topk (expansion=4, k=32)", "topk, random weights (expansion=4, k=32)", "pca (rectify=False)"]
    numbers = [f"a number called {index}" for index in range(9)]
    rows = [
        {"hook point": f"blocks.{layer}.hook_resid_post", "method": name, **dict.fromkeys(numbers, f"{layer} [1, 20]")}
        for layer in (9, 15)
        for name in methods
    ]
    print_table("ioi", rows)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert [printed.count(number) for number in numbers] == [1] * len(numbers)
    tables = printed.count("hook point")
    assert 1 < tables < len(numbers)
    assert printed.count("blocks.15.hook_resid_post") == len(methods) * tables
    assert max(map(len, printed.splitlines())) <= 100


def test_of_a_circuit_each_hook_point_stands_on_a_line(capsys: pytest.CaptureFixture[str]):
    layers = [f"blocks.{layer}.hook_resid_post" for layer in (5, 7, 9)]
    about = {"hook point": " → ".join(layers), "method": "topk, random weights (expansion=4, k=32)"}
    print_table("circuit", [{**about, **dict.fromkeys([f"a number called {index}" for index in range(5)], "0.5")}])
    lines = capsys.readouterr().out.splitlines()
    assert not any("…" in line for line in lines)
    tables = sum("hook point" in line for line in lines)
    assert tables > 1
    assert [sum(layer in line for line in lines) for layer in layers] == [tables] * 3
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("numbers", [2, 14])
def test_no_number_of_a_table_is_cut_off(capsys: pytest.CaptureFixture[str], numbers: int):
    values = {f"number {index}": f"0.{index:02}1 [0.{index:02}0, 0.{index:02}2]" for index in range(numbers)}
    print_table("erasure", [{"hook point": "blocks.9.hook_resid_post", "method": "topk (k=32)", **values}])
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert all(bound in printed for value in values.values() for bound in value.split())
    assert "blocks.9.hook_resid_post" in printed
