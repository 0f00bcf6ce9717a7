"""What the Trainer asks of a dictionary that can be trained, and what the untied autoencoders share.

Shapes: B rows, d activation width, n features.
"""

import copy
from abc import abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_core.dictionary import Dictionary

RESAMPLED_ENCODER_NORM = 0.2  # of the mean norm of the live features' encoder rows


class Loss(NamedTuple):
    """What one batch says."""

    total: Float[Tensor, ""]
    """The scalar to minimise."""

    parts: dict[str, Tensor]
    """Detached scalars for the log, of the same names at every step: mse, fvu, l1, the method's own."""

    fired_n: Float[Tensor, "n"]
    """On how many rows of the batch each feature was active."""


class TrainableDictionary(Dictionary):
    """A dictionary that is learned by gradient descent on `loss`."""

    @abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Set every parameter and average afresh, in place, from the generator alone."""

    @abstractmethod
    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        """The loss of a batch.

        `sparsity` in [0, 1] is how much of the sparsity penalty its warm-up has reached; `dead_n` marks the
        features that have not fired for so long that they need help.
        """

    @abstractmethod
    def resample(self, dead_D: Int[Tensor, "D"], x_Bd: Float[Tensor, "B d"], generator: torch.Generator) -> None:
        """Start these features again, in place, each at a row of the batch that is rebuilt badly (Bricken et al. 2023,
        "Neuron resampling")."""

    def unit_norm(self) -> Self:
        """The same function with codes in units of activations: a feature writes its code times a unit vector."""
        return self

    def constrain_gradients(self) -> None:
        """Called between backward and the optimiser's step."""

    def constrain_parameters(self) -> None:
        """Called after the optimiser's step; averages that a batch gave enter here."""


class SparseAutoencoder(TrainableDictionary):
    """a = W_enc (x − b_dec) + b_enc        f = activation(a)        x̂ = f W_dec + b_dec

    Rows of W_dec have unit norm: the gradient along them is removed and they are renormalised after each step.
    """

    compares_features: ClassVar[bool] = False
    """Whether a code depends on how large the others are, so that features cannot be rescaled one by one."""

    def __init__(self, d_in: int, n_features: int, d_out: int | None = None):
        super().__init__(d_in, n_features)
        self.W_enc_nd = nn.Parameter(torch.empty(n_features, d_in))
        self.b_enc_n = nn.Parameter(torch.empty(n_features))
        self.W_dec_nd = nn.Parameter(torch.empty(n_features, d_out or d_in))
        self.b_dec_d = nn.Parameter(torch.empty(d_out or d_in))

    def config(self) -> dict[str, Any]:
        return {"d_in": self.d_in, "n_features": self.n_features}

    def initialise(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.W_dec_nd.normal_(generator=generator)
            self.W_dec_nd.div_(self.W_dec_nd.norm(dim=1, keepdim=True).clamp_min(1e-8))
            self.W_enc_nd.copy_(self.W_dec_nd)
            self.b_enc_n.zero_()
            self.b_dec_d.zero_()

    @property
    def directions(self) -> Float[Tensor, "n d"]:
        return F.normalize(self.W_dec_nd, dim=1)

    @property
    def encoder_center_d(self) -> Float[Tensor, "d"]:
        """What the encoder subtracts from a row: the decoder's bias, where input and target are the same."""
        return self.b_dec_d

    def pre_activations(self, x_Bd: Float[Tensor, "*B d"]) -> Float[Tensor, "*B n"]:
        """a = W_enc (x − center) + b_enc."""
        self.check_rows(x_Bd)
        return F.linear(x_Bd - self.encoder_center_d, self.W_enc_nd, self.b_enc_n)

    def decode(self, f_Bn: Float[Tensor, "*B n"]) -> Float[Tensor, "*B d"]:
        return f_Bn @ self.W_dec_nd + self.b_dec_d

    @torch.no_grad()
    def unit_norm(self) -> Self:
        """As promised above; raises ValueError where rows of other norms, which training does not leave behind, decide
        which features are chosen."""
        norms_n = self.W_dec_nd.norm(dim=1).clamp_min(1e-8)
        if torch.allclose(norms_n, torch.ones_like(norms_n), rtol=0, atol=1e-5):
            return self
        if self.compares_features:
            raise ValueError(
                f"{self.method}: its decoder rows have norms up to {norms_n.max():.3g} and cannot be scaled"
            )
        unit = copy.deepcopy(self)
        unit._scale_codes(norms_n)
        return unit

    def _scale_codes(self, by_n: Tensor) -> None:
        """In place: the same function with each feature's code `by_n` times as large."""
        self.W_dec_nd /= by_n[:, None]
        self.W_enc_nd *= by_n[:, None]
        self.b_enc_n *= by_n

    @torch.no_grad()
    def resample(self, dead_D: Int[Tensor, "D"], x_Bd: Float[Tensor, "B d"], generator: torch.Generator) -> None:
        rows_D = badly_rebuilt(x_Bd, self(x_Bd), len(dead_D), generator)
        directions_Dd = F.normalize(x_Bd[rows_D] - self.b_dec_d, dim=1)
        self.W_dec_nd[dead_D] = directions_Dd
        self.W_enc_nd[dead_D] = directions_Dd * resampled_encoder_norm(self.W_enc_nd, dead_D)
        self.b_enc_n[dead_D] = 0

    def constrain_gradients(self) -> None:
        # Renormalising undoes a step along a row, but Adam's moments would remember it.
        grad_nd = self.W_dec_nd.grad
        assert grad_nd is not None
        along_n1 = (grad_nd * self.W_dec_nd.detach()).sum(1, keepdim=True)
        grad_nd.addcmul_(along_n1, self.W_dec_nd.detach(), value=-1)

    def constrain_parameters(self) -> None:
        with torch.no_grad():
            self.W_dec_nd.div_(self.W_dec_nd.norm(dim=1, keepdim=True).clamp_min(1e-8))

    def _to_raw_units(self, mean_d: Tensor, scale: float) -> None:
        self.b_enc_n *= scale
        self.b_dec_d.mul_(scale).add_(mean_d)


def reconstruction_error(x_Bd: Tensor, xhat_Bd: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error over rows and dimensions, and the batch's FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖²."""
    mse = (xhat_Bd - x_Bd).square().mean()
    return mse, mse / (x_Bd - x_Bd.mean(0)).square().mean()


def badly_rebuilt(x_Bd: Tensor, xhat_Bd: Tensor, count: int, generator: torch.Generator) -> Int[Tensor, "count"]:
    """Rows drawn with replacement, in proportion to the square of their squared error."""
    weights_B = (x_Bd - xhat_Bd).square().sum(1).double().square().cpu() + 1e-300  # all alike where all are exact
    return torch.multinomial(weights_B, count, replacement=True, generator=generator).to(x_Bd.device)


def resampled_encoder_norm(W_enc_nd: Tensor, dead_D: Tensor) -> Tensor:
    """Smaller than that of live features, so that a new one does not push them aside at once; 1 if none is alive."""
    alive_n = torch.ones(len(W_enc_nd), dtype=torch.bool, device=W_enc_nd.device)
    alive_n[dead_D] = False
    return RESAMPLED_ENCODER_NORM * W_enc_nd[alive_n].norm(dim=1).mean() if alive_n.any() else W_enc_nd.new_ones(())
