"""Of which dictionaries the features are read, and how: for evaluations, and for the pages of single features."""

from collections.abc import Iterator

from flows.parameters import ExperimentConfig
from tasks.evaluation_specs import InterpretabilitySpec
from tasks.language_model import ModelDescription
from tasks.specs import PENALTIES, BaselineSpec, DictionarySpec, n_features

SPARSE_SHARE = 0.1  # of the features of an autoencoder that a penalty keeps sparse: a guess
DENSEST = (
    0.25  # of a baseline's codes may be above zero where its features have pages: of others there is little to see
)
FRAGMENT_LENGTH = 64

Read = tuple[int, int]
"""The length of fragments, and the seed that chooses them."""


def read_by_evaluations(config: ExperimentConfig) -> list[Read]:
    """How evaluations read features, each way once."""
    asked = [spec for spec in config.evaluations if isinstance(spec, InterpretabilitySpec)]
    return list(dict.fromkeys((spec.fragment_length, spec.seed) for spec in asked))


def read_by_pages(config: ExperimentConfig, about: DictionarySpec | BaselineSpec, width: int) -> Iterator[Read]:
    """How the pages of a dictionary read its features, as an evaluation does if there is one; nothing without pages."""
    by_evaluations = read_by_evaluations(config)
    sparse = active_features(about, width) <= DENSEST * n_features(about, width)
    if config.feature_pages and (about in config.dictionaries or (by_evaluations and sparse)):
        yield by_evaluations[0] if by_evaluations else (min(FRAGMENT_LENGTH, config.corpus.context_length), 0)


def codes_of_a_row(config: ExperimentConfig, model: ModelDescription) -> int:
    """Codes of a row that are not zero, of all dictionaries of a model whose features are read."""
    return sum(
        round(active_features(about, width)) * len({*read_by_evaluations(config), *read_by_pages(config, about, width)})
        for width in (model.width(hook_point) for hook_point in config.hook_points)
        for about in (*config.dictionaries, *config.baselines)
    )


def features_with_pages(config: ExperimentConfig, model: ModelDescription) -> int:
    """How many there are, of all dictionaries."""
    return sum(
        n_features(about, width) * len(list(read_by_pages(config, about, width)))
        for width in (model.width(hook_point) for hook_point in config.hook_points)
        for about in (*config.dictionaries, *config.baselines)
    )


def active_features(spec: DictionarySpec | BaselineSpec, width: int) -> float:
    """How many features of a row are not zero, about."""
    told = getattr(spec, "k", None) or getattr(spec, "target_l0", None)
    penalised = any(getattr(spec, name, 0) for name in PENALTIES)
    return told or n_features(spec, width) * (SPARSE_SHARE if penalised else 1)
