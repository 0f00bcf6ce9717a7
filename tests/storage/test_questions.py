"""Which parts of two questions differ, and which artifact comes closest to one."""

from typing import Any

from storage.artifacts import content_key
from storage.questions import differences, explain, nearest, question_of

SPEC = {"corpus": {"tokens": 1000, "sources": ["a.txt", "b.txt"]}, "seed": 0}


def manifest(
    kind: str, spec: dict[str, Any], created: str = "2026-01-01", version: str = "1", **inputs: tuple[str, str]
) -> dict[str, Any]:
    """`inputs` are (kind/key, digest)."""
    refs = {
        name: dict(zip(("kind", "key"), ref.split("/"), strict=True)) | {"digest": d}
        for name, (ref, d) in inputs.items()
    }
    return {"kind": kind, "code_version": version, "spec": spec, "inputs": refs, "created": created}


def told(old: object, new: object) -> list[str]:
    return [str(difference) for difference in differences(old, new)]


def test_each_leaf_that_differs_is_told_with_both_values():
    changed = {"corpus": {"tokens": 2000, "sources": ["a.txt", "c.txt"]}, "seed": 0, "extra": None}
    assert told({"spec": SPEC, "code_version": "1"}, {"spec": changed, "code_version": "2"}) == [
        "spec.corpus.tokens: 1000 → 2000",
        "spec.corpus.sources: without b.txt; with c.txt",
        "spec.extra: not there → null",
        "code_version: 1 → 2",
    ]
    assert told(SPEC, SPEC) == []


def test_values_that_make_other_keys_differ_and_others_do_not():
    for old, new in ((1, 1.0), (1, True), (0, None), ([1, 2], [2, 1]), ({"a": 1}, {}), ("1", 1)):
        assert differences({"x": old}, {"x": new})
        assert content_key("k", "1", {"x": old}, {}) != content_key("k", "1", {"x": new}, {})
    assert not differences({"a": 1, "b": 2}, {"b": 2, "a": 1})


def test_a_long_value_is_cut():
    (line,) = told({"x": "a" * 500}, {"x": 1})
    assert len(line) < 90


def test_the_nearest_has_the_fewest_differences_and_the_same_hook_point():
    question = {"code_version": "1", "spec": {"k": 3, "hook_point": "h", "seed": 0}, "inputs": {}}
    manifests = {
        "dictionary/far": manifest("dictionary", {"k": 4, "hook_point": "h", "seed": 1}),
        "dictionary/elsewhere": manifest("dictionary", {"k": 3, "hook_point": "g", "seed": 0}, created="2026-03-01"),
        "dictionary/old": manifest("dictionary", {"k": 4, "hook_point": "h", "seed": 0}),
        "dictionary/new": manifest("dictionary", {"k": 5, "hook_point": "h", "seed": 0}, created="2026-02-01"),
    }
    name, found = nearest(question, manifests) or ("", [])
    assert (name, [str(difference) for difference in found]) == ("dictionary/new", ["spec.k: 5 → 3"])
    assert nearest(question, {}) is None


def test_another_digest_is_explained_by_what_the_input_was_made_from():
    manifests = {
        "tokens/old": manifest("tokens", {"tokens": 1000}),
        "tokens/new": manifest("tokens", {"tokens": 2000}),
        "activations/old": manifest("activations", {"d": 1}, tokens=("tokens/old", "1")),
        "activations/new": manifest("activations", {"d": 1}, tokens=("tokens/new", "2")),
        "dictionary/old": manifest("dictionary", {"k": 1}, activations=("activations/old", "3")),
    }
    question = question_of(manifest("dictionary", {"k": 1}, version="2", activations=("activations/new", "4")))

    def lines() -> list[str]:
        found = differences(question_of(manifests["dictionary/old"]), question)
        return explain("dictionary/old", {"activations": "activations/new"}, found, manifests)

    assert lines() == [
        "code_version: 1 → 2",
        "input activations: activations/old → activations/new, because",
        "  input tokens: tokens/old → tokens/new, because",
        "    spec.tokens: 1000 → 2000",
    ]
    del manifests["tokens/old"]
    assert lines()[2:] == ["  input tokens: tokens/old → tokens/new, and the former is not here any more"]


def test_an_input_that_was_made_anew_or_is_new_is_told():
    manifests = {
        "tokens/t": manifest("tokens", {}),
        "activations/a": manifest("activations", {}, tokens=("tokens/t", "1")),
    }
    asked = question_of(manifest("activations", {}, tokens=("tokens/t", "2"), base=("activations/b", "3")))
    found = differences(question_of(manifests["activations/a"]), asked)
    assert explain("activations/a", {"tokens": "tokens/t", "base": "activations/b"}, found, manifests) == [
        "input tokens: tokens/t was made anew since, and has other bytes",
        "input base: none → activations/b",
    ]
