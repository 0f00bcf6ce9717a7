"""The table of dictionaries, whatever their parameters, and those of evaluations."""

import json
from pathlib import Path
from typing import Any

from storage.tables import read_table, write_table
from tasks.cells import named, parameters
from tasks.site.material import Study
from tasks.study_tables import dictionaries_of, study_tables
from tests.tasks.site.made_up import dictionary, material, overview
from tests.tasks.test_train import METHODS


def rows() -> list[dict]:
    """One of every method, as manifests give them back."""
    return [{"params": json.loads(spec.model_dump_json(exclude={"method"}))} for spec in METHODS]


def test_every_methods_parameters_fit_into_a_cell():
    told = [parameters(entry["params"], rows()) for entry in rows()]
    assert told[0].startswith("expansion=2, learning_rate=0.001")
    assert "alpha=0.01" in told[0]
    assert "k=6" in told[3]
    assert all("None" not in entry for entry in told)


def test_what_does_not_vary_is_told_only_where_it_is_the_methods_own():
    one = [rows()[5]]
    assert parameters(one[0]["params"], one) == "expansion=3, k=6"
    other = {"params": one[0]["params"] | {"prefixes": [0.5]}}
    assert parameters(other["params"], [*one, other]) == "expansion=3, k=6, prefixes=[0.5]"


def test_the_page_holds_every_dictionary_marks_the_best_and_leaves_what_is_undefined_open(tmp_path: Path):
    told = [
        dictionary("topk", fvu, k, place, ref=f"dictionary/{place}{k}")
        for place, k, fvu in (("a", 1, 0.5), ("a", 2, 0.25), ("b", 1, None), ("b", 2, 0.125))
    ]
    told.append(dictionary("identity", 0.0, 32, "b", ref="dictionary/all"))
    text = overview(tmp_path, material(*told))
    assert [entry["ref"] in text for entry in told] == [True] * 5
    best = [line for line in text.splitlines() if '<tr class="best"' in line]
    assert ["k=2" in line for line in best] == [True, True], "and not what keeps everything"
    assert '<abbr title="the rows do not vary" tabindex="0">—</abbr>' in text
    assert "5 dictionaries at 2 hook points" in text
    assert "http" not in text  # it needs nothing but itself


EVIL = "</script><script>alert(1)</script>"


def study(**changes: Any) -> dict[str, Any]:
    row = {
        "ref": "evaluation/1", "title": "ioi", "asked": {"prompts": 32},
        "hook_point": "blocks.1.hook_resid_post", "method": "topk",
        "params": {"expansion": 2.0, "k": 4}, "model": "tiny", "trained": True, "evaluation": "ioi",
        "columns": {"recovery": "how much", "features": "how many"},
        "recovery": 0.5, "features": None, "intervals": {"recovery": [0.25, 0.75]},
        "undefined": {"features": f"KL never halves {EVIL}"},
    }  # fmt: skip
    return {**row, **changes}


def test_an_evaluation_is_a_table_with_intervals_and_with_reasons_for_what_is_missing(tmp_path: Path):
    rows = [study(), study(ref="evaluation/2", method="pca", params={"k": 4}), study(title=f"pattern {EVIL}")]
    tables = study_tables(rows)
    assert [table.title for table in tables] == ["ioi", f"pattern {EVIL}"]
    assert tables[0].told(rows[0], "recovery") == "0.5 [0.25, 0.75]"
    assert "| topk | expansion=2, k=4 | 0.5 [0.25, 0.75] | — |" in tables[0].markdown()
    write_table(tmp_path / tables[0].file, tables[0].flat())
    flat = read_table(tmp_path / "ioi.parquet").to_pylist()
    assert [row["method"] for row in flat] == ["topk", "pca"]
    assert (flat[0]["recovery"], flat[0]["recovery_low"], flat[0]["recovery_high"]) == (0.5, 0.25, 0.75)
    assert flat[0]["features"] is None
    assert "KL never halves" in flat[0]["undefined"]

    of = dictionary("topk", 0.5)
    studies = tuple(Study(row, (of["ref"],), None, tmp_path) for row in rows)
    text = overview(tmp_path, material(of, studies=studies))
    assert EVIL not in text
    assert "KL never halves &lt;/script&gt;" in text, "the reason is told where the dash is pointed at"


def test_no_table_takes_the_place_of_another():
    """Neither two regular expressions without a letter, nor the same question asked twice."""
    rows = [
        study(title="pattern \\("),
        study(title="pattern \\)"),
        study(),
        study(asked={"prompts": 16}),
        study(ref="evaluation/2", model="tiny (random weights)"),
    ]
    tables = study_tables(rows)
    assert [table.file for table in tables] == [
        "pattern.parquet", "pattern_2.parquet", "ioi_prompts_32.parquet", "ioi_prompts_16.parquet"
    ]  # fmt: skip
    assert [table.title for table in tables][2:] == ["ioi (prompts=32)", "ioi (prompts=16)"]
    assert [tables[2].about(row)["method"] for row in tables[2].rows] == [
        "topk (expansion=2, k=4)",
        "topk, random weights (expansion=2, k=4)",
    ]


def test_a_reason_is_told_once_with_those_that_it_is_of():
    gone = {"columns": {"a": "", "b": ""}, "a": None, "b": None}
    rows = [
        study(method="topk", **gone, undefined={"a": "no names", "b": "no names"}),
        study(method="pca", **gone, undefined={"a": "no names", "b": "too short"}),
    ]
    (table,) = study_tables(rows)
    names = [" at ".join(reversed(table.about(row).values())) for row in table.rows]
    assert table.reasons() == {"no names": names, "too short": names[1:]}


def test_the_dictionaries_of_a_hook_point_stand_together():
    rows = [study(hook_point=at, method=of) for of in ("topk", "pca") for at in ("blocks.9", "blocks.10")]
    told = study_tables(rows)[0].rows
    assert [(row["hook_point"], row["method"]) for row in told] == [
        ("blocks.9", "topk"), ("blocks.9", "pca"), ("blocks.10", "topk"), ("blocks.10", "pca")
    ]  # fmt: skip


def test_a_circuit_of_many_layers_ends_with_the_last():
    refs = [{"kind": "dictionary", "key": str(layer), "digest": ""} for layer in range(12)]
    inputs = {f"dictionaries.{layer}": ref for layer, ref in enumerate(refs)}
    found = dictionaries_of({"inputs": dict(sorted(inputs.items()))})
    assert [ref.key for ref in found] == [str(layer) for layer in range(12)]


def test_the_model_is_told_only_where_there_are_several():
    rows = [study(), study(model="tiny (random weights)")]
    assert named(rows[1], rows[:1]) == "topk (expansion=2, k=4)"
    assert named(rows[1], rows) == "topk, random weights (expansion=2, k=4)"
