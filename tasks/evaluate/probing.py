"""What a dictionary's features know of the labels of texts: sparse probing, SCR and TPP (SAEBench).

Activations and codes are means over the tokens of a text, its first position left out. Three quarters of the texts are
trained on; all accuracies are of the rest, in sets where both classes are equally frequent.

    accuracy_k        a probe of each label against the rest, on the k features whose means differ most
    accuracy_dense    the same on the activations themselves
    scr_n             spurious correlation removal: a probe is trained on texts in which label and attribute go
                      together. Ablating the n features by which the activations tell the attribute brings back this
                      share of the accuracy that it lacks beside a probe trained on texts of all kinds. Label and
                      attribute also change parts; the mean is over pairs of labels and parts.
    tpp_n             targeted probe perturbation: by how much more a label's own probe loses than the others lose, when
                      the n features by which the activations tell the label are ablated

Formulae are in sae_core.probes. SCR is defined where the correlation costs the probe ten points of accuracy or more:
below, it is a ratio of noise. All numbers are means over the seeds, which decide who is trained on, with t-intervals.
`probes.parquet`, `scr.parquet` and `tpp.parquet` hold every probe and ablation.

Shapes: T texts, R rows of a part of them, d activation width, n features.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.interventions import writes
from sae_core.probes import Probe, ablated, attribution, fit_probe, mean_difference, spurious_removed, targeted
from storage.artifacts import ArtifactRef
from storage.tables import write_table
from tasks.caching import step
from tasks.capture import capture
from tasks.compute import Compute
from tasks.evaluate.labelled_text import LabelledText, LocatedData, labelled_texts
from tasks.evaluate.results import means_over_seeds, write_metrics
from tasks.evaluate.subject import load_subject
from tasks.evaluation_specs import ProbingSpec
from tasks.language_model import description, load, load_tokenizer
from tasks.patching import padded
from tasks.progress import Progress

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerBase

PROBED = (1, 2, 5)
"""Features of a sparse probe."""
ABLATED = (2, 5, 10, 20, 50, 100)
"""Features that SCR and TPP ablate."""
TEST_EVERY = 4  # a text of each kind
LEAST_GAP = 0.1
FEWEST_OF_A_KIND = 8  # texts with one label and attribute, in the training part
MOST_TOKENS = 128  # of a text
TEXTS_PER_PASS = 64

COLUMNS = {
    "accuracy_1": "Test accuracy of a probe on the best feature for each label; 0.5 is chance",
    "accuracy_2": "The same with two features",
    "accuracy_5": "The same with five features",
    "accuracy_dense": "The same on the activations themselves",
    "scr_20": "Share of the accuracy lost to a spurious correlation that ablating 20 features brings back",
    "tpp_20": "Accuracy that a label's probe loses beyond the other labels' when 20 features of it are ablated",
}

Part = Literal["train", "test"]

Row = dict[str, Any]
"""Of a table."""


@step(kind="evaluation", code_version="1")
def evaluate_probing(
    place: Path,
    dictionary: ArtifactRef,
    model: ArtifactRef,
    data: LocatedData,
    hook_point: str,
    spec: ProbingSpec,
    compute: Compute,
) -> dict[str, Any]:
    """Probe a dictionary's features for the labels of texts, and ablate them under probes of the activations."""
    compute.apply()
    probed = load_subject(dictionary, description(model).width(hook_point), compute)
    items = labelled_texts(data, spec.texts)
    bridge, tokenizer = load(model, "float32", compute.device), load_tokenizer(model)
    with torch.no_grad(), Progress("probing", len(items) + len(spec.seeds), "parts") as progress:
        texts = read(bridge, tokenizer, probed, hook_point, items, progress)
        tables: dict[str, list[Row]] = {"probes": [], "scr": [], "tpp": []}
        splits = [Split(texts, seed) for seed in spec.seeds]
        for split in splits:
            tables["probes"] += sparse_probes(split)
            tables["scr"] += spurious_correlations(split)
            tables["tpp"] += targeted_perturbations(split)
            progress.add(1)
    _report(place, tables, splits[0])
    return {"texts": len(items)}


class Texts(NamedTuple):
    """Means over the tokens of each text, and what is known of it."""

    x_Td: Float[Tensor, "T d"]
    f_Tn: Float[Tensor, "T n"]
    writes_nd: Float[Tensor, "n d"]
    items: list[LabelledText]


def read(
    bridge: TransformerBridge,
    tokenizer: PreTrainedTokenizerBase,
    dictionary: Dictionary,
    hook_point: str,
    items: list[LabelledText],
    progress: Progress,
) -> Texts:
    """Run the model over the texts, each behind an end-of-text token."""
    writes_nd = writes(dictionary)
    start: Any = tokenizer.eos_token_id
    x_Td, f_Tn = [], []
    for first in range(0, len(items), TEXTS_PER_PASS):
        batch = [item.text for item in items[first : first + TEXTS_PER_PASS]]
        encoded: Any = tokenizer(batch, add_special_tokens=False, truncation=True, max_length=MOST_TOKENS)["input_ids"]
        tokens, _, own = padded([[start, *found] for found in encoded], start)
        own[:, 0] = False
        kept_SP = torch.from_numpy(own).to(writes_nd.device)
        x_Rd = capture(bridge, tokens, [hook_point])[hook_point].to(writes_nd)[kept_SP.flatten()]
        for x_Pd in x_Rd.split(kept_SP.sum(1).tolist()):
            x_Td.append(x_Pd.mean(0))
            f_Tn.append(dictionary.encode(x_Pd).mean(0))
        progress.add(len(batch))
    return Texts(torch.stack(x_Td).float(), torch.stack(f_Tn).float(), writes_nd.float(), items)


class Examples(NamedTuple):
    """Texts of two classes, equally many of each."""

    x_Rd: Float[Tensor, "R d"]
    f_Rn: Float[Tensor, "R n"]
    y_R: Bool[Tensor, " R"]


class Split:
    """Which texts are trained on, and which tested: every fourth of each label and, of two, attribute."""

    def __init__(self, texts: Texts, seed: int) -> None:
        self.texts, self.seed = texts, seed
        self.labels = sorted({item.label for item in texts.items})
        self.attributes = sorted({item.attribute for item in texts.items if item.attribute is not None})
        self.parts: dict[Part, list[int]] = {"train": [], "test": []}
        met: Counter[tuple[str, str | None]] = Counter()
        for text in torch.randperm(len(texts.items), generator=torch.Generator().manual_seed(seed)).tolist():
            label, attribute = texts.items[text][1:]
            kind = (label, attribute if len(self.attributes) == 2 else None)
            met[kind] += 1
            self.parts["train" if met[kind] % TEST_EVERY else "test"].append(text)

    def against_rest(self, label: str, part: Part) -> Examples:
        """Texts of one label, and of all others."""
        own = [text for text in self.parts[part] if self.texts.items[text].label == label]
        other = [text for text in self.parts[part] if self.texts.items[text].label != label]
        first, second = _evenly([own, other])
        return self._examples(first + second, [True] * len(first) + [False] * len(second))

    def crossed(self, pair: tuple[str, str], part: Part) -> tuple[Examples, Examples]:
        """Texts of two labels and two attributes, equally many of all four kinds: by label, and by attribute."""
        kinds = [(label, attribute) for label in pair for attribute in self.attributes]
        cells = _evenly([[text for text in self.parts[part] if self.texts.items[text][1:] == kind] for kind in kinds])
        rows = [text for cell in cells for text in cell]
        told = [self.texts.items[text] for text in rows]
        by_label = self._examples(rows, [item.label == pair[1] for item in told])
        return by_label, self._examples(rows, [item.attribute == self.attributes[1] for item in told])

    def _examples(self, rows: list[int], y: list[bool]) -> Examples:
        x_Td, f_Tn = self.texts.x_Td, self.texts.f_Tn
        return Examples(x_Td[rows], f_Tn[rows], torch.tensor(y, dtype=torch.bool, device=x_Td.device))


def sparse_probes(split: Split) -> Iterator[Row]:
    """Probes of each label on its best features, and on the activations."""
    for label in split.labels:
        train, test = split.against_rest(label, "train"), split.against_rest(label, "test")
        best = _largest(mean_difference(train.f_Rn, train.y_R).abs())
        told = {"seed": split.seed, "label": label}
        for k in _counts(PROBED, split):
            features = best[:k]
            accuracy = fit_probe(train.f_Rn[:, features], train.y_R).accuracy(test.f_Rn[:, features], test.y_R)
            yield {**told, "k": k, "accuracy": accuracy, "features": features.tolist()}
        dense = fit_probe(train.x_Rd, train.y_R).accuracy(test.x_Rd, test.y_R)
        yield {**told, "k": None, "accuracy": dense, "features": None}


def spurious_correlations(split: Split) -> Iterator[Row]:
    """SCR of labels that follow each other: an ablation brings back what a spurious correlation cost a probe."""
    if len(split.attributes) != 2:
        return
    for pair in pairwise(split.labels):
        train, test = split.crossed(pair, "train"), split.crossed(pair, "test")
        if len(train[0].y_R) < 4 * FEWEST_OF_A_KIND:
            continue
        together_R = train[0].y_R == train[1].y_R  # there, which label is which attribute
        misled = fit_probe(train[0].x_Rd[together_R], train[0].y_R[together_R])
        for wanted, spurious in ((0, 1), (1, 0)):
            clean = _fitted(train[wanted]).accuracy(test[wanted].x_Rd, test[wanted].y_R)
            original = misled.accuracy(test[wanted].x_Rd, test[wanted].y_R)
            telling = _telling(_fitted(train[spurious]), train[spurious], split)
            for n in _counts(ABLATED, split):
                without = misled.accuracy(_ablated(test[wanted], telling[:n], split), test[wanted].y_R)
                yield {
                    "seed": split.seed,
                    "labels": " / ".join(pair),
                    "wanted": ("label", "attribute")[wanted],
                    "n": n,
                    "a_original": original,
                    "a_clean": clean,
                    "a_ablated": without,
                    "scr": spurious_removed(original, clean, without) if clean - original >= LEAST_GAP else None,
                }


def targeted_perturbations(split: Split) -> Iterator[Row]:
    """TPP of each label."""
    if len(split.labels) < 3:
        return
    train = [split.against_rest(label, "train") for label in split.labels]
    test = [split.against_rest(label, "test") for label in split.labels]
    probes = [_fitted(examples) for examples in train]
    telling = [_telling(probe, examples, split) for probe, examples in zip(probes, train, strict=True)]
    accuracy_c = torch.tensor([probe.accuracy(own.x_Rd, own.y_R) for probe, own in zip(probes, test, strict=True)])
    for n in _counts(ABLATED, split):
        left = [
            [probe.accuracy(_ablated(own, best[:n], split), own.y_R) for probe, own in zip(probes, test, strict=True)]
            for best in telling
        ]
        lost_cc = accuracy_c - torch.tensor(left)
        for label, own, tpp in zip(split.labels, lost_cc.diagonal().tolist(), targeted(lost_cc).tolist(), strict=True):
            yield {"seed": split.seed, "label": label, "n": n, "own_lost": own, "others_lost": own - tpp, "tpp": tpp}


def _evenly(groups: list[list[int]]) -> list[list[int]]:
    """The first of each group, as many as there are in the smallest."""
    count = min(map(len, groups))
    return [group[:count] for group in groups]


def _counts(wanted: tuple[int, ...], split: Split) -> list[int]:
    """Numbers of features that the dictionary has."""
    return [count for count in wanted if count <= len(split.texts.writes_nd)]


def _fitted(examples: Examples) -> Probe:
    return fit_probe(examples.x_Rd, examples.y_R)


def _telling(probe: Probe, examples: Examples, split: Split) -> Int[Tensor, " n"]:
    """Features by how much of what the probe sees goes through them, the most first."""
    return _largest(attribution(probe, examples.f_Rn, examples.y_R, split.texts.writes_nd))


def _ablated(examples: Examples, features: Int[Tensor, " F"], split: Split) -> Float[Tensor, "R d"]:
    return ablated(examples.x_Rd, examples.f_Rn, features, split.texts.writes_nd)


def _largest(values_n: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    return values_n.argsort(descending=True, stable=True)


def _report(place: Path, tables: dict[str, list[Row]], split: Split) -> None:
    """Write the tables, and `metrics.json` with what they hold on average."""
    for name, rows in tables.items():
        write_table(place / f"{name}.parquet", rows)
    probes, scr, tpp = tables.values()
    by_seed = {
        **{f"accuracy_{k or 'dense'}": _by_seed(probes, "accuracy", "k", k) for k in (*PROBED, None)},
        **{f"scr_{n}": _by_seed(scr, "scr", "n", n) for n in ABLATED},
        **{f"tpp_{n}": _by_seed(tpp, "tpp", "n", n) for n in ABLATED},
    }
    seeds = len({row["seed"] for row in probes})
    means, intervals = means_over_seeds(by_seed, seeds)
    undefined = {name: _reason(name, split, scr) for name in by_seed if name not in means}
    write_metrics(place, "probing", COLUMNS, dict.fromkeys(by_seed) | means, intervals, undefined)


def _by_seed(rows: list[Row], value: str, which: str, is_what: int | None) -> list[float]:
    """The mean of each seed that has values."""
    found: dict[int, list[float]] = {}
    for row in rows:
        if row[which] == is_what and row[value] is not None:
            found.setdefault(row["seed"], []).append(row[value])
    return [sum(values) / len(values) for values in found.values()]


def _reason(name: str, split: Split, scr: list[Row]) -> str:
    measure, _, count = name.partition("_")
    if count.isdigit() and int(count) > (features := len(split.texts.writes_nd)):
        return f"the dictionary has {features} features"
    if measure == "tpp":
        return f"there are {len(split.labels)} labels, and three are needed"
    if len(split.attributes) != 2:
        return f"the texts have {len(split.attributes)} attributes, and two are needed"
    if not scr:
        return f"no two labels have {FEWEST_OF_A_KIND} texts to train on with either attribute"
    return f"in some seed no correlation costs the probe {LEAST_GAP:.0%} of accuracy"
