"""What is exactly true of probing planted features, and of the texts that are probed."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from sae_core.dictionary import Dictionary
from storage.tables import read_table
from tasks import language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.labelled_text import TENSES, TOPICS, LabelledText, LocatedData, labelled_texts, locate
from tasks.evaluate.probing import (
    Split,
    Texts,
    evaluate_probing,
    sparse_probes,
    spurious_correlations,
    targeted_perturbations,
)
from tasks.evaluation_specs import ProbingSpec
from tasks.specs import ModelSpec
from tests.conftest import write_model
from tests.tasks.evaluate.subjects import saved, zeros

LABELS, ATTRIBUTES = ("a", "b", "c"), ("u", "v")
WIDTH = 8


@pytest.fixture
def noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def planted(noise: torch.Generator) -> Texts:
    """One feature for each label, a much stronger one for the attribute, and noise; codes are the activations."""
    items = [LabelledText("", label, attribute) for label in LABELS for attribute in ATTRIBUTES for _ in range(40)]
    x = 0.1 * torch.randn(len(items), WIDTH, generator=noise)
    for row, item in enumerate(items):
        x[row, LABELS.index(item.label)] += 1
        x[row, 3] += 5 if item.attribute == "u" else -5
    return Texts(x, x, torch.eye(WIDTH), items)


def test_a_feature_for_the_label_is_enough_and_a_random_direction_is_not(planted: Texts, noise: torch.Generator):
    directions = F.normalize(torch.randn(32, WIDTH, generator=noise), dim=1)
    random = planted._replace(f_Tn=F.relu(planted.x_Td @ directions.T), writes_nd=directions)
    rows = [row for row in sparse_probes(Split(planted, seed=0)) if row["k"] == 1]
    assert [row["accuracy"] for row in rows] == [1, 1, 1]
    assert [row["features"] for row in rows] == [[0], [1], [2]]
    others = [row["accuracy"] for row in sparse_probes(Split(random, seed=0)) if row["k"] == 1]
    assert max(others) < 1


def test_ablating_exactly_the_spurious_feature_gives_all_accuracy_back():
    items = [LabelledText("", label, attribute) for label in "ab" for attribute in ATTRIBUTES for _ in range(40)]
    x = torch.zeros(len(items), WIDTH)
    x[:, 3] = torch.tensor([5.0 if item.attribute == "u" else -5.0 for item in items])
    x[:, 7] = torch.tensor([1.0 if item.label == "a" else -1.0 for item in items])
    rows = spurious_correlations(Split(Texts(x, x, torch.eye(WIDTH), items), seed=0))
    label, attribute = (row for row in rows if row["n"] == 2)
    assert (label["wanted"], attribute["wanted"]) == ("label", "attribute")
    assert label["a_original"] == 0.5
    assert label["a_clean"] == label["scr"] == 1
    assert attribute["a_original"] == 1
    assert attribute["scr"] is None, "about what is stronger, the correlation does not mislead"


def test_ablating_the_features_of_a_label_costs_its_own_probe_most(planted: Texts):
    rows = [row for row in targeted_perturbations(Split(planted, seed=0)) if row["n"] == 2]
    assert [row["label"] for row in rows] == list(LABELS)
    for row in rows:
        assert row["own_lost"] > 0.3 > row["others_lost"]
        assert row["tpp"] == pytest.approx(row["own_lost"] - row["others_lost"])


def test_training_and_test_texts_are_apart_and_every_kind_is_in_both(planted: Texts):
    split = Split(planted, seed=1)
    train, test = (set(split.parts[part]) for part in ("train", "test"))
    assert not train & test
    assert train | test == set(range(len(planted.items)))
    counts = Counter(planted.items[text][1:] for text in test)
    assert set(counts.values()) == {10}
    assert len(counts) == 6
    examples = split.against_rest("a", "test")
    assert examples.y_R.sum() == 20 == len(examples.y_R) / 2
    by_label, by_attribute = split.crossed(("a", "c"), "train")
    kinds = Counter(zip(by_label.y_R.tolist(), by_attribute.y_R.tolist(), strict=True))
    assert kinds == dict.fromkeys([(label, attribute) for label in (False, True) for attribute in (False, True)], 30)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(home))
        source = str(write_model(tmp_path_factory.mktemp("model")))
        model = language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=source)))
    return {"home": home, "model": model}


@pytest.fixture
def evaluated(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[str, Any], Path]]:
    monkeypatch.setenv("SAEFLOW_HOME", str(made["home"]))

    def evaluate(dictionary: Dictionary, **changes: Any) -> tuple[dict[str, Any], Path]:
        spec = ProbingSpec(**{"texts": 40, "seeds": (0, 1), **changes})
        ref = evaluate_probing.build(
            dictionary=saved(dictionary), model=made["model"], data=locate(spec), hook_point="blocks.0.hook_resid_post",
            spec=spec, compute=Compute(),
        )  # fmt: skip
        place = artifacts().path(ref)
        return json.loads((place / "metrics.json").read_text()), place

    return evaluate


def test_features_that_never_fire_tell_nothing_and_change_nothing(evaluated: Callable[..., Any]):
    metrics, place = evaluated(zeros(32))
    assert metrics["accuracy_1"] == metrics["accuracy_2"] == 0.5
    assert metrics["accuracy_dense"] is not None
    assert metrics["accuracy_5"] is metrics["tpp_20"] is metrics["scr_20"] is None
    assert metrics["undefined"]["tpp_20"] == "the dictionary has 3 features"
    assert metrics["tpp_2"] == 0
    assert metrics["scr_2"] is None
    assert metrics["undefined"]["scr_2"] == "in some seed no correlation costs the probe 10% of accuracy"
    scr = read_table(place / "scr.parquet").to_pydict()
    assert scr["a_ablated"] == scr["a_original"] != []
    assert read_table(place / "probes.parquet").num_rows == 2 * len(TOPICS) * 3


def test_attributes_that_are_all_different_leave_texts_to_test_with(planted: Texts):
    items = [item._replace(attribute=str(number)) for number, item in enumerate(planted.items)]
    split = Split(planted._replace(items=items), seed=0)
    assert Counter(items[text].label for text in split.parts["test"]) == dict.fromkeys(LABELS, 20)
    assert list(spurious_correlations(split)) == []


def test_texts_without_attribute_or_with_two_labels_have_no_scr_or_tpp_and_say_so(
    evaluated: Callable[..., Any], tmp_path: Path
):
    file = tmp_path / "texts.jsonl"
    records = [
        {"text": f"the {animal} runs {number}", "label": animal} for animal in ("cat", "dog") for number in range(24)
    ]
    file.write_text("\n".join(map(json.dumps, records)))
    metrics, _ = evaluated(zeros(32), data=str(file))
    assert metrics["undefined"]["scr_2"] == "the texts have 0 attributes, and two are needed"
    assert metrics["undefined"]["tpp_2"] == "there are 2 labels, and three are needed"
    assert metrics["accuracy_dense"] is not None


def test_built_in_sentences_are_distinct_and_half_in_either_tense():
    items = labelled_texts(LocatedData(), 100)
    assert len({item.text for item in items}) == len(items) == 100 * len(TOPICS)
    assert set(Counter(item[1:] for item in items).values()) == {50}
    assert labelled_texts(LocatedData(), 40) == [item for topic in TOPICS for item in of_topic(items, topic)[:40]]
    assert all((" will " in item.text) == (item.attribute == list(TENSES)[1]) for item in items)


def of_topic(items: list[LabelledText], topic: str) -> list[LabelledText]:
    return [item for item in items if item.label == topic]


def records(**columns: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": number % 2, "attribute": "x", **columns} for number in range(60)]


def test_a_file_of_either_format_gives_its_texts_evenly_over_the_attributes(tmp_path: Path):
    rows = [{**row, "attribute": "rare" if number < 20 else "common"} for number, row in enumerate(records())]
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "texts.parquet")
    found = [
        labelled_texts(locate(ProbingSpec(data=str(tmp_path / f"texts.{ending}"))), 20)
        for ending in ("jsonl", "parquet")
    ]
    assert found[0] == found[1]
    assert Counter(item[1:] for item in found[0]) == dict.fromkeys(
        [(label, attribute) for label in "01" for attribute in ("rare", "common")], 10
    )


def test_a_file_that_is_not_fit_is_refused_before_any_work_and_told_why(tmp_path: Path):
    def refused(name: str, text: str | None, message: str) -> None:
        if text is not None:
            (tmp_path / name).write_text(text)
        with pytest.raises(ExperimentError, match=message):
            locate(ProbingSpec(data=str(tmp_path / name)))

    refused("missing.jsonl", None, "is no .jsonl or .parquet file")
    refused("texts.csv", "text,label", "is no .jsonl or .parquet file")
    refused("broken.jsonl", "{", "is no valid .jsonl file")
    refused("broken.parquet", "{", "is no valid .parquet file")
    refused("unlabelled.jsonl", '{"text": "a"}', r"line 1, has no `label`")
    refused(
        "one.jsonl", "\n".join(json.dumps({**row, "label": "x"}) for row in records()), r"`label` needs two .* x \(60\)"
    )


def test_a_file_that_changed_since_it_was_located_is_refused(tmp_path: Path):
    file = tmp_path / "texts.jsonl"
    file.write_text("\n".join(map(json.dumps, records())))
    located = locate(ProbingSpec(data=str(file)))
    file.write_text("\n".join(map(json.dumps, records(attribute="y"))))
    with pytest.raises(ExperimentError, match="was changed or removed"):
        labelled_texts(located, 20)
    assert locate(ProbingSpec(data=str(file))) != located
