"""The graph of what was made from what."""

from storage.lineage import made_from, reachable, short, users_first, users_of


def manifest(*sources: str) -> dict[str, object]:
    inputs = {
        f"input.{i}": dict(zip(("kind", "key"), source.split("/"), strict=True)) for i, source in enumerate(sources)
    }
    return {"inputs": inputs}


HOME = {
    "model/m": manifest(),
    "tokens/t": manifest("model/m"),
    "activations/a": manifest("model/m", "tokens/t"),
    "dictionary/d": manifest("activations/a"),
    "dictionary/e": manifest("activations/a"),
    "evaluation/d": manifest("dictionary/d", "activations/a"),
    "tokens/other": manifest("model/m", "tokens/gone"),
}


def test_what_a_root_was_made_from_is_reached_and_nothing_else():
    assert reachable(["evaluation/d"], HOME) == HOME.keys() - {"dictionary/e", "tokens/other"}
    assert reachable(["tokens/other", "report/never-made"], HOME) == {"tokens/other", "model/m"}
    assert reachable([], HOME) == set()


def test_users_are_those_that_read_it_themselves():
    assert users_of("activations/a", HOME) == ["dictionary/d", "dictionary/e", "evaluation/d"]
    assert users_of("evaluation/d", HOME) == []
    assert made_from("tokens/other", HOME) == ["model/m", "tokens/gone"]
    assert made_from("tokens/gone", HOME) == []


def test_users_come_before_what_they_were_made_from():
    order = users_first(HOME, HOME)
    assert sorted(order) == sorted(HOME)
    for name in HOME:
        assert all(order.index(user) < order.index(name) for user in users_of(name, HOME))
    # Also where the step between the two stays.
    assert users_first(["tokens/t", "evaluation/d"], HOME) == ["evaluation/d", "tokens/t"]


def test_a_short_name_is_the_kind_and_the_beginning_of_the_key():
    assert short("tokens/0123456789abcdef0123") == "tokens/01234567"
