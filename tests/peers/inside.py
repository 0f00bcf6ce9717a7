"""What the scripts that run inside a peer's own environment share. They know nothing of saeflow but directories:

exported/NAME/         written by saeflow; the script loads it and puts its reconstruction of the rows
exported.safetensors   here
made/NAME/             written by the peer, with random parameters
made.safetensors       the peer's own reconstructions of the same rows
refused/NAME/          written by the peer, of a kind that saeflow does not have
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

D, N, K = 12, 40, 5  # D is the width of the rows


@torch.no_grad()
def randomise(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(7)
    for name, tensor in module.state_dict().items():
        if "threshold" in name:
            tensor.fill_(0.3) if tensor.ndim == 0 else tensor.uniform_(0.1, 0.6, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(std=tensor.shape[-1] ** -0.5, generator=generator)


@torch.no_grad()
def run(load: Callable[[Path], Callable[[Tensor], Tensor]], make: Callable[[Path, Path], None]) -> None:
    here = Path(sys.argv[1])
    rows = load_file(here / "rows.safetensors")["rows"]
    with torch.enable_grad():
        make(here / "made", here / "refused")
    for kind in ("exported", "made"):
        rebuilt = {place.name: load(place)(rows).contiguous() for place in sorted((here / kind).iterdir())}
        save_file(rebuilt, here / f"{kind}.safetensors")
