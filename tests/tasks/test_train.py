import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sae_core.dictionary import load_dictionary
from sae_core.training import Trainer, TrainingConfig
from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from storage.errors import DamagedArtifact
from storage.layout import StoreLayout
from storage.tables import read_table
from tasks import train as train_module
from tasks.baselines import fit_baseline
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.reconstruction import evaluate_reconstruction
from tasks.specs import (
    BatchTopKSpec,
    GatedSpec,
    ICASpec,
    IdentitySpec,
    JumpReLUSpec,
    MatryoshkaBatchTopKSpec,
    NMFSpec,
    PCASpec,
    RandomSpec,
    ReLUSpec,
    RowFilter,
    TiedReLUSpec,
    TopKSpec,
    TrainingSpec,
    n_features,
)
from tasks.train import check_warm_start, train, train_further, untrained

HOOK = "blocks.0.hook_resid_post"
D = 16
LENGTH = 16


def activations_of(rows: torch.Tensor, seed: int = 0) -> ArtifactRef:
    """An activations artifact that holds these rows [n, d], as sequences of LENGTH tokens, in both splits."""

    def make(place: Path) -> None:
        for split in ("train", "held_out"):
            layout = StoreLayout(
                model="made-up", hook_points={HOOK: D}, dtype="float32", segments=(len(rows) // LENGTH,),
                context_length=LENGTH, seed=seed, tokens_digest="", chunk_rows=128, chunks_per_part=2,
            )  # fmt: skip
            store = ActivationStore.create(place / split, layout)
            for part in store.missing_parts():
                sequences = layout.part_sequences(part)
                ids = np.stack([np.repeat(sequences, LENGTH), np.tile(np.arange(LENGTH), len(sequences))], axis=1)
                store.write_part(part, {HOOK: rows[ids[:, 0] * LENGTH + ids[:, 1]]}, ids)
            store.seal()

    return artifacts().build("activations", f"made-{seed}", make, code_version="1", spec={}, inputs={}, resumable=False)


@pytest.fixture
def planted(home: Path) -> ArtifactRef:
    """Sparse sums of 24 directions, off centre, with a sink of enormous norm at every first position."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, D, generator=generator), dim=1)
    codes = torch.rand(4096, 24, generator=generator) * (torch.rand(4096, 24, generator=generator) < 0.1)
    rows = 3 * codes @ directions + 5.0
    rows[::LENGTH] = 1e4
    return activations_of(rows)


def inputs(activations: ArtifactRef, dictionary: Any, **training: Any) -> dict[str, Any]:
    return {
        "activations": activations,
        "hook_point": HOOK,
        "dictionary": dictionary,
        "training": TrainingSpec.model_validate({"batch_size": 64, "epochs": 3, **training}),
        "compute": Compute(),
    }


def evaluated(dictionary: ArtifactRef, activations: ArtifactRef) -> dict[str, Any]:
    ref = evaluate_reconstruction.build(
        dictionary=dictionary, activations=activations, hook_point=HOOK, rows=RowFilter(), compute=Compute()
    )
    return json.loads((artifacts().path(ref) / "metrics.json").read_text())


def test_a_trained_dictionary_takes_raw_activations_and_rebuilds_them(planted: ArtifactRef):
    dictionary = train.build(**inputs(planted, TopKSpec(expansion=3, k=6), epochs=10))
    metrics = evaluated(dictionary, planted)
    assert metrics["fvu"] < 0.2
    assert metrics["l0"] <= 6
    assert metrics["left_out"] == {"first_position": 256, "norm": 0, "kept": 3840}
    normalization = json.loads((artifacts().path(dictionary) / "config.json").read_text())["extra"]["normalization"]
    assert np.mean(normalization["mean"]) == pytest.approx(5.0, abs=0.5), "sinks are left out of the mean"


def test_a_dictionary_without_normalization_is_what_the_trainer_made(planted: ArtifactRef):
    ref = train.build(**inputs(planted, TiedReLUSpec(expansion=2, alpha=0.01), normalization="none"))
    log = read_table(artifacts().path(ref) / "training.parquet").to_pylist()
    assert log[-1]["step"] == 192
    assert log[-1]["fvu"] < log[0]["fvu"]
    assert torch.equal(load_dictionary(artifacts().path(ref)).center_d, torch.zeros(D))  # pyright: ignore[reportArgumentType]


METHODS = [
    TiedReLUSpec(expansion=2, alpha=0.01),
    ReLUSpec(expansion=2, l1_coefficient=1),
    GatedSpec(expansion=2, l1_coefficient=1),
    TopKSpec(expansion=3, k=6),
    BatchTopKSpec(expansion=3, k=6),
    MatryoshkaBatchTopKSpec(expansion=3, k=6, prefixes=(0.25, 0.5)),
    JumpReLUSpec(expansion=3, target_l0=6, learning_rate=3e-3),
    JumpReLUSpec(expansion=3, target_l0=None, coefficient=1e-3, penalty="tanh"),
]


@pytest.mark.parametrize("spec", METHODS, ids=lambda spec: spec.method)
def test_every_method_trains_with_every_schedule_and_takes_raw_activations(planted: ArtifactRef, spec: Any):
    schedules = {"lr_warmup": 0.1, "lr_decay": 0.5, "lr_decay_shape": "cosine", "sparsity_warmup": 0.2}
    ref = train.build(**inputs(planted, spec, epochs=8, resample_every_rows=5_000, **schedules))
    metrics = evaluated(ref, planted)
    assert metrics["fvu"] < 0.6
    assert 1 < metrics["l0"] < 48
    dictionary = load_dictionary(artifacts().path(ref))
    assert dictionary.method == spec.method
    weights = dictionary.get_parameter("W_nd" if spec.method == "tied_relu" else "W_dec_nd")
    if spec.method != "tied_relu":
        torch.testing.assert_close(weights.norm(dim=1), torch.ones(len(weights)), msg="codes are in raw units")


@pytest.mark.parametrize("spec", [METHODS[0], METHODS[4]], ids=lambda spec: spec.method)
def test_a_training_that_was_interrupted_ends_with_the_same_bytes(
    planted: ArtifactRef, monkeypatch: pytest.MonkeyPatch, spec: Any
):
    undisturbed = train.build(**inputs(planted, spec))
    artifacts().remove(undisturbed)
    monkeypatch.setattr(train_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(train_module, "CHECKPOINT_SHARE", 1e9)
    steps_before_death = [5, 1, 60, 64, 30]
    original = Trainer.step
    steps_taken = 0

    def mortal(self: Trainer, rows: torch.Tensor) -> None:
        nonlocal steps_taken
        steps_taken += 1
        if steps_before_death:
            if steps_before_death[0] == 0:
                steps_before_death.pop(0)
                raise KeyboardInterrupt
            steps_before_death[0] -= 1
        original(self, rows)

    monkeypatch.setattr(Trainer, "step", mortal)
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            train.build(**inputs(planted, spec))
    resumed = train.build(**inputs(planted, spec))
    assert resumed.digest == undisturbed.digest
    assert steps_taken == 192 + 5, "only the step under way at each death is done twice"
    assert not (artifacts().path(resumed) / "scratch").exists()


def test_a_death_after_the_last_step_costs_no_step(planted: ArtifactRef, monkeypatch: pytest.MonkeyPatch):
    spec = TopKSpec(expansion=3, k=6)
    undisturbed = train.build(**inputs(planted, spec))
    artifacts().remove(undisturbed)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "write_table", die)
        with pytest.raises(KeyboardInterrupt):
            train.build(**inputs(planted, spec))
    # A kill in the middle of writing a checkpoint leaves its temporary file.
    scratch = artifacts().path("dictionary", f"{undisturbed.key}").with_suffix(".partial") / "scratch"
    (scratch / "checkpoint.safetensors.partial").write_bytes(b"half")
    monkeypatch.setattr(Trainer, "step", die)
    assert train.build(**inputs(planted, spec)).digest == undisturbed.digest


def test_a_store_smaller_than_a_batch_says_so(planted: ArtifactRef):
    with pytest.raises(ExperimentError, match=r"fewer rows .* than one batch of 4000"):
        train.build(**inputs(planted, TopKSpec(k=4), batch_size=4000, epochs=30))


@pytest.mark.parametrize(
    "baseline",
    [
        PCASpec(k=None),
        PCASpec(k=6),
        PCASpec(k=None, centred=False, rectify=True),
        ICASpec(),
        ICASpec(rectify=True),
        NMFSpec(expansion=0.5),
        RandomSpec(expansion=2),
        IdentitySpec(),
    ],
)
def test_baselines_are_evaluated_like_any_dictionary(planted: ArtifactRef, baseline: Any):
    fitted = fit_baseline.build(
        activations=planted, hook_point=HOOK, baseline=baseline, rows=RowFilter(), compute=Compute()
    )
    metrics = evaluated(fitted, planted)
    assert metrics["fvu"] < 1
    if isinstance(baseline, PCASpec | ICASpec) and baseline.k is None:
        assert metrics["fvu"] < 1e-9
        assert metrics["l0"] == pytest.approx(D, rel=1e-3)
    assert load_dictionary(artifacts().path(fitted)).n_features == n_features(baseline, D)


def test_random_directions_are_not_those_that_training_begins_with(planted: ArtifactRef):
    at = {"hook_point": HOOK, "compute": Compute(), "activations": planted}
    random = fit_baseline.build(baseline=RandomSpec(expansion=2, seed=0), rows=RowFilter(), **at)
    begun = untrained(TopKSpec(expansion=2, k=4), D)
    Trainer(begun, TrainingConfig(steps=1, seed=0))
    cosines = torch.cosine_similarity(load_dictionary(artifacts().path(random)).directions, begun.directions)
    assert cosines.abs().max() < 0.95


def test_what_a_baseline_warned_of_is_in_its_manifest(planted: ArtifactRef, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae_core.baselines.ica.MAX_ITERATIONS", 1)
    fitted = fit_baseline.build(
        activations=planted, hook_point=HOOK, baseline=ICASpec(), rows=RowFilter(), compute=Compute()
    )
    assert "did not converge in 1 iterations" in json.dumps(artifacts().manifest(fitted))


def test_a_feature_that_never_fires_is_counted_as_dead_and_has_no_mean(planted: ArtifactRef):
    dictionary = train.build(**inputs(planted, TopKSpec(expansion=3, k=1), epochs=1))
    ref = evaluate_reconstruction.build(
        dictionary=dictionary, activations=planted, hook_point=HOOK, rows=RowFilter(), compute=Compute()
    )
    table = read_table(artifacts().path(ref) / "features.parquet").to_pydict()
    metrics = json.loads((artifacts().path(ref) / "metrics.json").read_text())
    dead = [feature for feature, density in zip(table["feature"], table["density"], strict=True) if density == 0]
    assert metrics["dead_fraction"] == pytest.approx(len(dead) / 48)
    assert dead
    for feature in table["feature"]:
        undefined = {name for name, column in table.items() if name != "undefined" and column[feature] is None}
        if feature in dead:
            assert undefined == {"mean", "skew", "kurtosis", "skew_uncentred", "kurtosis_uncentred"}
        else:
            assert not undefined
        assert table["undefined"][feature] == ("never active" if feature in dead else None)
        assert 0 < table["capacity"][feature] <= 1
    l0 = read_table(artifacts().path(ref) / "l0.parquet").to_pydict()
    assert sum(l0["rows"]) == metrics["rows"]
    assert np.average(l0["l0"], weights=l0["rows"]) == pytest.approx(metrics["l0"])


def warm(start: ArtifactRef, activations: ArtifactRef, dictionary: Any, **training: Any) -> ArtifactRef:
    return train_further.build(warm_start=start, **inputs(activations, dictionary, **training))


def other_rows() -> torch.Tensor:
    """Of another mean and scale than `planted`."""
    generator = torch.Generator().manual_seed(5)
    return 2 * torch.randn(4096, D, generator=generator) @ torch.randn(D, D, generator=generator) - 3


@pytest.mark.parametrize("spec", METHODS, ids=lambda spec: spec.method)
def test_a_warm_start_that_learns_nothing_is_the_old_dictionary_whatever_the_new_rows(planted: ArtifactRef, spec: Any):
    old = train.build(**inputs(planted, spec))
    rows = other_rows()
    further = activations_of(rows, seed=1)
    still = spec.model_copy(update={"learning_rate": 1e-12})
    new = warm(old, further, still, batch_size=2048, epochs=0.5)
    before, after = (load_dictionary(artifacts().path(ref)) for ref in (old, new))
    scales = [json.loads((artifacts().path(ref) / "config.json").read_text())["extra"] for ref in (old, new)]
    assert scales[0]["normalization"]["scale"] != pytest.approx(scales[1]["normalization"]["scale"], rel=0.1)
    for name, weights in before.state_dict().items():
        if name in ("threshold_average", "threshold_weight"):  # go on with what the new rows' batches show
            continue
        torch.testing.assert_close(after.state_dict()[name], weights, rtol=1e-4, atol=1e-4, msg=name)
    if "threshold_average" not in before.state_dict():
        torch.testing.assert_close(after(rows), before(rows), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("spec", METHODS, ids=lambda spec: spec.method)
def test_a_warm_start_begins_at_the_loss_that_training_had_reached(planted: ArtifactRef, spec: Any):
    def log(ref: ArtifactRef) -> list[dict[str, Any]]:
        return read_table(artifacts().path(ref) / "training.parquet").to_pylist()

    old = train.build(**inputs(planted, spec, epochs=10, lr_decay=0.5))
    still = spec.model_copy(update={"learning_rate": 1e-12})
    new = warm(old, planted, still, epochs=1, lr_decay=0)
    assert log(new)[0]["loss"] == pytest.approx(log(old)[-1]["loss"], rel=0.15)
    assert log(new)[0]["loss"] < 0.7 * log(old)[0]["loss"]


def test_a_warm_start_that_was_interrupted_ends_with_the_same_bytes(
    planted: ArtifactRef, monkeypatch: pytest.MonkeyPatch
):
    spec = BatchTopKSpec(expansion=3, k=6)
    old = train.build(**inputs(planted, spec, epochs=1))
    undisturbed = warm(old, planted, spec)
    artifacts().remove(undisturbed)
    monkeypatch.setattr(train_module, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    monkeypatch.setattr(train_module, "CHECKPOINT_SHARE", 1e9)
    original, steps = Trainer.step, 0

    def mortal(self: Trainer, rows: torch.Tensor) -> None:
        nonlocal steps
        steps += 1
        if steps in (1, 40):
            raise KeyboardInterrupt
        original(self, rows)

    monkeypatch.setattr(Trainer, "step", mortal)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            warm(old, planted, spec)
    assert warm(old, planted, spec).digest == undisturbed.digest
    assert steps == 192 + 2


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (BatchTopKSpec(expansion=3, k=6), r"is a topk dictionary, and batch_topk is to be trained"),
        (TopKSpec(expansion=2, k=6), r"has 48 features, and topk with expansion=2 has 32"),
    ],
)
def test_a_warm_start_of_another_kind_is_refused_before_any_step(
    planted: ArtifactRef, spec: Any, message: str, monkeypatch: pytest.MonkeyPatch
):
    old = train.build(**inputs(planted, TopKSpec(expansion=3, k=6), epochs=1))
    monkeypatch.setattr(Trainer, "step", None)
    with pytest.raises(ExperimentError, match=message):
        warm(old, planted, spec)


def test_a_warm_start_of_another_place_is_refused(planted: ArtifactRef):
    spec = TopKSpec(expansion=3, k=6)
    old = train.build(**inputs(planted, spec, epochs=1))
    with pytest.raises(ExperimentError, match=f"is a dictionary of {HOOK}: training at blocks.1"):
        check_warm_start(old, "blocks.1.hook_resid_post", spec, D)
    with pytest.raises(ExperimentError, match=r"width 16, and .* has 32: it is of another model"):
        check_warm_start(old, HOOK, spec, 32)
    artifacts().remove(old)
    with pytest.raises(DamagedArtifact):
        check_warm_start(old, HOOK, spec, D)
