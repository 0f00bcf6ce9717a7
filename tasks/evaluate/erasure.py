"""Concept erasure: how much of a name's gender the model loses with one feature (Cunningham et al. 2023, preprint).

Of the activations x at the edited positions of few-shot prompts (tasks.evaluate.erasure_prompts), with the names of one
half, let μ be the mean and δ the mean of the female class minus that of the male one. With the names of the other half
the model then answers while every edited x becomes

    feature             x − ⟨x − μ, u⟩ u        u the direction of the feature with the largest |cos(u, δ)|, of those
                                                that are active on more than 1 % of the positions
    leace               least-squares concept erasure (Belrose et al. 2023): the smallest change after which no linear
                        probe finds the class
    leace_by_position   the same fitted at each position of the few-shot prompts by itself; other text has no such
                        positions, and so it has no transfer and no side effects
    mean_difference     x − ⟨x − μ, u⟩ u        u along δ
    random              x − ⟨x − μ, u⟩ u        u of as many random directions as there are features, chosen as above
    random_same_edit    x − ⟨x − μ, u⟩ r        the feature's own edit, row by row as large, along that random direction

    p_correct             mean of p(right answer) / (p(right) + p(wrong)): 1/2 when nothing is left of the gender
    transfer_p_correct    the same in other prompts, which nothing was fitted on
    edit                  mean ‖x' − x‖₂ over the edited positions
    side_effect_kl        mean KL(clean ‖ edited) of the next token on held-out text, all but its first position edited

All numbers are means over the seeds, with t-intervals. `interventions.parquet` holds those of every seed and
intervention, `clean` among them; `features.parquet` the features with the largest cosines. A model that does not do the
task has nothing to be erased: its numbers are null.

Shapes: S prompts, P positions, R rows at edited positions, d activation width, n features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from concept_erasure import LeaceFitter
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.interventions import erase
from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import step
from tasks.capture import capture
from tasks.compute import Compute
from tasks.corpus import spread
from tasks.evaluate.erasure_prompts import GenderTask, NamedPrompts
from tasks.evaluate.results import NotMeasurable, means_over_seeds, write_metrics
from tasks.evaluate.subject import load_subject
from tasks.evaluation_specs import ErasureSpec
from tasks.language_model import description, load, load_tokenizer
from tasks.patching import Prompts, by_predictions, logits
from tasks.progress import Progress

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

INTERVENTIONS = ("feature", "leace", "leace_by_position", "mean_difference", "random", "random_same_edit")
MEASURES = ("p_correct", "transfer_p_correct", "edit", "side_effect_kl")
CHANCE = 0.5
CLEARLY = 0.1
"""By so much the model itself must beat chance."""
LEAST_ACTIVE = 0.01  # of the positions
FEATURES_TOLD = 20  # in features.parquet, of every seed

COLUMNS = {
    "p_correct": "P(correct) of the gender, of two answers, with the best feature projected out; 0.5 is chance",
    "p_correct_clean": "P(correct) of the model itself",
    "p_correct_leace": "P(correct) after LEACE, one for all positions",
    "p_correct_leace_by_position": "P(correct) after LEACE at each position: no linear probe finds anything there",
    "p_correct_mean_difference": "P(correct) with the difference of the class means projected out",
    "p_correct_random": "P(correct) with the best of as many random directions as features projected out",
    "p_correct_random_same_edit": "P(correct) with the feature's own edit turned into that random direction",
    "transfer_p_correct": "P(correct) with the feature projected out, in prompts of another kind",
    "edit": "How far the feature's projection moves an activation, in L2",
    "side_effect_kl": "KL(clean ‖ edited) of the next token on held-out text, with the feature projected out",
    "cosine": "|cosine| of the feature's direction to the difference of the class means",
}

Edit = Callable[[Float[Tensor, "*R d"]], Float[Tensor, "*R d"]]
"""Activations to edited ones."""

Row = dict[str, Any]
"""Of a table."""


@step(kind="evaluation", code_version="1")
def evaluate_erasure(
    place: Path,
    dictionary: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    hook_point: str,
    spec: ErasureSpec,
    compute: Compute,
) -> dict[str, Any]:
    """Erase the gender of names with one feature, and with what does it without a dictionary.

    Args:
        tokens: their held-out split is the text on which side effects are measured.
    """
    compute.apply()
    features = load_subject(dictionary, description(model).width(hook_point), compute)
    try:
        task = GenderTask(load_tokenizer(model))
    except NotMeasurable as reason:
        return _report(place, [], [], str(reason))
    bridge, held_out = load(model, "float32", compute.device), spread(tokens, spec.side_effect_tokens).tokens
    with torch.no_grad(), Progress("erasure", held_out.size, "held-out tokens") as progress:
        trials = [Trial(bridge, task, hook_point, spec.prompts, seed) for seed in spec.seeds]
        rows = [{**trial.outcome(Intervention("clean", lambda x_Rd: x_Rd)), "side_effect_kl": 0.0} for trial in trials]
        if not _clearly_correct(rows, "p_correct"):
            return _report(place, rows, [], "the model's own P(correct) is not clearly better than chance")
        found = [trial.features(features) for trial in trials]
        made = {trial.seed: list(trial.interventions(own, features)) for trial, own in zip(trials, found, strict=True)}
        edits = {(seed, one.name): one.edit for seed, own in made.items() for one in own if one.anywhere}
        kls = side_effects(bridge, held_out, hook_point, edits, progress)
        rows += [
            {**trial.outcome(one), "side_effect_kl": kls.get((trial.seed, one.name))}
            for trial in trials
            for one in made[trial.seed]
        ]
    return _report(place, rows, [row for own in found for row in own.table()])


class Found(NamedTuple):
    """The features that are active often enough, most similar to the difference of the class means first."""

    seed: int
    features: Int[Tensor, " some"]
    cosines: Float[Tensor, " some"]
    active: Float[Tensor, " some"]
    """On what share of the edited positions."""

    def table(self) -> list[Row]:
        columns = (column[:FEATURES_TOLD].tolist() for column in self[1:])
        return [
            {"seed": self.seed, "rank": rank, "feature": feature, "cosine": cosine, "active": active}
            for rank, (feature, cosine, active) in enumerate(zip(*columns, strict=True))
        ]


class Intervention(NamedTuple):
    """One of INTERVENTIONS, for the prompts of one seed."""

    name: str
    edit: Edit
    anywhere: bool = True
    """Whether it can be made in text other than the few-shot prompts."""


class Trial:
    """One seed's prompts, and the classes at the edited positions of those with the names of the first half."""

    def __init__(self, bridge: TransformerBridge, task: GenderTask, hook_point: str, count: int, seed: int) -> None:
        self.seed = seed
        generator = torch.Generator().manual_seed(seed)
        fitted, measured = task.halves(generator)
        to_fit = task.few_shot(fitted, fitted, min(map(len, fitted)), generator)
        self.measured = Answered(bridge, task.few_shot(measured, fitted, count, generator), hook_point)
        self.transfer = Answered(bridge, task.transfer(measured), hook_point)

        x_Rd = capture(bridge, to_fit.tokens_SP, [hook_point])[hook_point].to(self.measured.edited_SPd)
        self.x_SPd = x_Rd.unflatten(0, to_fit.tokens_SP.shape)[:, to_fit.first_edited :]
        self.class_S = to_fit.classes_S.to(x_Rd.device)
        self.mean_d = self.x_SPd.mean((0, 1))
        female_d, male_d = (self.x_SPd[self.class_S == number].mean((0, 1)) for number in (1, 0))
        self.difference_d = female_d - male_d

    def features(self, dictionary: Dictionary) -> Found:
        active_n = (dictionary.encode(self.x_SPd.flatten(0, 1).to(dictionary.weight.dtype)) != 0).float().mean(0)
        cosine_n = dictionary.directions.float() @ F.normalize(self.difference_d, dim=0)
        eligible = (active_n > LEAST_ACTIVE).nonzero()[:, 0]
        order = eligible[cosine_n[eligible].abs().argsort(descending=True, stable=True)]
        return Found(self.seed, order, cosine_n[order], active_n[order])

    def interventions(self, found: Found, dictionary: Dictionary) -> Iterator[Intervention]:
        """All of them; without a feature that is active often enough, those that need none."""
        random_d = self._random(dictionary.n_features)
        positions = self.x_SPd.shape[1]
        everywhere = _leace(self.x_SPd.flatten(0, 1), self.class_S.repeat_interleave(positions))
        at_each = [_leace(self.x_SPd[:, position], self.class_S) for position in range(positions)]
        yield Intervention("leace", everywhere)
        yield Intervention(
            "leace_by_position",
            lambda x_SPd: torch.stack([edit(x_SPd[:, place]) for place, edit in enumerate(at_each)], 1),
            anywhere=False,
        )
        yield Intervention("mean_difference", self._project_out(self.difference_d))
        yield Intervention("random", self._project_out(random_d))
        if len(found.features):
            direction_d = dictionary.directions[found.features[0]].float()
            yield Intervention("feature", self._project_out(direction_d))
            yield Intervention(
                "random_same_edit", partial(_turned, direction_d=direction_d, to_d=random_d, center_d=self.mean_d)
            )

    def outcome(self, intervention: Intervention) -> Row:
        """The MEASURES, but for the side effect."""
        p_correct, edit = self.measured.with_edit(intervention.edit)
        transfer = self.transfer.with_edit(intervention.edit)[0] if intervention.anywhere else None
        told = {"seed": self.seed, "intervention": intervention.name}
        return {**told, "p_correct": p_correct, "transfer_p_correct": transfer, "edit": edit}

    def _project_out(self, direction_d: Float[Tensor, " d"]) -> Edit:
        return partial(erase, directions_kd=direction_d[None], center_d=self.mean_d)

    def _random(self, count: int) -> Float[Tensor, " d"]:
        """Of `count` random directions the one most similar to the difference of the class means."""
        generator = torch.Generator().manual_seed(self.seed)
        random_nd = F.normalize(torch.randn(count, len(self.mean_d), generator=generator), dim=1).to(self.mean_d)
        return random_nd[(random_nd @ self.difference_d).abs().argmax()]


def _leace(x_Rd: Float[Tensor, "R d"], class_R: Int[Tensor, " R"]) -> Edit:
    # Its constraint on the trace mixes in a projection after which a linear probe does find the class.
    return LeaceFitter.fit(x_Rd.double(), class_R.double(), constrain_cov_trace=False).eraser


def _turned(
    x_Rd: Float[Tensor, "*R d"], direction_d: Float[Tensor, " d"], to_d: Float[Tensor, " d"], center_d: Tensor
) -> Float[Tensor, "*R d"]:
    """As far from x as the projection of a unit direction goes, along another."""
    return x_Rd - ((x_Rd - center_d) @ direction_d)[..., None] * to_d


class Answered:
    """Prompts that the model answers, with any edit of their activations."""

    def __init__(self, bridge: TransformerBridge, asked: NamedPrompts, hook_point: str) -> None:
        self.asked = asked
        self.prompts = Prompts(bridge, asked.tokens_SP, hook_point)

    @property
    def edited_SPd(self) -> Float[Tensor, "S P d"]:
        """The activations of the positions that are edited, as they are."""
        return self.prompts.clean_SPd[:, self.asked.first_edited :]

    def with_edit(self, edit: Edit) -> tuple[float, float]:
        """P(correct), and the mean size of the edit."""
        edited_SPd = edit(self.edited_SPd)
        x_SPd = torch.cat([self.prompts.clean_SPd[:, : self.asked.first_edited], edited_SPd], 1)
        size = torch.linalg.vector_norm(edited_SPd - self.edited_SPd, dim=-1).mean().item()
        return self.p_correct(self.prompts.logits(x_SPd[None])[0]), size

    def p_correct(self, logits_SV: Float[Tensor, "S V"]) -> float:
        p_S2 = logits_SV[:, self.asked.answers].softmax(-1).cpu()
        return p_S2.gather(1, self.asked.classes_S[:, None]).mean().item()


def side_effects(
    bridge: TransformerBridge,
    tokens: Int[np.ndarray, "S P"],
    hook_point: str,
    edits: dict[tuple[int, str], Edit],
    progress: Progress,
) -> dict[tuple[int, str], float]:
    """The mean KL of each edit, over all positions but each first, which is not edited."""
    sums = dict.fromkeys(edits, 0.0)
    for batch in by_predictions(bridge, tokens):
        clean = logits(bridge, batch)[:, 1:].log_softmax(-1)
        for name, edit in edits.items():
            replace = partial(_behind_the_first, edit=edit, shape=batch.shape)
            other = logits(bridge, batch, hook_point, replace)[:, 1:].log_softmax(-1)
            sums[name] += (clean.exp() * (clean - other)).sum().item()
        progress.add(batch.size)
    return {name: total / tokens[:, 1:].size for name, total in sums.items()}


def _behind_the_first(x_Rd: Float[Tensor, "R d"], edit: Edit, shape: tuple[int, int]) -> Float[Tensor, "R d"]:
    """x with all but the first position of each row edited."""
    x_SPd = x_Rd.unflatten(0, shape)
    return torch.cat([x_SPd[:, :1], edit(x_SPd[:, 1:])], 1).flatten(0, 1)


def _report(place: Path, rows: list[Row], features: list[Row], reason: str | None = None) -> dict[str, Any]:
    """Write all files; `reason` says why what is not in the rows was not measured."""
    write_table(place / "interventions.parquet", rows)
    write_table(place / "features.parquet", features)

    names = {name: "" if name == "feature" else f"_{name}" for name in ("clean", *INTERVENTIONS)}
    by_seed = {
        f"{measure}{suffix}": [row[measure] for row in rows if row["intervention"] == name]
        for name, suffix in names.items()
        for measure in MEASURES
    }
    by_seed["cosine"] = [abs(row["cosine"]) for row in features if row["rank"] == 0]
    seeds = len({row["seed"] for row in rows})
    means, intervals = means_over_seeds(by_seed, seeds)
    undefined = {name: reason or _reason(name) for name in by_seed if name not in means}
    if rows and not _clearly_correct(rows, "transfer_p_correct"):
        why = "the model's own P(correct) in these prompts is not clearly better than chance"
        undefined = {name: why for name in means if name.startswith("transfer")} | undefined
    values = {name: None if name in undefined else means[name] for name in by_seed}
    write_metrics(place, "erasure", COLUMNS, values, intervals, undefined)
    return {"seeds": seeds}


def _reason(name: str) -> str:
    if name.endswith("by_position"):
        return "other text has no such positions"
    return f"not in every seed is a feature active on more than {LEAST_ACTIVE:.0%} of the edited positions"


def _clearly_correct(rows: list[Row], measure: str) -> bool:
    """Whether the model itself is clearly better than chance."""
    own = [row[measure] for row in rows if row["intervention"] == "clean"]
    return sum(own) / len(own) >= CHANCE + CLEARLY
