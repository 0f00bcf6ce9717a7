"""The evaluations that an experiment asks for, beyond reconstruction, as steps with their inputs."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from flows.feature_readings import read_by_evaluations, read_by_pages
from flows.preflight import Prepared
from storage.artifacts import ArtifactRef
from tasks.caching import Step
from tasks.evaluate.circuit import evaluate_circuit
from tasks.evaluate.erasure import evaluate_erasure
from tasks.evaluate.faithfulness import evaluate_faithfulness
from tasks.evaluate.interpretability import evaluate_interpretability
from tasks.evaluate.ioi import evaluate_ioi
from tasks.evaluate.pattern import evaluate_pattern
from tasks.evaluate.probing import evaluate_probing
from tasks.evaluate.steering import evaluate_steering
from tasks.evaluation_specs import (
    CircuitSpec,
    ErasureSpec,
    EvaluationSpec,
    FaithfulnessSpec,
    InterpretabilitySpec,
    IOISpec,
    PatternSpec,
    ProbingSpec,
    SteeringSpec,
)
from tasks.feature_pages import feature_pages
from tasks.features import read_features
from tasks.language_model import layer_of
from tasks.specs import BaselineSpec, DictionarySpec


class Made(NamedTuple):
    """A dictionary of the experiment; `ref` is None where a plan found none."""

    name: str
    hook_point: str
    about: DictionarySpec | BaselineSpec
    ref: ArtifactRef | None


class Study(NamedTuple):
    """One evaluation of one dictionary, or of those of one method at all hook points."""

    name: str
    step: Step[...]
    inputs: dict[str, Any]


class Reading(NamedTuple):
    """The features of one dictionary, as evaluations read them."""

    made: Made
    fragment_length: int
    seed: int


def readings(prepared: Prepared, dictionaries: Sequence[Made]) -> list[Reading]:
    """What evaluations read of the dictionaries' features, each once."""
    return [Reading(made, *read) for read in read_by_evaluations(prepared.config) for made in dictionaries]


def paged(prepared: Prepared, dictionaries: Sequence[Made]) -> list[Reading]:
    """What the pages of single features read of these dictionaries."""
    config, width = prepared.config, prepared.description.width
    return [
        Reading(made, *read)
        for made in dictionaries
        for read in read_by_pages(config, made.about, width(made.hook_point))
    ]


def pages_of(
    reading: Reading, prepared: Prepared, given: Mapping[str, ArtifactRef | None], features: ArtifactRef | None
) -> Study:
    """The step that writes pages.

    Args:
        given: `model`, `tokens` and `gradients`.
    """
    made = reading.made
    inputs = {
        **given,
        "name": str(made.ref),
        "dictionary": made.ref,
        "features": features,
        "hook_point": made.hook_point,
        "compute": prepared.compute,
    }
    return Study(f"pages {made.name}", feature_pages, inputs)


def study_of(reading: Reading, prepared: Prepared, given: Mapping[str, ArtifactRef | None]) -> Study:
    """The step that reads features."""
    made = reading.made
    inputs = {
        **given,
        "dictionary": made.ref,
        "hook_point": made.hook_point,
        "rows": prepared.config.training.rows,
        "fragment_length": reading.fragment_length,
        "seed": reading.seed,
        "compute": prepared.compute,
    }
    return Study(f"features {made.name}", read_features, inputs)


def studies(
    prepared: Prepared,
    given: Mapping[str, ArtifactRef | None],
    dictionaries: Sequence[Made],
    features: Mapping[Reading, ArtifactRef | None],
) -> Iterator[Study]:
    """Every evaluation of the experiment, on every dictionary that was made of a model's activations.

    Args:
        given: `model`, `tokens` and `activations`.
    """
    for spec in prepared.config.evaluations:
        if isinstance(spec, CircuitSpec):
            yield from _circuits(spec, prepared, given, dictionaries)
            continue
        step, inputs = _step(spec, prepared, given)
        for made in dictionaries:
            own: dict[str, Any] = {"dictionary": made.ref, "hook_point": made.hook_point, "compute": prepared.compute}
            if isinstance(spec, InterpretabilitySpec):
                own["features"] = features[Reading(made, spec.fragment_length, spec.seed)]
            yield Study(f"{title(spec)} {made.name}", step, {**inputs, **own})


def _step(spec: EvaluationSpec, prepared: Prepared, given: Mapping[str, Any]) -> tuple[Step[...], dict[str, Any]]:
    """The step, and what it needs beside the dictionary."""
    model, tokens = {"model": given["model"]}, {"tokens": given["tokens"]}
    rows = {"activations": given["activations"], "rows": prepared.config.training.rows}
    match spec:
        case FaithfulnessSpec():
            own = {"dtype": prepared.dtype, "max_tokens": spec.tokens}
            return evaluate_faithfulness, {**model, **tokens, **rows, **own}
        case IOISpec():
            return evaluate_ioi, {**model, "spec": spec}
        case ErasureSpec():
            return evaluate_erasure, {**model, **tokens, "spec": spec}
        case PatternSpec():
            return evaluate_pattern, {**model, **tokens, **rows, "spec": spec}
        case ProbingSpec():
            return evaluate_probing, {**model, "data": prepared.labelled[spec.data], "spec": spec}
        case SteeringSpec():
            return evaluate_steering, {**model, **tokens, **rows, "spec": spec}
        case InterpretabilitySpec():
            return evaluate_interpretability, {**model, **tokens, "spec": spec.resolved()}
        case CircuitSpec():
            raise TypeError("a circuit is of several dictionaries")


def _circuits(
    spec: CircuitSpec, prepared: Prepared, given: Mapping[str, ArtifactRef | None], dictionaries: Sequence[Made]
) -> Iterator[Study]:
    """One of each method, whose dictionaries stand in the order of their layers."""
    for about in dict.fromkeys(made.about for made in dictionaries):
        layers = sorted(
            (made for made in dictionaries if made.about == about), key=lambda made: layer_of(made.hook_point)
        )
        inputs = {
            "dictionaries": tuple(made.ref for made in layers),
            "hook_points": tuple(made.hook_point for made in layers),
            **given,
            "rows": prepared.config.training.rows,
            "spec": spec,
            "compute": prepared.compute,
        }
        name = layers[-1].name.replace(f" {layers[-1].hook_point}", "")
        yield Study(f"{title(spec)} {name}", evaluate_circuit, inputs)


def title(spec: EvaluationSpec) -> str:
    """What its table is called."""
    about = getattr(spec, "pattern", None) or getattr(spec, "explainer", None)
    return f"{spec.evaluation} {about}" if about else spec.evaluation
