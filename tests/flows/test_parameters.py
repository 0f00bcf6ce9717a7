from itertools import pairwise
from pathlib import Path

import pytest

from flows.parameters import ExperimentConfig, load_config, presets
from tasks.errors import ExperimentError
from tasks.specs import TopKSpec


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_is_valid_and_survives_json(name: str):
    config = load_config(name)
    assert config.name == name
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config


def test_the_paper_preset_is_the_papers_sweep():
    config = load_config("paper-pythia-70m")
    assert len(config.hook_points) == 6
    penalties = [spec.alpha for spec in config.dictionaries if spec.method == "tied_relu" and spec.expansion == 2]
    assert len(penalties) == 16
    assert penalties[7] == pytest.approx(8.577e-4)
    ratios = [later / earlier for earlier, later in pairwise(penalties)]
    assert ratios == pytest.approx([10 ** (2 / 15)] * 15, rel=2e-3)


def test_overrides_change_nested_fields_and_list_entries():
    config = load_config("quickstart", ["corpus.tokens=50000", "dictionaries.1.k=8", "hook_points=[blocks.0.hook_in]"])
    assert config.corpus.tokens == 50_000
    assert isinstance(config.dictionaries[1], TopKSpec)
    assert config.dictionaries[1].k == 8
    assert config.hook_points == ("blocks.0.hook_in",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("corpus.tokens=-5", r"corpus\.tokens: .*greater than 0 .*-5"),
        ("corpus.tokens=many", r"corpus\.tokens: .*valid integer"),
        ("corpus.token=5", r"corpus\.token: there is no such parameter"),
        ("hook_points=[]", r"hook_points: .*at least 1"),
        ("training.epochs=0", r"training\.epochs"),
        ("dictionaries.0.method=magic", r"dictionaries\.0: .*'magic'"),
        ("dictionaries.9.k=1", "'9' names nothing in a list of 2 entries"),
        ("name.first=x", "'first' names nothing in a single value"),
        ("name=../up", "name: "),
        ("hook_points=[a, a]", "lists this twice: a"),
        ("corpus", "not of the form"),
        ("corpus.tokens=[1", "not YAML"),
        ("model.dtype=int4", r"model\.dtype: .*bfloat16"),
    ],
)
def test_a_wrong_parameter_is_named(override: str, message: str):
    with pytest.raises(ExperimentError, match=message):
        load_config("quickstart", [override])


def test_nothing_to_make_is_an_error():
    with pytest.raises(ExperimentError, match="nothing to make"):
        load_config("quickstart", ["dictionaries=[]", "baselines=[]"])


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ExperimentError, match="quickstart"):
        load_config("quikstart")


@pytest.mark.parametrize("content", ["a: [", "- just\n- a list", "\x00"])
def test_a_file_that_is_no_experiment_is_named(tmp_path: Path, content: str):
    file = tmp_path / "broken.yaml"
    file.write_text(content)
    with pytest.raises(ExperimentError, match=r"broken\.yaml"):
        load_config(str(file))
