"""Try a report's dictionaries on any text: which features fire, and what the model writes with one of them changed.

Texts are read as the corpus was: behind the end-of-text token. Training leaves that first position out, so its features
are neither told nor changed. At every other position, of the text and of what is written,

    x' = x + (f' − f) w        f' = f + strength (steer), strength (clamp) or 0 (ablate)        w: what one unit writes

The text as it is and the changed one are continued side by side, with the same random numbers where it is sampled, from
the model's own distribution without the end-of-text token (as in tasks.evaluate.steering). The model runs in float32.

Shapes: T tokens without the first, P with it, d activation width, n features, V vocabulary.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.interventions import patch, write
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.capture import capture
from tasks.cells import all_rounded, named, slug_of
from tasks.compute import Compute
from tasks.errors import ExperimentError
from tasks.evaluate.steering import going_on
from tasks.evaluate.subject import load_subject
from tasks.language_model import ModelDescription, description, load, load_tokenizer, resolve_device
from tasks.patching import next_logits
from tasks.pattern_matches import spelled, token_bytes
from tasks.try_questions import TOKENS, ContinuationQuestion, FeaturesQuestion

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

FEATURES_TOLD = 512
"""For each token, the strongest ones: a dictionary that is not sparse has thousands."""

MODELS, DICTIONARIES = 2, 4
"""How many stay loaded: that of the experiment and the control; as many dictionaries as one compares."""


class Choice(NamedTuple):
    """A dictionary of a report."""

    slug: str
    ref: ArtifactRef
    name: str
    hook_point: str


class Model(NamedTuple):
    """A language model that is loaded."""

    bridge: TransformerBridge
    tokenizer: PreTrainedTokenizerBase
    told: ModelDescription


class Subject(NamedTuple):
    """A dictionary, and the model whose activations it reads."""

    dictionary: Dictionary
    hook_point: str
    model: Model


def choices(report: ArtifactRef) -> list[Choice]:
    """The dictionaries of a report, in its order.

    Raises:
        DamagedArtifact: the report's manifest cannot be read.
    """
    store = artifacts()
    inputs = (ArtifactRef(**ref) for ref in store.manifest(report)["inputs"].values())
    made = {str(ref): ref for ref in inputs if ref.kind == "dictionary"}
    rows = json.loads(store.location(report).read("dictionaries.json"))
    return [
        Choice(
            slug=slug_of(row["method"], row["hook_point"], row["ref"]),
            ref=made[row["ref"]],
            name=f"{row['hook_point']}: {named(row, rows)}",
            hook_point=row["hook_point"],
        )
        for row in rows
    ]


class Workbench:
    """Loads dictionaries and models when they are first asked for, and keeps the last few."""

    def __init__(self) -> None:
        # Half of the processors: where others are at work on the rest, threads that wait for each other at every small
        # product take ten times as long as one.
        Compute(threads=max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // 2))).apply()
        self._model = lru_cache(MODELS)(_load_model)
        self._dictionary = lru_cache(DICTIONARIES)(_load_dictionary)

    def subject(self, report: ArtifactRef, slug: str) -> Subject:
        """A dictionary of a report with its model.

        Raises:
            ExperimentError: the report has no such dictionary, or it or its model cannot be used here.
            DamagedArtifact: what is needed is gone or not whole.
        """
        known = choices(report)
        choice = next((choice for choice in known if choice.slug == slug), None)
        if choice is None:
            raise ExperimentError(
                f"this report has no dictionary {slug!r}. It has: {', '.join(choice.slug for choice in known)}."
            )
        model = model_of(choice.ref)
        # References are frozen models of pydantic, which have a hash that its types do not tell of.
        dictionary = self._dictionary(choice.ref, choice.hook_point, model)  # pyright: ignore[reportArgumentType]
        return Subject(dictionary, choice.hook_point, self._model(model))  # pyright: ignore[reportArgumentType]


def model_of(dictionary: ArtifactRef) -> ArtifactRef:
    """The model on whose activations a dictionary was fitted."""
    store = artifacts()
    activations = store.manifest(dictionary)["inputs"]["activations"]
    return ArtifactRef(**store.manifest(ArtifactRef(**activations))["inputs"]["model"])


def _load_dictionary(ref: ArtifactRef, hook_point: str, model: ArtifactRef) -> Dictionary:
    artifacts().verify(ref)
    return load_subject(ref, description(model).width(hook_point), Compute(device=resolve_device("auto")))


def _load_model(ref: ArtifactRef) -> Model:
    artifacts().verify(ref)
    told = description(ref)
    try:
        return Model(load(ref, "float32", resolve_device("auto")), load_tokenizer(ref), told)
    except OSError as error:  # a directory or a hub model that this machine does not have
        raise ExperimentError(f"the model {told.name} cannot be loaded on this machine: {error}") from error


def read(model: Model, text: str, new_tokens: int = 0) -> list[int]:
    """The tokens of a text, behind the end-of-text token.

    Raises:
        ExperimentError: they are too many, with as many new ones.
    """
    tokens = model.tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) > TOKENS:
        raise ExperimentError(f"the text has {len(tokens)} tokens, and {TOKENS} can be tried at once. Shorten it.")
    context = model.told.context_length
    if context and 1 + len(tokens) + new_tokens > context:
        raise ExperimentError(
            f"the text has {len(tokens)} tokens{f', and {new_tokens} are to be written' if new_tokens else ''}: "
            f"{model.told.name} reads at most {context - 1}. Shorten it{' or write fewer' if new_tokens else ''}."
        )
    end: Any = model.tokenizer.eos_token_id
    return [int(end), *tokens]


@torch.inference_mode()
def activations(subject: Subject, tokens_P: list[int]) -> Float[Tensor, "T n"]:
    """What each feature is at each token."""
    row_1P = np.array([tokens_P])
    x_Pd = capture(subject.model.bridge, row_1P, [subject.hook_point])[subject.hook_point]
    return subject.dictionary.encode(x_Pd[1:].to(subject.dictionary.weight)).float().cpu()


def features(subject: Subject, question: FeaturesQuestion) -> dict[str, Any]:
    """`{n_features, tokens: [{text, active, features, values}], feature: its value at each token, or None}`.

    `active` counts the features that are not zero; `features` are the FEATURES_TOLD strongest of them, from the
    strongest on, and `values` theirs.
    """
    n = subject.dictionary.n_features
    _check_feature(subject, question.feature)
    tokens = read(subject.model, question.text)
    if len(tokens) == 1:
        return {"n_features": n, "tokens": [], "feature": None if question.feature is None else []}
    f_Tn = activations(subject, tokens)
    active_T = (f_Tn != 0).sum(1).tolist()
    strongest = f_Tn.abs().topk(min(FEATURES_TOLD, max(active_T)), dim=1).indices
    values = f_Tn.gather(1, strongest)
    spelling = token_bytes(subject.model.tokenizer, sorted(set(tokens[1:])))
    told = [
        {
            "text": spelled(spelling[token]),
            "active": active,
            "features": which.tolist()[:active],
            "values": all_rounded(f.tolist())[:active],
        }
        for token, active, which, f in zip(tokens[1:], active_T, strongest, values, strict=True)
    ]
    followed = None if question.feature is None else all_rounded(f_Tn[:, question.feature].tolist())
    return {"n_features": n, "tokens": told, "feature": followed}


def continuations(subject: Subject, question: ContinuationQuestion) -> Iterator[dict[str, str]]:
    """What is written up to now, `{unsteered, steered}`, after each token.

    Raises:
        ExperimentError: there is no such feature, or the text is too long.
    """
    _check_feature(subject, question.feature)
    tokens = read(subject.model, question.text, question.new_tokens)
    tokenizer = subject.model.tokenizer
    for written_2T in _written(subject, tokens, question):
        unsteered, steered = (str(tokenizer.decode(row)) for row in written_2T)
        yield {"unsteered": unsteered, "steered": steered}


@torch.inference_mode()
def edited(
    subject: Subject, question: ContinuationQuestion, w_d: Float[Tensor, " d"], x_Td: Float[Tensor, "T d"]
) -> Float[Tensor, "T d"]:
    """Activations with the feature changed."""
    if question.edit == "steer":
        change_T = torch.full((len(x_Td),), question.strength, device=x_Td.device)
    else:
        wanted = question.strength if question.edit == "clamp" else 0.0
        codes_Tn = subject.dictionary.encode(x_Td.to(subject.dictionary.weight))
        change_T = wanted - codes_Tn[:, question.feature].float()
    return patch(x_Td, change_T[:, None], w_d[None])


def _written(
    subject: Subject, tokens_P: list[int], question: ContinuationQuestion
) -> Iterator[Int[np.ndarray, "2 written"]]:
    """What follows the tokens, as the model is and with the change, after each new token."""
    end, w_d = tokens_P[0], write(subject.dictionary, question.feature).float()
    generator = torch.Generator().manual_seed(question.seed)
    rows, cache = np.tile(tokens_P, (2, 1)), None
    for _ in range(question.new_tokens):
        unread = rows if cache is None else rows[:, -1:]
        first = 1 if cache is None else 0  # the position that begins every text stays as it is

        def replace(x: Tensor, first: int = first) -> Tensor:
            x_2Pd = x.unflatten(0, (2, -1)).clone()
            x_2Pd[1, first:] = edited(subject, question, w_d, x_2Pd[1, first:])
            return x_2Pd.flatten(0, 1)

        predicted_2V, cache = next_logits(subject.model.bridge, unread, subject.hook_point, replace, cache)
        log_p_2V = going_on(predicted_2V, end).cpu()
        if question.sampling == "greedy":
            next_2 = log_p_2V.argmax(1)
        else:
            up_to_2V = log_p_2V.exp().double().cumsum(-1)
            drawn = torch.rand((), generator=generator, dtype=torch.float64)
            next_2 = (up_to_2V <= drawn * up_to_2V[:, -1:]).sum(1)
        rows = np.concatenate([rows, next_2[:, None].numpy()], 1)
        yield rows[:, len(tokens_P) :]


def _check_feature(subject: Subject, feature: int | None) -> None:
    n = subject.dictionary.n_features
    if feature is not None and feature >= n:
        raise ExperimentError(f"there is no feature {feature}: the dictionary has {n:,}, numbered from 0.")
