"""sae_core is a library of its own: it imports and trains without anything the rest of the project needs."""

import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCKED = "prefect zarr transformers transformer_lens datasets pyarrow pydantic huggingface_hub openai storage"

GUARD = f"""
import sys
from importlib.abc import MetaPathFinder

class Guard(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED.split()}:
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Guard())
"""


def run(code: str, directory: Path) -> str:
    environment = {"PYTHONPATH": str(README.parent), "PATH": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", GUARD + code], cwd=directory, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_example_trains_a_dictionary_with_all_other_packages_blocked(tmp_path: Path):
    section = README.read_text().split("## The maths alone")[1]
    example = section.split("```python")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line.strip()]) <= 22
    fvu, shape = run("import torch; torch.manual_seed(0)\n" + example, tmp_path).split(maxsplit=1)
    assert 0 < float(fvu) < 0.4
    assert shape.strip() == "torch.Size([256, 64])"


def test_every_module_of_sae_core_imports_with_all_other_packages_blocked(tmp_path: Path):
    run(
        "import importlib, pkgutil, sae_core\n"
        "for module in pkgutil.walk_packages(sae_core.__path__, 'sae_core.'):\n"
        "    importlib.import_module(module.name)\n",
        tmp_path,
    )
