"""One line that tells an artifact from the others of its kind."""

from typing import Any

from tasks.provenance import provenance_lines


def manifest(kind: str, spec: dict[str, Any], **inputs: str) -> dict[str, Any]:
    refs = {name: dict(zip(("kind", "key"), ref.split("/"), strict=True)) for name, ref in inputs.items()}
    return {"kind": kind, "spec": spec, "inputs": refs}


def dictionary(method: str, hook_point: str, activations: str = "activations/a", **changes: Any) -> dict[str, Any]:
    spec = {
        "dictionary": {"method": method, "k": 32, "seed": 0, "learning_rate": 0.001} | changes,
        "hook_point": hook_point,
    }
    return manifest("dictionary", spec, activations=activations)


def test_what_varies_is_told_and_what_does_not_only_where_it_always_matters():
    lines = provenance_lines(
        {
            "dictionary/a": dictionary("topk", "blocks.1.hook_resid_post"),
            "dictionary/b": dictionary("topk", "blocks.1.hook_resid_post", seed=1),
            "dictionary/c": manifest(
                "dictionary", {"hook_point": "blocks.2.mlp.hook_post", "baseline": {"method": "identity", "k": None}}
            ),
        }
    )
    assert lines == {
        "dictionary/a": "topk at blocks.1.hook_resid_post, k=32, seed=0",
        "dictionary/b": "topk at blocks.1.hook_resid_post, k=32, seed=1",
        "dictionary/c": "identity at blocks.2.mlp.hook_post",
    }


def test_the_input_is_told_where_there_are_several():
    lines = provenance_lines({f"dictionary/{a}": dictionary("topk", "h", f"activations/{a * 20}") for a in "ab"})
    assert lines["dictionary/b"] == "topk at h, k=32, from activations/bbbbbbbb"


def test_an_evaluation_is_told_by_its_dictionary_and_a_report_by_their_number():
    lines = provenance_lines(
        {
            "dictionary/d": dictionary("topk", "h"),
            "evaluation/e": manifest("evaluation", {"hook_point": "h", "prompts": 10}, dictionary="dictionary/d"),
            "evaluation/f": manifest("evaluation", {"hook_point": "h", "prompts": 20}, dictionary="dictionary/gone"),
            "report/r": manifest(
                "report",
                {"names": ["dictionary/d"] * 2},
                **{"dictionaries.0": "dictionary/d", "dictionaries.1": "dictionary/d"},
            ),
        }
    )
    assert lines["evaluation/e"] == "prompts=10, of topk at h, k=32"
    assert lines["evaluation/f"] == "at h, prompts=20, of dictionary/gone"
    assert lines["report/r"] == "2 dictionaries"


def test_long_lists_and_checksums_are_cut():
    sources = [f"package:p{number}" for number in range(9)]
    spec = {"corpus": {"spec": {"sources": sources, "tokens": 300000}, "identities": ["ab" * 32]}}
    lines = provenance_lines({"tokens/a": manifest("tokens", spec), "tokens/b": manifest("tokens", {"x": "f" * 64})})
    assert lines["tokens/a"] == "sources=package:p0,package:p1,…(9), tokens=300000"
