"""What a dictionary keeps of the model: its predictions with the reconstruction in place of the activations.

At one hook point, on held-out token rows, the activations are

    clean            as they are
    reconstructed    the dictionary's x̂
    zero_ablated     0
    mean_ablated     the mean of the rows that were trained on

and of each the next-token loss L (nats) and the divergence KL(clean ‖ it) are averaged over the predicted tokens:

    ce_recovered         (L_zero − L_reconstructed) / (L_zero − L_clean)        1 is perfect, 0 no better than zeros
    ce_recovered_mean    the same beside the mean ablation
    kl_score             (KL_zero − KL_reconstructed) / KL_zero
    perplexity           exp L

Rows that the filter leaves out (position 0, sinks) keep their clean activation in all of the four: the dictionary was
not made for them, and to replace them, which ruins any model, would have all dictionaries look alike.

`metrics.json` holds these (see tasks.evaluate.results); the intervals are percentiles of a bootstrap over documents (a
token belongs to the document that it is in). `documents.parquet` holds the means of every document.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.dictionary import Dictionary
from sae_core.moments import RowMoments
from storage.artifacts import ArtifactRef
from storage.row_filter import RowFilter
from storage.tables import write_table
from tasks.caching import step
from tasks.compute import Compute
from tasks.corpus import spread
from tasks.evaluate.results import Interval, bootstrap, write_metrics
from tasks.evaluate.subject import load_subject
from tasks.language_model import description, load
from tasks.patching import Replace, by_predictions, logits
from tasks.progress import Progress
from tasks.rows import LiveFilter, open_store, rows_to_fit_on

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

REPLACED = ("reconstructed", "zero_ablated", "mean_ablated")
SUMS = ("tokens", "loss_clean", *(f"loss_{name}" for name in REPLACED), *(f"kl_{name}" for name in REPLACED))
"""The columns of the sums over a document."""

COLUMNS = {
    "ce_recovered": "share of the loss that zero ablation costs and the reconstruction does not",
    "ce_recovered_mean": "the same beside mean ablation",
    "kl_score": "the same of the divergence from the clean predictions, beside zero ablation",
    "perplexity_clean": "of the model as it is",
    "perplexity_reconstructed": "with the reconstruction in place of the activations",
}

Sums = Float[Tensor, "*some sums"]


@step(kind="evaluation", code_version="2")
def evaluate_faithfulness(
    place: Path,
    dictionary: ArtifactRef,
    model: ArtifactRef,
    tokens: ArtifactRef,
    activations: ArtifactRef,
    hook_point: str,
    rows: RowFilter,
    dtype: str,
    max_tokens: int,
    compute: Compute,
) -> dict[str, Any]:
    """Measure a dictionary inside the model, on the held-out split.

    Args:
        activations: those of `tokens`; the norm above which a row is a sink, and the mean, are theirs.
        dtype: precision of the forward pass, "bfloat16" or "float32".
        max_tokens: of the held-out split, spread evenly over it.
    """
    compute.apply()
    rebuilt = load_subject(dictionary, description(model).width(hook_point), compute)
    mean_d = RowMoments.of(rows_to_fit_on(open_store(activations, "train"), hook_point, rows)).mean_d
    store = open_store(activations, "held_out")
    live = LiveFilter.of(store, hook_point, rows)
    passes = Passes(load(model, dtype, compute.device), hook_point, rebuilt, mean_d.float(), live)

    chosen, documents, _ = spread(tokens, max_tokens)
    numbers, document_of = np.unique(documents[:, 1:], return_inverse=True)
    document_of = document_of.reshape(documents[:, 1:].shape)
    sums = torch.zeros(len(numbers), len(SUMS), dtype=torch.float64)
    with Progress("faithfulness", chosen.size, "tokens") as progress:
        start = 0
        for batch_sums in passes.run(chosen):
            end = start + len(batch_sums)
            sums.index_add_(0, torch.from_numpy(document_of[start:end]).flatten(), batch_sums.flatten(0, 1))
            progress.add((end - start) * chosen.shape[1])
            start = end

    values, undefined = measured(sums.sum(0))
    bounds, no_bounds = intervals(sums)
    counts = {
        "rows": len(chosen),
        "documents": len(numbers),
        "replaced": passes.replaced,
        "left_out": chosen.size - passes.replaced,
    }
    write_metrics(place, "faithfulness", COLUMNS, {**values, **counts}, bounds, {**undefined, **no_bounds})
    means = sums[:, 1:] / sums[:, :1]
    columns = {name: means[:, index].tolist() for index, name in enumerate(SUMS[1:])}
    told = {name: [value if math.isfinite(value) else None for value in column] for name, column in columns.items()}
    counts = sums[:, 0].long().tolist()
    write_table(place / "documents.parquet", {"document": numbers.tolist(), "tokens": counts, **told})
    return {"tokens": int(sums[:, 0].sum()), "documents": len(numbers)}


class Passes:
    """The forward passes: clean, and with each replacement."""

    def __init__(
        self,
        bridge: TransformerBridge,
        hook_point: str,
        dictionary: Dictionary,
        mean_d: Float[Tensor, " d"],
        keep: LiveFilter,
    ) -> None:
        self.bridge, self.hook_point, self.keep = bridge, hook_point, keep
        mean_d = mean_d.to(bridge.cfg.device)
        self.replacements: dict[str, Replace] = {
            "reconstructed": lambda x_rd: dictionary(x_rd.to(dictionary.weight.dtype)).float(),
            "zero_ablated": torch.zeros_like,
            "mean_ablated": lambda x_rd: mean_d.expand_as(x_rd),
        }
        self.replaced = 0
        """Rows that were replaced so far."""

    def run(self, tokens: np.ndarray) -> Iterator[Float[Tensor, "sequences predicted sums"]]:
        """Of each predicted token the addends of SUMS, batch by batch."""
        for batch in by_predictions(self.bridge, tokens):
            with torch.inference_mode():
                yield self._batch(batch)

    def _batch(self, tokens: np.ndarray) -> Float[Tensor, "sequences predicted sums"]:
        next_tokens = torch.from_numpy(tokens[:, 1:].astype(np.int64)).to(self.bridge.cfg.device)[..., None]

        def losses(log_p: Tensor) -> Tensor:
            return -log_p.gather(-1, next_tokens)[..., 0]

        clean = logits(self.bridge, tokens)[:, :-1].log_softmax(-1)
        told = {"tokens": torch.ones_like(clean[..., 0]), "loss_clean": losses(clean)}
        for name, replace in self.replacements.items():
            count = name == "reconstructed"

            def replaced(x_rd: Tensor, replace: Replace = replace, count: bool = count) -> Tensor:
                kept_r = self.keep.kept(x_rd.unflatten(0, tokens.shape)).flatten()
                self.replaced += int(kept_r.sum()) if count else 0
                return torch.where(kept_r[:, None], replace(x_rd), x_rd)

            other = logits(self.bridge, tokens, self.hook_point, replaced)[:, :-1].log_softmax(-1)
            told[f"loss_{name}"] = losses(other)
            told[f"kl_{name}"] = (clean.exp() * (clean - other)).sum(-1)
        return torch.stack([told[name] for name in SUMS], -1).double().cpu()


def measured(sums: Float[Tensor, " sums"]) -> tuple[dict[str, float | None], dict[str, str]]:
    """The metrics of these sums; None where undefined, and why."""
    values = {name: value.item() for name, value in metrics_of(sums).items()}
    undefined = {name: _reason(name, values) for name, value in values.items() if not math.isfinite(value)}
    return {name: None if name in undefined else value for name, value in values.items()}, undefined


def metrics_of(sums: Sums) -> dict[str, Float[Tensor, "*some"]]:
    """The metrics of sums over documents; NaN where undefined."""
    count, *columns = sums.unbind(-1)
    means = dict(zip(SUMS[1:], (column / count for column in columns), strict=True))
    clean, rebuilt, zero = means["loss_clean"], means["loss_reconstructed"], means["loss_zero_ablated"]
    losses = {name: mean for name, mean in means.items() if name.startswith("loss_")}
    return {
        "tokens": count,
        **means,
        **{name.replace("loss", "perplexity"): loss.exp() for name, loss in losses.items()},
        "loss_increase": rebuilt - clean,
        "ce_recovered": _share(zero - rebuilt, zero - clean),
        "ce_recovered_mean": _share(means["loss_mean_ablated"] - rebuilt, means["loss_mean_ablated"] - clean),
        "kl_score": _share(means["kl_zero_ablated"] - means["kl_reconstructed"], means["kl_zero_ablated"]),
    }


def intervals(sums: Float[Tensor, "documents sums"]) -> tuple[dict[str, Interval], dict[str, str]]:
    """Those of the metrics, over documents; None where undefined, and why."""
    return bootstrap(
        sums, lambda drawn: {name: values for name, values in metrics_of(drawn).items() if name != "tokens"}
    )


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.nan)


def _reason(name: str, values: dict[str, float]) -> str:
    if not math.isfinite(values["loss_reconstructed"]) and ("ablated" not in name):
        return "with the reconstruction the model's predictions are not finite"
    if name.startswith("perplexity"):
        return "the loss is too large for its exponential"
    if name == "ce_recovered":
        return "zero ablation does not raise the loss"
    if name == "ce_recovered_mean":
        return "mean ablation does not raise the loss"
    if name == "kl_score":
        return "zero ablation does not change the predictions"
    return "the model's predictions are not finite"
