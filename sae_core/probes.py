"""Linear probes, and what becomes of them when features are taken away (SAEBench: sparse probing, SCR and TPP).

    probe          p(y = 1) = σ(⟨p, x⟩ + b), a logistic regression
    difference     Δ_j = mean of f_j where y = 1, minus that where y = 0
    attribution    |⟨p, w_j⟩ Δ_j|: how much of what the probe sees of the classes' difference goes through feature j
    ablated        x − Σ_{j ∈ F} f_j w_j: what the dictionary does not rebuild stays
    SCR            (A_ablated − A_original) / (A_clean − A_original)
    TPP            mean over classes i of [the accuracy that probe i loses − the mean that the probes j ≠ i lose], when
                   the features of class i are ablated

Ablation is linear, so means over the tokens of a text may stand for x and f.

Shapes: R rows, d activation width, n features, c classes, w as in sae_core.interventions.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.interventions import patch


class Probe(NamedTuple):
    """A linear classifier of two classes."""

    weight_d: Float[Tensor, " d"]
    bias: float

    def accuracy(self, x_Rd: Float[Tensor, "R d"], y_R: Bool[Tensor, " R"]) -> float:
        """The share of rows that it puts into their class."""
        return ((x_Rd @ self.weight_d + self.bias > 0) == y_R).float().mean().item()


def fit_probe(x_Rd: Float[Tensor, "R d"], y_R: Bool[Tensor, " R"]) -> Probe:
    """A logistic regression with an L2 penalty, on x centred and scaled to a total variance of 1.

    So neither the scale of x nor its basis matters; and in more dimensions than rows, where any two classes can be told
    apart, the penalty has the probe read the directions in which they differ most.
    """
    from sklearn.linear_model import LogisticRegression  # seconds, for those who fit one

    x_Rd = x_Rd.double()
    mean_d = x_Rd.mean(0)
    scale = (x_Rd - mean_d).square().sum(1).mean().sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    standard_Rd = ((x_Rd - mean_d) / scale).cpu().numpy()
    regression = LogisticRegression(max_iter=1000).fit(standard_Rd, y_R.cpu().numpy())
    weight_d = torch.from_numpy(regression.coef_[0]).to(x_Rd) / scale
    return Probe(weight_d.float(), float(regression.intercept_[0]) - (weight_d @ mean_d).item())


def mean_difference(f_Rn: Float[Tensor, "R n"], y_R: Bool[Tensor, " R"]) -> Float[Tensor, " n"]:
    """Δ of each feature."""
    return f_Rn[y_R].mean(0) - f_Rn[~y_R].mean(0)


def attribution(
    probe: Probe, f_Rn: Float[Tensor, "R n"], y_R: Bool[Tensor, " R"], writes_nd: Float[Tensor, "n d"]
) -> Float[Tensor, " n"]:
    """How much of what the probe sees of the difference between the classes goes through each feature."""
    return ((writes_nd @ probe.weight_d) * mean_difference(f_Rn, y_R)).abs()


def ablated(
    x_Rd: Float[Tensor, "R d"],
    f_Rn: Float[Tensor, "R n"],
    features_F: Int[Tensor, " F"],
    writes_nd: Float[Tensor, "n d"],
) -> Float[Tensor, "R d"]:
    """x without these features."""
    return patch(x_Rd, -f_Rn[:, features_F], writes_nd[features_F])


def spurious_removed(original: float, clean: float, without: float) -> float:
    """SCR: how much of the accuracy that a misled probe lacks comes back; 1 is all of it."""
    return (without - original) / (clean - original)


def targeted(lost_cc: Float[Tensor, "ablated probed"]) -> Float[Tensor, " ablated"]:
    """TPP of each class: what its own probe loses by its features' ablation, beyond what the others lose."""
    own_c = lost_cc.diagonal()
    return own_c - (lost_cc.sum(1) - own_c) / (len(lost_cc) - 1)
