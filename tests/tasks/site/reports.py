"""A report of a tiny experiment: real steps on a real small model, but for the studies that such a model cannot do.

A model with random weights has no idea of names: IOI and erasure are made up, in the form in which they leave results.
The pages of features are a few, and all of their text would break a page that takes text for markup.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from storage.artifacts import ArtifactRef, content_key
from storage.row_filter import RowFilter
from storage.tables import read_table, write_table
from tasks.baselines import fit_baseline
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.evaluate import erasure, ioi
from tasks.evaluate.circuit import evaluate_circuit
from tasks.evaluate.faithfulness import evaluate_faithfulness
from tasks.evaluate.interpretability import evaluate_interpretability
from tasks.evaluate.interpretability_comparison import compare_interpretability
from tasks.evaluate.pattern import evaluate_pattern
from tasks.evaluate.reconstruction import evaluate_reconstruction
from tasks.evaluate.results import METRICS, write_metrics
from tasks.evaluate.steering import evaluate_steering
from tasks.evaluation_specs import CircuitSpec, ErasureSpec, InterpretabilitySpec, IOISpec, PatternSpec, SteeringSpec
from tasks.features import read_features
from tasks.report import report
from tasks.site.material import About
from tasks.site.pages import write_script
from tasks.specs import PCASpec, RandomSpec, TiedReLUSpec, TopKSpec, TrainingSpec
from tasks.train import train
from tests.browser.site_data import HOSTILE, Synthetic
from tests.conftest import write_text
from tests.tasks.evaluate import subjects

HOOK_POINTS = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post")
ROWS = RowFilter(skip_first_position=True, max_norm_ratio=10.0)
COMPUTE = Compute(threads=1)
EVIL = "</script><script>alert(1)</script>"
PATTERN = "dog|cat"
LENGTH = 16

Row = dict[str, Any]


class Made(NamedTuple):
    """A report, and what it was made from."""

    ref: ArtifactRef
    inputs: dict[str, Any]
    sources: tuple[Path, ...]
    """The directories of all artifacts that it tells of."""

    @property
    def place(self) -> Path:
        return artifacts().path(self.ref)


@contextmanager
def tiny_report_of(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """A report in a home of its own, which is the home until the end of the block."""
    words = write_text(100).split()
    documents = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
    with subjects.harvested(
        tiny_model, tmp_path_factory, *HOOK_POINTS, documents=documents, held_out_tokens=4096
    ) as refs:
        yield make_report(**refs)


def make_report(model: ArtifactRef, tokens: ArtifactRef, activations: ArtifactRef) -> Made:
    """A report of two methods and two baselines at two hook points, with every kind of study."""
    given = {"model": model, "tokens": tokens, "activations": activations}
    dictionaries: dict[str, list[ArtifactRef]] = {hook_point: [] for hook_point in HOOK_POINTS}
    for hook_point, refs in dictionaries.items():
        at = {"activations": activations, "hook_point": hook_point, "compute": COMPUTE}
        training = TrainingSpec(batch_size=256, epochs=2)
        for trained in (TopKSpec(expansion=2, k=4), TiedReLUSpec(expansion=2)):
            refs.append(train.build(**at, dictionary=trained, training=training))
        for baseline in (PCASpec(k=4), RandomSpec(expansion=2)):
            refs.append(fit_baseline.build(**at, baseline=baseline, rows=ROWS))
    all_of_them = [(ref, hook_point) for hook_point, refs in dictionaries.items() for ref in refs]

    reconstructions, studies, interpreted, pages = [], [], [], []
    for ref, hook_point in all_of_them:
        of = {"dictionary": ref, "hook_point": hook_point, "compute": COMPUTE}
        reconstructions.append(evaluate_reconstruction.build(**of, activations=activations, rows=ROWS))
        studies.append(evaluate_faithfulness.build(**given, **of, rows=ROWS, dtype="float32", max_tokens=512))
    for ref in dictionaries[HOOK_POINTS[1]][:3]:
        of = {"dictionary": ref, "hook_point": HOOK_POINTS[1], "compute": COMPUTE}
        pattern = PatternSpec(pattern=PATTERN, tokens=2048)
        studies.append(evaluate_pattern.build(**given, **of, rows=ROWS, spec=pattern))
        features = read_features.build(**given, **of, rows=ROWS, fragment_length=LENGTH, seed=0)
        told = InterpretabilitySpec(features=6, fragment_length=LENGTH)
        interpreted.append(
            evaluate_interpretability.build(model=model, tokens=tokens, features=features, **of, spec=told)
        )
        studies += [interpreted[-1], made_up_ioi(ref, model), made_up_erasure(ref, model)]
        pages.append(made_up_pages(ref, HOOK_POINTS[1], features))
        if ref == dictionaries[HOOK_POINTS[1]][0]:
            studies.append(made_up_interpretability(interpreted[-1], ref, model, features))
    first = dictionaries[HOOK_POINTS[1]][0]
    steered = SteeringSpec(pattern=PATTERN, prompt="the cat", strengths=(0, 2), new_tokens=4, samples=2, tokens=2048)
    of = {"dictionary": first, "hook_point": HOOK_POINTS[1], "compute": COMPUTE}
    studies.append(evaluate_steering.build(**given, **of, rows=ROWS, spec=steered))
    pair = (dictionaries[HOOK_POINTS[0]][0], first)
    circuit = CircuitSpec(pattern=PATTERN, tokens=2048, contexts=4, children=3)
    studies.append(
        evaluate_circuit.build(
            **given, dictionaries=pair, hook_points=HOOK_POINTS, rows=ROWS, spec=circuit, compute=COMPUTE
        )
    )
    below = {"dictionary": pair[0], "hook_point": HOOK_POINTS[0], "compute": COMPUTE}
    features = read_features.build(**given, **below, rows=ROWS, fragment_length=LENGTH, seed=0)
    pages.append(made_up_pages(pair[0], HOOK_POINTS[0], features))
    compared = compare_interpretability.build(names=tuple(map(str, interpreted)), evaluations=tuple(interpreted))

    refs = [ref for ref, _ in all_of_them]
    inputs = {
        "about": About(name="tiny", config={"name": "tiny", "corpus": {"seed": 0}, "note": EVIL, "texts": HOSTILE}),
        "names": tuple(map(str, [*refs, *studies, compared])),
        "dictionaries": tuple(refs),
        "evaluations": tuple(reconstructions),
        "studies": tuple(studies),
        "comparisons": (compared,),
        "pages": tuple(pages),
    }
    read = [*given.values(), *refs, *reconstructions, *studies, compared, *pages]
    return Made(report.build(**inputs), inputs, tuple(artifacts().path(ref) for ref in read))


def made_up(kind: str, spec: Row, fill: Callable[[Path], None], **inputs: ArtifactRef) -> ArtifactRef:
    """An artifact that no step made."""
    key = content_key(kind, "1", spec, {name: ref.digest for name, ref in inputs.items()})
    return artifacts().build(kind, key, fill, code_version="1", spec=spec, inputs=inputs, resumable=False)


def made_up_ioi(dictionary: ArtifactRef, model: ArtifactRef) -> ArtifactRef:
    rng = random.Random(dictionary.key)

    def fill(place: Path) -> None:
        curves = [
            {"seed": seed, "ranking": ranking, "features": size, "kl": 3 / (1 + size) + rng.random() / 10,
             "recovery": rng.random(), "edit": size**0.5 + rng.random() / 10}
            for seed in range(3) for ranking in ("shared", "each") for size in (0, 1, 2, 4, 8, 16 + seed)
        ]  # fmt: skip
        write_table(place / "curves.parquet", curves)
        features = [
            {"rank": rank, "feature": rank * 3, "attribution": -rng.random(),
             "exact_effect": -rng.random() if rank < 4 else None}
            for rank in range(8)
        ]  # fmt: skip
        write_table(place / "features.parquet", features)
        # Parquet is UTF-8, which has no halves of surrogate pairs.
        text = "".join([EVIL, *HOSTILE]).encode(errors="replace").decode()
        prompts = [{"seed": 0, "order": "ABBA", "text": text, "counterfactual": "b", "logit_difference": 1.5}]
        write_table(place / "prompts.parquet", prompts)
        values = {name: rng.uniform(1, 9) for name in ioi.COLUMNS if name != "recovery_at_16"}
        intervals = {name: [value - 0.5, value + 0.5] for name, value in values.items()}
        undefined = {"recovery_at_16": f"the counterfactuals change nothing {EVIL}"}
        write_metrics(place, "ioi", ioi.COLUMNS, values, intervals, undefined)

    spec = {"hook_point": HOOK_POINTS[1], "spec": IOISpec().model_dump(mode="json")}
    return made_up("evaluation", spec, fill, dictionary=dictionary, model=model)


def made_up_erasure(dictionary: ArtifactRef, model: ArtifactRef) -> ArtifactRef:
    rng = random.Random(dictionary.key)

    def fill(place: Path) -> None:
        rows = [
            {"seed": seed, "intervention": name, "p_correct": rng.uniform(0.5, 1), "edit": rng.random(),
             "transfer_p_correct": rng.uniform(0.5, 1), "side_effect_kl": rng.random()}
            for seed in range(3) for name in ("clean", *erasure.INTERVENTIONS)
        ]  # fmt: skip
        write_table(place / "interventions.parquet", rows)
        features = [
            {"seed": seed, "rank": rank, "feature": rank + 5, "cosine": rng.random(), "active": rng.random()}
            for seed in range(3) for rank in range(4)
        ]  # fmt: skip
        write_table(place / "features.parquet", features)
        values = {name: rng.random() for name in erasure.COLUMNS}
        intervals = {name: [value - 0.1, value + 0.1] for name, value in values.items()}
        write_metrics(place, "erasure", erasure.COLUMNS, values, intervals)

    spec = {"hook_point": HOOK_POINTS[1], "spec": ErasureSpec().model_dump(mode="json")}
    return made_up("evaluation", spec, fill, dictionary=dictionary, model=model)


def made_up_interpretability(
    like: ArtifactRef, dictionary: ArtifactRef, model: ArtifactRef, features: ArtifactRef
) -> ArtifactRef:
    """What another explainer said of the features that `like` was asked about: other words, half the values.

    Its fragments are the same, but found under another name."""
    source = artifacts().path(like)

    def fill(place: Path) -> None:
        for row in (scores := read_table(source / "scores.parquet").to_pylist()):
            row["explanation"], row["missing"] = None, "the server gave no answer"
        scores[0] |= {"explanation": f"contrast {EVIL}", "missing": None}
        write_table(place / "scores.parquet", scores)
        simulations = read_table(source / "simulations.parquet").to_pylist()
        halved = [{**row, "simulated": row["simulated"] and row["simulated"] / 2} for row in simulations]
        write_table(place / "simulations.parquet", halved)
        shutil.copyfile(source / METRICS, place / METRICS)

    asked = InterpretabilitySpec(features=6, fragment_length=LENGTH).model_dump(mode="json")
    spec = {"hook_point": HOOK_POINTS[1], "spec": {**asked, "explainer": "contrastive"}}
    again = features.model_copy(update={"key": "0" * len(features.key)})
    return made_up("evaluation", spec, fill, dictionary=dictionary, model=model, features=again)


def made_up_pages(dictionary: ArtifactRef, hook_point: str, features: ArtifactRef) -> ArtifactRef:
    """As tasks.feature_pages leaves them, as far as a report reads them."""
    n = artifacts().manifest(dictionary)["spec"].get("dictionary", {}).get("expansion", 1) * 32
    about: Mapping[str, Any] = {
        "slug": f"some-{hook_point}-{dictionary.key[:8]}", "ref": str(dictionary), "hook_point": hook_point,
        "n_features": int(n), "shard_size": 64,
    }  # fmt: skip

    def fill(place: Path) -> None:
        site = f"browse/{about['slug']}"
        luck = random.Random(dictionary.key)
        made = Synthetic(about["slug"], "some", about["n_features"], 0, luck.choices(HOSTILE, k=3000))
        write_script(place, f"{site}/index", made.index() | about)
        write_script(place, f"{site}/tokens", made.texts)
        write_script(place, f"{site}/shards/0000", made.shard(range(about["n_features"]))[0])
        (place / site / "about.json").write_text(json.dumps(about))

    return made_up("pages", {"name": str(dictionary)}, fill, dictionary=dictionary, features=features)
