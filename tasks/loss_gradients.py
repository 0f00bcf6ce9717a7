"""What each activation does to the loss: gradients at all hook points of an experiment, in one pass.

    g = ∂L/∂x        L: the next-token loss (nats), summed over the tokens of a row

For every held-out token row, at every position. What moves x by a little, by Δ say, changes the loss of all the text
that follows by g·Δ, to first order; ablating a feature there is Δ = −f w (sae_core.interventions).

Files of some rows each, `{first row}.safetensors`: for each hook point [rows, P, d] in bfloat16, whose range holds the
smallest gradient. They are read through a memory map.

Shapes: S rows of tokens, P positions, E places in them, d the hook point's width.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import cross_entropy

from storage.artifacts import ArtifactRef
from storage.durable import write_whole
from tasks.caching import step
from tasks.compute import Compute
from tasks.corpus import token_rows
from tasks.language_model import description, load
from tasks.patching import by_predictions, gradients
from tasks.progress import Progress

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

BYTES_PER_FILE = 1 << 26
BYTES_OF_A_NUMBER = 2


@step(kind="gradients", code_version="2", resumable=True)
def loss_gradients(
    place: Path,
    model: ArtifactRef,
    tokens: ArtifactRef,
    hook_points: tuple[str, ...],
    dtype: str,
    compute: Compute,
) -> dict[str, Any]:
    """Write the gradients of the held-out rows that are not there yet; each file appears whole or not at all.

    `rows` in the manifest counts activations, as that of a harvest does.

    Args:
        dtype: precision of the pass, "bfloat16" or "float32": that of the harvest.
    """
    compute.apply()
    bridge = load(model, dtype, compute.device)
    rows: Any = token_rows(tokens, "held_out")
    told = description(model)
    row_bytes = BYTES_OF_A_NUMBER * rows.shape[1] * sum(told.width(name) for name in hook_points)
    rows_per_file = max(1, BYTES_PER_FILE // row_bytes)
    files = {first: place / f"{first}.safetensors" for first in range(0, rows.shape[0], rows_per_file)}
    missing = {first: file for first, file in files.items() if not file.exists()}
    rows_to_read = sum(min(rows_per_file, rows.shape[0] - first) for first in missing)
    with Progress("loss gradients", rows.size, "tokens", done=rows.size - rows_to_read * rows.shape[1]) as progress:
        for first, file in missing.items():
            parts = []
            for tokens_SP in by_predictions(bridge, np.asarray(rows[first : first + rows_per_file])):
                found = of_rows(bridge, tokens_SP, hook_points)
                parts.append({name: g_SPd.bfloat16().cpu() for name, g_SPd in found.items()})
                progress.add(tokens_SP.size)
            joined = {name: torch.cat([part[name] for part in parts]) for name in hook_points}
            write_whole(file, save(joined))
    return {"rows": int(rows.size)}


def of_rows(
    bridge: TransformerBridge, tokens_SP: Int[np.ndarray, "S P"], hook_points: tuple[str, ...]
) -> Mapping[str, Float[Tensor, "S P d"]]:
    """The gradients of some token rows, in float32."""
    following = torch.from_numpy(tokens_SP[:, 1:].astype(np.int64)).to(bridge.cfg.device)

    def loss(logits_SPV: Tensor) -> Tensor:
        return cross_entropy(logits_SPV[:, :-1].flatten(0, 1), following.flatten(), reduction="sum")

    return gradients(bridge, tokens_SP, hook_points, loss)


class LossGradients:
    """Reads the gradients of single places at one hook point."""

    def __init__(self, place: Path, hook_point: str) -> None:
        """`place` is the directory of a `gradients` artifact."""
        files = {int(file.stem): file for file in place.glob("*.safetensors")}
        self._firsts = np.array(sorted(files))
        self._files = [safe_open(files[first], "pt") for first in self._firsts.tolist()]
        self.hook_point = hook_point

    def at(self, row_E: Int[np.ndarray, " E"], position_E: Int[np.ndarray, " E"]) -> Float[Tensor, "E d"]:
        """In float32."""
        file_E = np.searchsorted(self._firsts, row_E, side="right") - 1
        width = self._files[0].get_slice(self.hook_point).get_shape()[-1]
        found_Ed = torch.empty(len(row_E), width)
        for number in np.unique(file_E).tolist():
            mine = np.flatnonzero(file_E == number)
            g_SPd = self._files[number].get_tensor(self.hook_point)
            places = torch.from_numpy(row_E[mine] - self._firsts[number]), torch.from_numpy(position_E[mine])
            found_Ed[torch.from_numpy(mine)] = g_SPd[places].float()
        return found_Ed
