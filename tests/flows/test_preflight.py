import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flows.parameters import ExperimentConfig, load_config
from flows.preflight import prepare
from flows.room import ready
from tasks.caching import artifacts
from tasks.corpus import tokenize
from tasks.errors import ExperimentError
from tasks.evaluation_specs import CircuitSpec, SteeringSpec
from tasks.harvest import harvest
from tests.conftest import write_text

pytestmark = pytest.mark.usefixtures("home")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hook_points=[blocks.1.hook_resid_pst]", r"hook_resid_pst.*Nearest: blocks\.1\.hook_resid_post"),
        ("hook_points=[blocks.7.hook_resid_post]", "3 layers"),
        ("model.source=/no/such/model", "/no/such/model.*Give a hub id"),
        ("corpus.tokens=10000000000000", r"needs about [\d,]+ bytes .* are free\. Lower corpus\.tokens"),
        ("corpus.sources=[/dev/null]", "/dev/null"),
        ("corpus.sources=[package:nothing-like-it]", "not installed"),
        ("corpus.context_length=4096", "reads at most 64 tokens"),
        ("corpus.tokens=16", "smaller than one row"),
        ("dictionaries.1.k=1000", "k is 1000, and .* only 64 features"),
        ("dictionaries.0.expansion=0.001", "gives no feature"),
        ("training={lr_warmup: 0.5, lr_decay: 0.8}", "together at most 1"),
        ("training.batch_size=1000000", r"training\.batch_size"),
        ("evaluations=[{evaluation: steering, feature: 128}]", "no feature 128; no dictionary has more than 128"),
        ("evaluations=[{evaluation: circuit, feature: 128}]", "no feature 128; no dictionary has more than 128"),
        ("evaluations=[{evaluation: steering, new_tokens: 64}]", "64 new_tokens are more than the 64 that"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(tiny_yaml: Path, override: str, message: str):
    with pytest.raises(ExperimentError, match=message):
        ready(load_config(str(tiny_yaml), [override]))
    assert not list(artifacts().home.glob("tokens/*"))


def test_a_feature_that_one_dictionary_has_may_be_asked_of_all(tiny_yaml: Path):
    for evaluation in ("steering", "circuit"):
        override = f"evaluations=[{{evaluation: {evaluation}, feature: 127}}]"
        (asked,) = prepare(load_config(str(tiny_yaml), [override])).config.evaluations
        assert isinstance(asked, SteeringSpec | CircuitSpec)
        assert asked.feature == 127


def test_an_empty_corpus_is_refused(tiny_yaml: Path, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(ExperimentError, match=r"empty\.txt' holds no text"):
        prepare(load_config(str(tiny_yaml), [f"corpus.sources=[{tmp_path / 'empty.txt'}]"]))


def test_threads_do_not_depend_on_what_is_left_to_do(tiny_yaml: Path):
    config = load_config(str(tiny_yaml), ["compute={device: cpu}"])
    first = prepare(config)
    tokenize.build(model=first.model, corpus=first.corpus)
    assert prepare(config).compute == first.compute
    assert prepare(config).workers * prepare(config).compute.threads <= prepare(config).compute_harvest.threads


def test_in_a_cluster_all_jobs_may_be_made_at_once(tiny_yaml: Path):
    cluster = "runner: dask, address: tcp://127.0.0.1:1"
    assert prepare(load_config(str(tiny_yaml), [f"compute={{device: cpu, {cluster}}}"])).workers == 10
    assert prepare(load_config(str(tiny_yaml), [f"compute={{device: cpu, workers: 3, {cluster}}}"])).workers == 3


def test_hook_points_that_do_not_fit_in_memory_together_are_refused(tiny_yaml: Path, monkeypatch: pytest.MonkeyPatch):
    config = load_config(str(tiny_yaml))
    prepare(config)
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}[name])
    with pytest.raises(ExperimentError, match=r"2 hook points at once takes [\d.]+ MiB of memory, .* has 3\.9 MiB"):
        prepare(config)


def test_activations_that_are_gone_on_from_need_no_room_again(
    tiny_experiment: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "texts"
    folder.mkdir()
    corpus = {"sources": [str(folder)], "tokens": 60_000, "held_out_tokens": 4000, "context_length": 32}

    def extended(**more: Any) -> ExperimentConfig:
        return ExperimentConfig.model_validate({**tiny_experiment, "corpus": {**corpus, **more}})

    def add(name: str, seed: int) -> None:
        texts = write_text(60, seed).split("\n\n")
        (folder / name).write_text("\n".join(json.dumps({"text": text}) for text in texts))

    add("a.jsonl", seed=1)
    first = prepare(extended())
    tokens = tokenize.build(model=first.model, corpus=first.corpus, base=None)
    activations = harvest.build(
        model=first.model,
        tokens=tokens,
        hook_points=first.config.hook_points,
        dtype=first.dtype,
        storage=first.config.storage,
        compute=first.compute_harvest,
    )
    add("b.jsonl", seed=2)
    config = extended(extends=str(tokens))
    harvested = sum(file["size"] for file in artifacts().manifest(activations)["files"])
    total = sum(prepare(config).bytes_needed.values())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(1.05 * (total - harvested / 2))))
    ready(config)
    artifacts().remove(activations)
    with pytest.raises(ExperimentError, match="needs about"):
        ready(config)
