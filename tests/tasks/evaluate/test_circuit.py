"""Circuits in a real small model, one of them planted in its weights."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch

from sae_core.architectures import TopK, Transcoder
from sae_core.baselines.identity import Identity
from sae_core.baselines.pca import PCA
from sae_core.dictionary import Dictionary
from storage.artifacts import ArtifactRef
from storage.tables import read_table
from tasks import language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.circuit import evaluate_circuit, measure
from tasks.evaluate.circuit_contexts import Site, Stack, draw_contexts
from tasks.evaluate.results import NotMeasurable
from tasks.evaluation_specs import CircuitSpec
from tasks.pattern_matches import read_held_out
from tasks.progress import Progress
from tasks.rows import LiveFilter, open_store
from tasks.specs import RowFilter
from tests.conftest import write_model
from tests.tasks.evaluate.subjects import harvested, saved

HOOK_POINTS = tuple(f"blocks.{layer}.hook_resid_post" for layer in range(3))
D = 32
EVERYWHERE, U, V, W, NEVER = 0, 5, 9, 12, 20
"""Coordinates of the stream in the planted model."""


def plant(directory: Path) -> None:
    """Leave of the model the way of u to v in its block 1, and of v to w in block 2; attention does nothing."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(directory)
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding.uniform_(0.5, 1, generator=torch.Generator().manual_seed(0))
        embedding[:, EVERYWHERE] = 20  # so that the norm is about the same everywhere
        embedding[:, [V, W, NEVER]] = 0
        embedding[::2, U] = 0
        for block in model.model.layers:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
        for block, source, to in ((1, U, V), (2, V, W)):
            mlp = model.model.layers[block].mlp
            for weight in (mlp.gate_proj.weight, mlp.up_proj.weight):
                weight.zero_()
                weight[0, source] = 10
            mlp.down_proj.weight[to, 0] = 1
    model.save_pretrained(directory)


@pytest.fixture(scope="module", params=["random", "planted"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ArtifactRef]]:
    source = write_model(tmp_path_factory.mktemp("model"))
    if request.param == "planted":
        plant(source)
    with harvested(source, tmp_path_factory, *HOOK_POINTS) as refs:
        yield refs


of_random_weights = pytest.mark.parametrize("made", ["random"], indirect=True)
planted = pytest.mark.parametrize("made", ["planted"], indirect=True)


@pytest.fixture
def evaluated(made: dict[str, ArtifactRef]) -> Callable[..., Path]:
    """Where the circuit is, of dictionaries at some hook points; of one alone, the same at each of them."""

    def evaluate(*dictionaries: Dictionary, hook_points: tuple[str, ...] = HOOK_POINTS, **spec: Any) -> Path:
        each = dictionaries if len(dictionaries) > 1 else dictionaries * len(hook_points)
        return artifacts().path(
            evaluate_circuit.build(
                dictionaries=tuple(saved(dictionary) for dictionary in each),
                **made,
                hook_points=hook_points,
                rows=RowFilter(),
                spec=CircuitSpec(**{"pattern": "e", "contexts": 4, "tokens": 512, **spec}),
                compute=Compute(),
            )
        )

    return evaluate


def coordinates() -> Dictionary:
    """Each dimension of the stream a feature."""
    identity = Identity(D, D, rectify=True)
    identity.directions_nd.copy_(torch.eye(D))
    return identity


def rotation() -> Dictionary:
    """A complete signed basis."""
    basis = PCA(D, D, rectify=False)
    basis.directions_nd.copy_(torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0))).Q)
    return basis


def metrics(place: Path) -> dict[str, Any]:
    return json.loads((place / "metrics.json").read_text())


def edges(place: Path) -> set[tuple[str, str]]:
    return {(row["lower"], row["upper"]) for row in read_table(place / "edges.parquet").to_pylist() if row["kept"]}


@planted
def test_the_circuit_that_is_planted_in_the_weights_is_found_and_no_other(evaluated: Callable[..., Path]):
    place = evaluated(coordinates(), feature=W)
    assert edges(place) == {(f"1/{V}", f"2/{W}"), (f"0/{U}", f"1/{V}")}
    found = metrics(place)
    assert found["depth"] == 2
    assert found["decrease_children"] == pytest.approx(1, abs=1e-3), "without v there is no w"
    assert found["contexts_won"] == 1
    assert found["decrease_random"] < 0.05
    graph = nx.node_link_graph(json.loads((place / "graph.json").read_text()), edges="edges")
    assert set(graph.edges) == edges(place)


@planted
def test_the_planted_circuit_alone_keeps_the_target_up_and_all_else_does_not(evaluated: Callable[..., Path]):
    place = evaluated(coordinates(), feature=W)
    found = metrics(place)
    assert found["faithfulness"] == pytest.approx(1, abs=0.2), "what else is there only enters the norm"
    assert abs(found["completeness"]) < 0.2
    assert abs(found["faithfulness_random"]) < 0.2
    rows = read_table(place / "faithfulness.parquet").to_pylist()
    assert [row["features"] for row in rows[:2]] == [2, 2]


@of_random_weights
@pytest.mark.parametrize("make", [coordinates, rotation, lambda: TopK(D, 64, k=4)])
def test_every_dictionary_has_a_circuit(evaluated: Callable[..., Path], make: Callable[[], Dictionary]):
    place = evaluated(make(), children=3)
    found = metrics(place)
    assert found["depth"] == 2
    assert found["contexts"] == 4
    assert found["decrease_children"] > 0
    assert found["attribution_correlation"] > 0.9, "so small a model is nearly linear"
    nodes = read_table(place / "nodes.parquet").to_pylist()
    assert [node["level"] for node in nodes[:4]] == [2, 1, 1, 1]
    assert nodes[0]["feature"] == found["target_feature"]
    assert all(node["tokens"] and node["contexts"] > 0 for node in nodes)
    assert all(cut > 0 for cut, kept in zip(*columns(place, "cut", "kept"), strict=True) if kept)
    assert nx.read_graphml(place / "graph.graphml").number_of_nodes() == len(nodes)


def columns(place: Path, *names: str) -> list[list[Any]]:
    table = read_table(place / "edges.parquet").to_pydict()
    return [table[name] for name in names]


@pytest.fixture
def stack(made: dict[str, ArtifactRef], monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A complete basis at each hook point, in contexts of 8 tokens at most; feature 3 is the target."""
    monkeypatch.setattr("tasks.evaluate.circuit_contexts.LENGTH", 8)
    bridge = language_model.load(made["model"], "float32", "cpu")
    tokenizer = language_model.load_tokenizer(made["model"])
    store, rows = open_store(made["activations"], "held_out"), RowFilter()
    held_out = read_held_out(tokenizer, made["tokens"], made["activations"], HOOK_POINTS, rows, "e", 512)
    sites = [
        Site(name, rotation(), there, LiveFilter.of(store, name, rows))
        for name, there in zip(HOOK_POINTS, held_out, strict=True)
    ]
    return Stack(bridge, sites, draw_contexts(bridge, sites[-1], 3, 1, how_many=4, end_of_text=0, seed=0), 3)


@of_random_weights
def test_contexts_end_where_the_target_has_half_its_maximum(stack: Stack):
    assert stack.contexts.tokens_SP.shape[1] <= 8
    most = stack.sites[-1].codes([3]).max().item()
    assert (stack.target.clean_JS >= most / 2 - 1e-4).all()
    assert not stack.own[0][:, 0].any(), "the attention sink is left alone"


@of_random_weights
def test_with_every_feature_kept_the_target_is_what_the_model_has(stack: Stack):
    everything = torch.ones(D, dtype=torch.bool)
    clean = stack.target.clean_JS.mean().item()
    assert stack.response([everything, everything]) == pytest.approx(clean, abs=1e-5)


@of_random_weights
def test_with_every_feature_of_a_complete_basis_at_its_mean_the_stream_is_its_mean(stack: Stack):
    own_SP1 = stack.own[1][..., None]
    mean_d = stack.sites[1].held_out.x_Bd.mean(0)
    with torch.no_grad():
        at_mean = torch.where(own_SP1, mean_d, stack.prompts[1].clean_SPd)
        expected = stack.links[1].measured(stack.target, at_mean[None]).mean().item()
    everything = torch.ones(D, dtype=torch.bool)
    assert stack.response([everything, ~everything]) == pytest.approx(expected, abs=1e-5)
    assert stack.response([~everything, ~everything]) == pytest.approx(expected, abs=1e-5), "whatever came before"


@planted
def test_a_target_that_never_fires_is_a_result_that_says_so(evaluated: Callable[..., Path]):
    place = evaluated(coordinates(), feature=NEVER)
    found = metrics(place)
    assert found["target_feature"] == NEVER
    assert found["faithfulness"] is found["depth"] is None
    assert "feature 20 of blocks.2.hook_resid_post does not fire" in found["undefined"]["depth"]
    assert [file.name for file in place.glob("*") if file.name != "manifest.json"] == ["metrics.json"]


@planted
def test_a_pattern_without_a_match_is_a_result_that_says_so(evaluated: Callable[..., Path]):
    found = metrics(evaluated(coordinates(), pattern="no such text"))
    assert found["target_feature"] is None
    assert "no feature of blocks.2.hook_resid_post fires on the 0 held-out" in found["undefined"]["target_feature"]


@planted
def test_a_layer_with_no_part_in_the_target_is_a_result_that_says_so(evaluated: Callable[..., Path]):
    """Without coordinate 0 the norm lets all others grow, so ablating it cuts nothing."""
    lower, hook_points = coordinates(), HOOK_POINTS[:2]
    lower.directions_nd[1:] = 0  # pyright: ignore[reportIndexIssue]
    found = metrics(evaluated(lower, coordinates(), hook_points=hook_points, feature=V))
    assert found["depth"] == 0
    assert found["decrease_children"] is found["faithfulness"] is None
    assert "no feature of blocks.0.hook_resid_post has a part in the target" in found["undefined"]["faithfulness"]

    lower.directions_nd[:] = 0  # pyright: ignore[reportIndexIssue]
    found = metrics(evaluated(lower, coordinates(), hook_points=hook_points, feature=V))
    assert found["depth"] is None
    assert "no feature of blocks.0.hook_resid_post is active" in found["undefined"]["depth"]


@planted
def test_a_feature_that_does_not_exist_is_a_result_that_says_so(evaluated: Callable[..., Path]):
    found = metrics(evaluated(coordinates(), feature=D))
    assert found["target_feature"] is found["faithfulness"] is None
    reason = "there is no feature 32: the dictionary of blocks.2.hook_resid_post has 32"
    assert found["undefined"]["target_feature"] == reason


@of_random_weights
def test_a_target_that_is_left_out_where_it_fires_is_a_result_that_says_so(stack: Stack, tmp_path: Path):
    silent = stack.target._replace(clean_JS=torch.zeros_like(stack.target.clean_JS))
    stack.target = silent
    with pytest.raises(NotMeasurable, match="attention sinks"):
        measure(tmp_path, stack, CircuitSpec(), str, Progress("circuit", 4, "parts"))


@planted
def test_a_dictionary_that_rebuilds_something_else_is_refused(evaluated: Callable[..., Path]):
    with pytest.raises(ExperimentError, match="does not rebuild what it reads"):
        evaluated(coordinates(), coordinates(), Transcoder(D, 64, d_out=D, k=4))
