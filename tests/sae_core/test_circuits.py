"""Circuits of hand-written functions in place of a model: what is planted is found, and nothing else."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_core.circuits import Layer, Link, active, all_but, grow, random_sets, watch
from sae_core.interventions import keep_only
from tests.sae_core.zoo import noise

S, P, N = 5, 4, 8
LAST = torch.full((1, S), P - 1)
A, B, C, D = 1, 3, 4, 6
"""Features that have a part; the others are there and lead nowhere."""


def layer(x: Tensor) -> Layer:
    """One whose features are the coordinates, with a ReLU."""
    return Layer(x, x.relu(), torch.eye(N, dtype=x.dtype), torch.relu)


def signed(x: Tensor) -> Layer:
    return Layer(x, x, torch.eye(N, dtype=x.dtype), lambda x: x)


def chain(x: Tensor, *onward: Callable[[Tensor], Tensor], kind: Callable[[Tensor], Layer] = layer) -> list[Link]:
    """The layers that these functions lead to, one from the other."""
    links = []
    for function in onward:
        y = function(x[None])[0]
        links.append(Link(kind(x), kind(y), function))
        x = y
    return links


def moved(source: int, to: int, by: int = 0, others: float = 1.0) -> Callable[[Tensor], Tensor]:
    """Everything from feature `source`, `by` positions back, is in feature `to`; the other features are constant."""

    def onward(x: Tensor) -> Tensor:
        y = torch.full_like(x, others)
        y[..., to] = x[..., source].roll(by, dims=-1)
        return y

    return onward


def tree(links: list[Link], target: int, children: int = 5) -> list[tuple[int, int]]:
    """Edges (lower, upper), from the target down."""
    effects = grow(links, watch(links[-1].upper, torch.tensor([target]), LAST), children, verified=N, steps=2)
    return [
        (int(found.lower_F[f]), int(found.watched.features_J[j]))
        for found in effects
        for j, f in found.kept_JF.nonzero().tolist()
    ]


def positive() -> Tensor:
    return noise(S, P, N).abs() + 0.5


def test_a_planted_edge_is_found_and_no_other():
    assert tree(chain(positive(), moved(A, B)), B) == [(A, B)]


def test_a_planted_chain_is_found_over_three_layers():
    assert tree(chain(positive(), moved(A, B), moved(B, C), moved(C, D)), D) == [(C, D), (B, C), (A, B)]


def test_a_cause_at_another_position_is_found():
    x = torch.zeros(S, P, N, dtype=torch.float64)
    x[:, 1, A] = 2
    links = chain(x, moved(A, B, by=1), moved(B, C, by=1))
    assert tree(links, C) == [(B, C), (A, B)]
    assert watch(links[0].upper, torch.tensor([B])).positions_JS.tolist() == [[2] * S]


def test_what_holds_a_feature_down_has_a_negative_cut_and_no_edge():
    def onward(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[..., B] = 10 + x[..., A] - x[..., C]
        return y

    links = chain(positive(), onward)
    assert tree(links, B) == [(A, B)]
    target = watch(links[0].upper, torch.tensor([B]), LAST)
    cuts = links[0].without_each(target, torch.tensor([A, C]))[:, 0]
    torch.testing.assert_close(cuts, torch.stack([links[0].lower.x_SPd[:, -1, A], -links[0].lower.x_SPd[:, -1, C]]))


def test_only_the_largest_children_are_kept_and_one_below_two_parents_is_followed_once():
    def both(x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        y[..., D] = 3 * x[..., B] + 2 * x[..., C] + x[..., A]
        return y

    def split(x: Tensor) -> Tensor:
        y = torch.ones_like(x)
        y[..., B] = y[..., C] = x[..., A]
        return y

    links = chain(positive(), split, both)
    assert tree(links, D, children=1) == [(B, D), (A, B)]
    assert tree(links, D, children=2) == [(B, D), (C, D), (A, B), (A, C)]


def test_of_a_linear_model_the_attribution_is_the_cut():
    weights = noise(N, N, seed=1)
    links = chain(noise(S, P, N, seed=2), lambda x: x.cumsum(-2) @ weights, kind=signed)
    target = watch(links[0].upper, torch.tensor([B, C]))
    cuts = links[0].without_each(target, torch.arange(N))
    torch.testing.assert_close(links[0].attributions(target, steps=1).permute(2, 0, 1), cuts)
    assert cuts.abs().min() > 0


def test_a_negative_code_counts_by_its_size():
    links = chain(-positive(), moved(A, B, others=0), kind=signed)
    target = watch(links[0].upper, torch.tensor([B]), LAST)
    assert (target.clean_JS < 0).all()
    assert tree(links, B) == [(A, B)]
    torch.testing.assert_close(links[0].without_each(target, torch.tensor([A]))[0], target.clean_JS.abs())


def test_ablating_a_feature_that_is_not_active_changes_nothing():
    x = positive()
    x[..., A] = -1
    links = chain(x, lambda x: x.cumsum(-2) @ noise(N, N, seed=1), kind=layer)
    target = watch(links[0].upper, torch.tensor([B, C]))
    assert torch.equal(links[0].without_each(target, torch.tensor([A])), torch.zeros(1, 2, S, dtype=x.dtype))


def test_contexts_in_which_a_feature_does_not_fire_count_for_nothing():
    x = positive()
    x[: S - 1, :, A] = -1
    links = chain(x, moved(A, B))
    target = watch(links[0].upper, torch.tensor([B]), LAST)
    assert target.fires_JS.sum() == 1
    (effects,) = grow(links, target, 5, verified=N, steps=2)
    assert effects.cut_JF[0, effects.lower_F == A].item() == pytest.approx(x[-1, -1, A].item())
    assert effects.size_J.item() == pytest.approx(x[-1, -1, A].item())


def test_a_target_below_which_nothing_is_has_no_edges():
    assert tree(chain(positive(), lambda x: 0 * x + 1), B) == []
    assert tree(chain(-positive(), moved(A, B, others=1.0)), C) == []


def test_only_so_many_features_are_ablated_as_is_said_and_the_cause_is_among_them():
    links = chain(positive(), moved(A, B))
    (effects,) = grow(links, watch(links[0].upper, torch.tensor([B]), LAST), 5, verified=2, steps=2)
    assert len(effects.lower_F) == 2
    assert effects.lower_F[0] == A


def test_the_more_features_are_watched_the_more_are_ablated():
    links = chain(positive(), moved(A, B, others=1.0))
    for watched in (1, 2):
        target = watch(links[0].upper, torch.tensor([B, C][:watched]))
        (effects,) = grow(links, target, 5, verified=1, steps=2, verified_each=2)
        assert len(effects.lower_F) == 2 * watched


def test_features_ablated_together_are_ablated_together():
    weights = noise(N, N, seed=1)
    links = chain(noise(S, P, N, seed=2), lambda x: x @ weights, kind=signed)
    target = watch(links[0].upper, torch.tensor([B]), LAST)
    sets = torch.zeros(1, S, N, dtype=torch.bool)
    sets[..., [A, C]] = True
    together = links[0].without_sets(target, sets)[0]
    torch.testing.assert_close(together, links[0].without_each(target, torch.tensor([A, C])).sum(0))


def test_random_sets_hold_active_features_only_and_others_in_each_context():
    is_active = noise(S, 40) > 0
    sets = random_sets(is_active, 5, 3, torch.Generator().manual_seed(0))
    assert (sets.sum(-1) == 5).all()
    assert not (sets & ~is_active).any()
    assert len(sets.flatten(0, 1).unique(dim=0)) == 3 * S
    assert torch.equal(sets, random_sets(is_active, 5, 3, torch.Generator().manual_seed(0)))
    few = torch.zeros(1, 40, dtype=torch.bool)
    few[0, :2] = True
    assert torch.equal(random_sets(few, 5, 1, torch.Generator().manual_seed(0))[0], few)


def test_of_a_dense_dictionary_the_largest_codes_are_active():
    f = noise(2, 3, 500)
    found = active(f)
    assert found.sum() < 2 * 3 * 64 + 1
    for context in range(2):
        assert found[context, f[context].abs().argmax(-1)].all()
    sparse = keep_only(f, torch.tensor([7]))
    assert active(sparse).nonzero().tolist() == [[0, 7], [1, 7]]


def test_features_that_are_kept_do_not_move_and_the_others_go_to_their_mean():
    f, mean = noise(3, N), noise(N, seed=1)
    kept = torch.tensor([True, False] * (N // 2))
    moved_to = f + all_but(f, kept, mean)
    assert torch.equal(moved_to[:, kept], f[:, kept])
    torch.testing.assert_close(moved_to[:, ~kept], mean[~kept].expand(3, -1))
