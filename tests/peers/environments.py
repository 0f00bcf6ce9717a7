"""An environment for each peer, made once: they cannot be installed beside saeflow, nor all beside each other."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import torch

REQUIREMENTS = {
    "saelens": "sae-lens==6.54.12",
    "dictionary_learning": "dictionary-learning==0.1.0",
    "sparsify": "eai-sparsify==1.3.3",
    "sae_dashboard": "sae-dashboard==0.8.0",
}


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment under $SAEFLOW_PEERS; makes it where it is missing."""
    cache = Path(os.environ.get("SAEFLOW_PEERS") or Path.home() / ".cache" / "saeflow" / "peers")
    python, installed = cache / peer / "bin" / "python", cache / peer / "installed"
    requirement = REQUIREMENTS[peer]
    if not (installed.is_file() and installed.read_text() == requirement):
        print(f"installing {requirement} into {cache / peer}", file=sys.stderr, flush=True)
        venv.create(cache / peer, with_pip=True)
        torch_version = torch.__version__.split("+")[0]
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*pip, requirement, f"torch=={torch_version}"], check=True)
        installed.write_text(requirement)
    return python
