"""An environment for each peer, made once: they cannot be installed beside saeflow, nor all beside each other."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

REQUIREMENTS = {
    "saelens": "sae-lens==6.54.12",
    "dictionary_learning": "dictionary-learning==0.1.0",
    "sparsify": "eai-sparsify==1.3.3",
    # It takes NumPy 1, which later releases of pyarrow refuse to be imported with.
    "sae_dashboard": "sae-dashboard==0.8.0 pyarrow==19.0.1",
    "delphi": "eai-sparsify==1.3.3 sentence-transformers==6.2.0 asyncer blobfile faiss-cpu jaxtyping orjson "
    "simple-parsing",
    "sae_bench": "sae-lens==6.54.12 numpy<2 pyarrow==19.0.1 datasets<4 beartype seaborn tabulate",
}
ALONE = {"delphi": "eai-delphi==0.1.3", "sae_bench": "sae-bench==0.6.0"}
"""Installed without what they ask for: vLLM to read a file, torchvision. Above is what is imported and does not come
along."""


# sparsify decodes with Triton wherever that is installed, with or without a GPU.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "SPARSIFY_DISABLE_TRITON": "1"}


def run_in(peer: str, directory: Path, *arguments: str | Path) -> None:
    """Run the peer's script beside this file in its environment, in a directory, which it is told first."""
    script = Path(__file__).with_name(f"in_{peer}.py")
    command = [python_of(peer), script, directory, *arguments]
    if subprocess.run(command, env=ENVIRONMENT, cwd=directory, check=False).returncode != 0:
        pytest.fail(f"{script} failed in {python_of(peer)}: its output is above", pytrace=False)


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment under $SAEFLOW_PEERS; makes it where it is missing."""
    cache = Path(os.environ.get("SAEFLOW_PEERS") or Path.home() / ".cache" / "saeflow" / "peers")
    python, installed = cache / peer / "bin" / "python", cache / peer / "installed"
    needed, alone = REQUIREMENTS[peer].split(), ALONE.get(peer, "").split()
    requirement = " ".join(alone + needed)
    if not (installed.is_file() and installed.read_text() == requirement):
        print(f"installing {requirement} into {cache / peer}", file=sys.stderr, flush=True)
        venv.create(cache / peer, with_pip=True)
        torch_version = torch.__version__.split("+")[0]
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        subprocess.run([*pip, *needed, f"torch=={torch_version}"], check=True)
        if alone:
            subprocess.run([*pip, "--no-deps", *alone], check=True)
        # Where these come along they are built for another torch, and break what imports them; no peer needs them.
        pip = [python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision", "torchaudio"]
        subprocess.run(pip, check=True)
        installed.write_text(requirement)
    return python
