"""Everything that can be wrong is found before any work starts: names, shapes, sizes, disk, the home itself."""

import math
import os
from dataclasses import dataclass
from typing import Any

from flows.extension import find_base
from flows.feature_readings import codes_of_a_row, features_with_pages
from flows.parameters import ExperimentConfig
from flows.wording import size
from storage.artifacts import AnyStore, ArtifactRef
from storage.errors import StorageError
from tasks import corpus, language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.corpus import LocatedCorpus
from tasks.errors import ExperimentError
from tasks.evaluate import labelled_text
from tasks.evaluate.labelled_text import LocatedData
from tasks.evaluate.steering import prompt_of
from tasks.evaluation_specs import CircuitSpec, InterpretabilitySpec, PatternSpec, ProbingSpec, SteeringSpec
from tasks.feature_tables import SHOWN
from tasks.harvest import store_layout
from tasks.language_model import ModelDescription, layer_of, prepare_model
from tasks.loggers import check_loggers
from tasks.loss_gradients import BYTES_OF_A_NUMBER
from tasks.pattern_matches import compile_pattern
from tasks.samples import check_sampling, find_samples, samples_of
from tasks.specs import n_features

BYTES_OF_A_CODE = 8  # its place, and its value
BYTES_OF_A_PAGE = 8192  # what it shows; windows of the text are shared by some features (docs/numbers.md)
CHECKPOINT_COPIES = 4  # weights, two Adam moments, and the dictionary itself


@dataclass(frozen=True)
class Prepared:
    """An experiment whose every name was found and whose sizes fit."""

    config: ExperimentConfig
    model: ArtifactRef
    description: ModelDescription
    corpus: LocatedCorpus
    base: ArtifactRef | None
    """The tokens that the corpus goes on from."""
    samples: dict[str, Any] | None
    """What `sample_text` is given, where the corpus has samples."""
    dtype: str
    workers: int
    compute: Compute
    compute_harvest: Compute
    bytes_needed: dict[str, int]
    """By kind of artifact, before compression."""
    labelled: dict[str | None, LocatedData]
    """What probing reads, by the name that the experiment gives it."""

    @property
    def rows(self) -> int:
        """Token positions to harvest, both splits."""
        return sum(_rows(self.config))


def prepare(config: ExperimentConfig) -> Prepared:
    """Check an experiment against this machine, the model, the corpus and the home directory.

    Raises:
        ExperimentError: the first thing that is wrong, and what to do about it.
    """
    check_writable(artifacts())
    check_loggers(config.compute.loggers)
    device = language_model.resolve_device(config.compute.device)
    located_model = language_model.locate(config.model)
    located_corpus = corpus.locate(config.corpus)
    model = prepare_model.build(located=located_model)
    description = language_model.description(model)
    check_shapes(config, description)
    check_memory(config, description)
    check_evaluations(config, model, description)
    labelled = {spec.data: labelled_text.locate(spec) for spec in config.evaluations if isinstance(spec, ProbingSpec)}
    jobs = len(config.hook_points) * (len(config.dictionaries) + len(config.baselines))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sequential = config.compute.runner == "sequential"
    # A cluster elsewhere has cores of its own.
    most = jobs if config.compute.address else min(cores, jobs)
    workers = 1 if sequential else config.compute.workers or max(1, most)
    # A function of the configuration and the machine alone, and not of what is left to do: a run that was
    # interrupted must go on with the thread count it had, or its sums would differ in the last bit.
    threads = config.compute.threads or max(1, cores // workers)
    dtype = language_model.resolve_dtype(config.model.dtype, device)
    samples = samples_inputs(config, model, dtype, Compute(device=device, threads=config.compute.threads or cores))
    return Prepared(
        config=config,
        model=model,
        description=description,
        corpus=located_corpus,
        base=find_base(config.corpus, model, located_corpus, samples),
        samples=samples,
        dtype=dtype,
        workers=workers,
        compute=Compute(
            device=device,
            threads=threads,
            loggers=config.compute.loggers,
            resident_bytes=int(config.compute.resident_gib * 2**30),
            access=config.compute.access,
        ),
        compute_harvest=Compute(
            device=device,
            threads=config.compute.threads or max(1, cores // config.compute.harvest_workers),
            workers=config.compute.harvest_workers,
        ),
        bytes_needed=bytes_needed(config, description),
        labelled=labelled,
    )


def samples_inputs(config: ExperimentConfig, model: ArtifactRef, dtype: str, compute: Compute) -> dict[str, Any] | None:
    """What `sample_text` is given, where the corpus has samples; the model must be one that can write them."""
    samples = samples_of(config.corpus)
    if samples is None:
        return None
    inputs = {"model": model, "samples": samples, "dtype": dtype, "compute": compute}
    if find_samples(inputs) is None:
        check_sampling(model)
    return inputs


def check_writable(home: AnyStore) -> None:
    try:
        home.check_writable()
    except StorageError as error:
        raise ExperimentError(str(error)) from error


def check_shapes(config: ExperimentConfig, model: ModelDescription) -> None:
    limit = model.context_length
    if limit and config.corpus.context_length > limit:
        raise ExperimentError(
            f"corpus.context_length is {config.corpus.context_length}, and {model.name} reads at most {limit} tokens."
        )
    for split in ("tokens", "held_out_tokens"):
        if getattr(config.corpus, split) < config.corpus.context_length:
            raise ExperimentError(f"corpus.{split} is smaller than one row of corpus.context_length tokens.")
    for hook_point in config.hook_points:
        width = model.width(hook_point)
        for spec in (*config.dictionaries, *config.baselines):
            told = "target_l0" if hasattr(spec, "target_l0") else "k"
            k, n = getattr(spec, told, None), n_features(spec, width)
            if n < 1:
                raise ExperimentError(f"{spec.method}: its expansion gives no feature at width {width}; raise it.")
            if k is not None and k > n:
                raise ExperimentError(f"{spec.method}: {told} is {k:g}, and {hook_point} gives it only {n} features.")
            if spec.method in ("ica", "nmf") and config.corpus.tokens <= n:
                raise ExperimentError(f"{spec.method}: {hook_point} needs more than {n} rows; raise corpus.tokens.")
    if config.dictionaries and config.corpus.tokens < config.training.batch_size:
        raise ExperimentError(
            f"training.batch_size is {config.training.batch_size}, and corpus.tokens gives only "
            f"{config.corpus.tokens:,} rows."
        )


def check_evaluations(config: ExperimentConfig, model: ArtifactRef, told: ModelDescription) -> None:
    for spec in config.evaluations:
        if isinstance(spec, CircuitSpec | PatternSpec | SteeringSpec):
            compile_pattern(spec.pattern)
        if isinstance(spec, SteeringSpec):
            prompt_of(spec, language_model.load_tokenizer(model), told)
        if isinstance(spec, CircuitSpec | SteeringSpec) and spec.feature is not None:
            check_feature(config, spec, spec.feature, told)
        if isinstance(spec, InterpretabilitySpec):
            check_fragments(config, spec)


def check_feature(
    config: ExperimentConfig, spec: CircuitSpec | SteeringSpec, feature: int, told: ModelDescription
) -> None:
    """Refuse one that no dictionary has. For those that are too small, their result says so."""
    hook_points = config.hook_points
    if isinstance(spec, CircuitSpec):
        hook_points = (max(hook_points, key=layer_of),)  # where its target is
    methods = (*config.dictionaries, *config.baselines)
    most = max(n_features(about, told.width(hook_point)) for hook_point in hook_points for about in methods)
    if feature >= most:
        raise ExperimentError(
            f"{spec.evaluation}: there is no feature {feature}; no dictionary has more than {most:,}."
        )


def check_fragments(config: ExperimentConfig, spec: InterpretabilitySpec) -> None:
    length, corpus = spec.fragment_length, config.corpus
    if length > corpus.context_length:
        raise ExperimentError(
            f"interpretability: fragment_length is {length}, and rows have {corpus.context_length} tokens: raise "
            "corpus.context_length, or lower fragment_length."
        )
    if corpus.held_out_tokens // length < SHOWN:
        raise ExperimentError(
            f"interpretability: corpus.held_out_tokens gives {corpus.held_out_tokens // length} fragments of {length} "
            f"tokens, and a feature needs {SHOWN} in which it fires. Hold out more."
        )


def check_memory(config: ExperimentConfig, model: ModelDescription) -> None:
    """While a part of the activations is written the next one is computed, and both hold all hook points."""
    length = config.corpus.context_length
    layout = store_layout(model, "", (1,), length, config.hook_points, config.storage, seed=0)
    needed = 2 * 4 * layout.part_rows * sum(layout.hook_points.values())
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ExperimentError(
            f"harvesting {len(config.hook_points)} hook points at once takes {size(needed)} of memory, and this "
            f"machine has {size(there)}. Name fewer hook_points in one experiment, or lower corpus.context_length."
        )


def bytes_needed(config: ExperimentConfig, model: ModelDescription) -> dict[str, int]:
    """Disk for what takes any, by kind, not counting what codecs save."""
    length = config.corpus.context_length
    layouts = [
        store_layout(model, "", (rows // length,), length, config.hook_points, config.storage, seed=0)
        for rows in _rows(config)
    ]
    widths = [model.width(hook_point) for hook_point in config.hook_points]
    features = sum(n_features(spec, width) * width for width in widths for spec in config.dictionaries)
    models = 2 if config.random_model else 1
    pages = features_with_pages(config, model)
    gradients = BYTES_OF_A_NUMBER * sum(widths) * _rows(config)[1] if pages else 0
    return {
        "tokens": sum(_rows(config)) * 2 * 4,
        "activations": models * sum(layout.bytes() for layout in layouts),
        "dictionary": features * 2 * 4 * CHECKPOINT_COPIES,
        "features": models * BYTES_OF_A_CODE * _rows(config)[1] * codes_of_a_row(config, model),
        "gradients": gradients,
        "pages": BYTES_OF_A_PAGE * pages,
        "report": BYTES_OF_A_PAGE * pages,  # which has a copy
    }


def _rows(config: ExperimentConfig) -> tuple[int, int]:
    length = config.corpus.context_length
    return (
        math.ceil(config.corpus.tokens / length) * length,
        math.ceil(config.corpus.held_out_tokens / length) * length,
    )
