"""Training a dictionary on any iterator of activations, and resuming it bit for bit.

    loss → backward → constrain gradients → clip → Adam → constrain parameters → now and then, resample dead features

Nothing here knows where rows come from or where checkpoints go. `state_dict` holds everything that the next
step depends on but the data cursor, which is the caller's: batch i has to go to step i.

Shapes: B rows, d activation width, n features.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.architectures import Loss, TrainableDictionary


@dataclass(frozen=True)
class TrainingConfig:
    steps: int
    """How many batches to train on."""

    learning_rate: float = 1e-3
    """Adam's step size between warm-up and decay."""

    lr_warmup_steps: int = 0
    """Steps over which the learning rate rises linearly from 0."""

    lr_decay_steps: int = 0
    """Last steps, over which the learning rate falls to 0."""

    lr_decay: Literal["linear", "cosine"] = "linear"
    """How it falls."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the first and second moments."""

    gradient_clip: float | None = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down to it."""

    sparsity_warmup_steps: int = 0
    """Steps over which the sparsity penalty rises linearly from 0."""

    dead_after_rows: int = 100_000
    """Rows without firing after which a feature counts as dead."""

    resample_every: int | None = None
    """Steps between resamplings: dead features start again at rows that are rebuilt badly. None for never, as AuxK
    makes it needless where an architecture has it."""

    seed: int = 0
    """Of the initialisation."""

    compute_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Of matrix products; parameters stay float32. `auto` is bfloat16 where the hardware multiplies it."""

    log_every: int = 50
    """Steps between rows of the log; a row averages the steps since the last."""

    def __post_init__(self):
        if self.steps < 1 or self.log_every < 1:
            raise ValueError(f"steps={self.steps} and log_every={self.log_every} must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate={self.learning_rate} must be positive")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ValueError(f"gradient_clip={self.gradient_clip} must be positive, or None for no clipping")
        if min(self.lr_warmup_steps, self.lr_decay_steps, self.sparsity_warmup_steps, self.dead_after_rows) < 0:
            raise ValueError("warm-up and decay steps and dead_after_rows must not be negative")
        if self.resample_every is not None and self.resample_every < 1:
            raise ValueError(f"resample_every={self.resample_every} must be at least 1, or None for never")
        if self.lr_decay not in ("linear", "cosine"):
            raise ValueError(f"lr_decay={self.lr_decay!r} does not exist; choose linear or cosine")
        if self.lr_warmup_steps + self.lr_decay_steps > self.steps:
            raise ValueError(
                f"lr_warmup_steps={self.lr_warmup_steps} and lr_decay_steps={self.lr_decay_steps} "
                f"do not fit into steps={self.steps}"
            )

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the step after `step` are done: it rises, stays, and reaches 0 only after the last."""
        rise = min((step + 1) / (self.lr_warmup_steps + 1), 1.0)
        fall = min((self.steps - step) / (self.lr_decay_steps + 1), 1.0)
        if self.lr_decay == "cosine":
            fall = (1 - math.cos(math.pi * fall)) / 2
        return self.learning_rate * min(rise, fall)

    def sparsity_at(self, step: int) -> float:
        """Share of the sparsity penalty in force, in (0, 1]."""
        return min((step + 1) / (self.sparsity_warmup_steps + 1), 1.0)


LogRow = dict[str, float | None]
"""step, rows, learning_rate, loss, l0, dead_fraction, mse, fvu, l1 and what the method adds; None where undefined."""

LogSink = Callable[[LogRow], None]
"""Takes a row of the log as it is made, to show or to send it somewhere. A run that goes on from a checkpoint gives the
rows after it once more."""


class TrainerState(NamedTuple):
    """All that a Trainer is between two steps."""

    tensors: dict[str, Tensor]
    """Parameters, Adam's moments, generator, dead-feature counters, the log's open sums: for safetensors."""

    state: dict[str, Any]
    """Counters, the log and the settings: for JSON."""


class Trainer:
    """Trains `dictionary` from a fresh initialisation seeded by `config.seed`.

    What it ends with is a function of (dictionary's arguments, config, batches, machine, thread count), to
    the bit. To go on from a checkpoint, build it in the same way and call `load_state_dict`.

    Attributes: `step_count` and `row_count` done; `log`, a list of JSON-able rows {step, rows, learning_rate,
    loss, l0, dead_fraction, mse, fvu, l1, …the method's own}, where step counts from 1.
    """

    def __init__(self, dictionary: TrainableDictionary, config: TrainingConfig, sinks: Sequence[LogSink] = ()):
        self.dictionary = dictionary
        self.config = config
        self.generator = torch.Generator().manual_seed(config.seed)
        reference = next(dictionary.parameters())
        self.device, self.dtype = reference.device, reference.dtype
        # On the CPU, whatever the device: a seed means the same start everywhere.
        dictionary.cpu().initialise(self.generator)
        dictionary.to(self.device)
        self.parameters = dict(dictionary.named_parameters())
        self.optimizer = torch.optim.Adam(self.parameters.values(), betas=config.betas, fused=True)
        self.bfloat16 = use_bfloat16(config.compute_dtype, self.device)

        self.step_count = 0
        self.row_count = 0
        self.rows_since_fired_n = torch.zeros(dictionary.n_features, dtype=torch.int64, device=self.device)
        self.log: list[LogRow] = []
        self.sinks = sinks
        self._sums: dict[str, Tensor] = {}  # of the log's next row; on the device, so that no step waits for them
        self._summed_steps = 0

    def train(self, batches: Iterator[Tensor], on_step: Callable[["Trainer"], None] | None = None) -> None:
        """Train on batches [B, d] until `config.steps` are done; `on_step` is called after each, to save or
        to show.

        Raises ValueError when the batches end too early and when a batch or its loss is not finite.
        """
        while self.step_count < self.config.steps:
            x_Bd = next(batches, None)
            if x_Bd is None:
                raise ValueError(
                    f"the batches ended after step {self.step_count} of {self.config.steps}"
                    + (": there were none. Check the activations' size and split" if self.step_count == 0 else "")
                )
            self.step(x_Bd)
            if on_step is not None:
                on_step(self)

    def step(self, x_Bd: Float[Tensor, "B d"]) -> None:
        """One update from one batch."""
        if len(x_Bd) == 0:
            raise ValueError(f"the batch of step {self.step_count + 1} has no rows")
        x_Bd = x_Bd.to(self.device, self.dtype)
        learning_rate = self.config.learning_rate_at(self.step_count)
        dead_n = self.rows_since_fired_n >= self.config.dead_after_rows

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss = self.dictionary.loss(x_Bd, self.config.sparsity_at(self.step_count), dead_n)
        # Checked before the update, so that a bad batch leaves the last good state to inspect or save.
        if not torch.isfinite(loss.total):
            raise ValueError(self._explain_not_finite(x_Bd))
        self.optimizer.zero_grad()
        loss.total.backward()
        self.dictionary.constrain_gradients()
        if self.config.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.gradient_clip)
        self.optimizer.param_groups[0]["lr"] = learning_rate
        self.optimizer.step()
        self.dictionary.constrain_parameters()

        self.step_count += 1
        self.row_count += len(x_Bd)
        self.rows_since_fired_n = torch.where(loss.fired_n > 0, 0, self.rows_since_fired_n + len(x_Bd))
        if self.config.resample_every and self.step_count % self.config.resample_every == 0:
            self._resample(x_Bd)
        self._record(loss, len(x_Bd), learning_rate)

    def state_dict(self) -> TrainerState:
        """A copy of everything the next step depends on; later steps do not change it."""
        tensors = {f"dictionary.{name}": tensor for name, tensor in self.dictionary.state_dict().items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"adam.{name}.{key}": value for key, value in self.optimizer.state[parameter].items()}
        tensors |= {f"sum.{name}": value for name, value in self._sums.items()}
        tensors["rows_since_fired"] = self.rows_since_fired_n
        tensors["generator"] = self.generator.get_state()
        state = {
            "settings": self._settings(),
            "step_count": self.step_count,
            "row_count": self.row_count,
            "summed_steps": self._summed_steps,
            "log": [dict(row) for row in self.log],
        }
        return TrainerState({name: tensor.detach().clone() for name, tensor in tensors.items()}, state)

    def load_state_dict(self, saved: TrainerState) -> None:
        """Go on where `saved` was taken: the steps to come are bit-identical to those it would have made.

        Raises ValueError when it was taken under another config or of another dictionary.
        """
        tensors, state = saved
        settings = self._settings()
        changed = sorted(name for name in settings if state["settings"].get(name) != settings[name])
        if changed:
            raise ValueError(
                f"the checkpoint was made with another {', '.join(changed)}. "
                "Train from the start, or set them back to go on from it"
            )

        def under(prefix: str) -> dict[str, Tensor]:
            return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

        self.dictionary.load_state_dict(under("dictionary."))
        self.optimizer.state.clear()
        for name, parameter in self.parameters.items():
            # fused Adam keeps its step count beside the parameter
            moments = {key: value.to(self.device, copy=True) for key, value in under(f"adam.{name}.").items()}
            if moments:
                self.optimizer.state[parameter] = moments
        self._sums = {name: value.to(self.device, copy=True) for name, value in under("sum.").items()}
        self.rows_since_fired_n = tensors["rows_since_fired"].to(self.device, copy=True)
        self.generator.set_state(tensors["generator"].cpu())
        self.step_count, self.row_count = state["step_count"], state["row_count"]
        self._summed_steps = state["summed_steps"]
        self.log = [dict(row) for row in state["log"]]

    def _resample(self, x_Bd: Tensor) -> None:
        """Start dead features again, with fresh moments in the optimiser."""
        dead_D = (self.rows_since_fired_n >= self.config.dead_after_rows).nonzero().squeeze(1)
        if len(dead_D) == 0:
            return
        self.dictionary.resample(dead_D, x_Bd, self.generator)
        for name, parameter in self.parameters.items():
            if name.rpartition("_")[2].startswith("n"):  # one feature a row, as its shape suffix says
                for moment in ("exp_avg", "exp_avg_sq"):
                    self.optimizer.state[parameter][moment][dead_D] = 0
        self.rows_since_fired_n[dead_D] = 0

    def _settings(self) -> dict[str, Any]:
        """What a checkpoint must agree in with the trainer that goes on from it; JSON-able."""
        training = asdict(self.config) | {"betas": list(self.config.betas)}
        return training | {"method": self.dictionary.method} | self.dictionary.config()

    def _record(self, loss: Loss, rows: int, learning_rate: float) -> None:
        """Add a step to the sums, and every `log_every` steps the sums to the log."""
        values = {"loss": loss.total.detach(), "l0": loss.fired_n.sum() / rows, **loss.parts}
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.double()
        self._summed_steps += 1
        if self.step_count % self.config.log_every == 0 or self.step_count == self.config.steps:
            dead = (self.rows_since_fired_n >= self.config.dead_after_rows).double().mean()
            row = {"step": self.step_count, "rows": self.row_count, "learning_rate": learning_rate}
            # In the order of `values`: the sums of a resumed run come back in the order of their names.
            row |= {name: (self._sums[name] / self._summed_steps).item() for name in values}
            row["dead_fraction"] = dead.item()
            # A one-row batch has no FVU, say: null, as JSON knows no NaN.
            self.log.append({name: value if math.isfinite(value) else None for name, value in row.items()})
            self._sums, self._summed_steps = {}, 0
            for sink in self.sinks:
                sink(self.log[-1])

    def _explain_not_finite(self, x_Bd: Tensor) -> str:
        bad = (~torch.isfinite(x_Bd).all(1)).nonzero().flatten().tolist()
        at = f"step {self.step_count + 1} of {self.config.steps}"
        if bad:
            return f"activations hold NaN or infinity at {at}: {len(bad)} rows of the batch, first row {bad[0]}"
        return (
            f"the loss is NaN or infinite at {at} on activations of norm up to {x_Bd.norm(dim=1).max():.3g}. "
            "Normalise them, lower the learning rate, or see that a batch is more than one row repeated"
        )


def use_bfloat16(compute_dtype: str, device: torch.device) -> bool:
    """Whether to multiply matrices in bfloat16; `auto` asks the hardware, as emulation is slow."""
    if compute_dtype not in ("auto", "bfloat16", "float32"):
        raise ValueError(f"compute_dtype={compute_dtype!r} does not exist; choose auto, bfloat16 or float32")
    if compute_dtype != "auto":
        return compute_dtype == "bfloat16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
