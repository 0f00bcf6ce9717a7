"""What the Trainer asks of a dictionary that can be trained."""

from abc import abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.dictionary import Dictionary


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
        """Set every parameter afresh, in place, from the generator alone."""

    @abstractmethod
    def loss(self, x_Bd: Float[Tensor, "B d"], sparsity: float, dead_n: Bool[Tensor, "n"]) -> Loss:
        """The loss of a batch.

        `sparsity` in [0, 1] is how much of the sparsity penalty its warm-up has reached; `dead_n` marks the
        features that have not fired for so long that they need help.
        """

    def constrain_gradients(self) -> None:
        """Called between backward and the optimiser's step."""

    def constrain_parameters(self) -> None:
        """Called after the optimiser's step."""


def reconstruction_error(x_Bd: Tensor, xhat_Bd: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared error over rows and dimensions, and the batch's FVU = Σ‖x − x̂‖² / Σ‖x − x̄‖²."""
    mse = (xhat_Bd - x_Bd).square().mean()
    return mse, mse / (x_Bd - x_Bd.mean(0)).square().mean()
