"""TopK against PCA at the same L0, on layer 9 of SmolLM2-135M: the first claim of the README.

    python benchmarks/quickstart_layer9.py [--home DIR]

Runs (or finds) the quickstart preset and prints the held-out FVU of each dictionary of layer 9.
"""

import argparse
import os

from flows.cli import prepare_environment
from flows.parameters import load_config

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home")
    prepare_environment(parser.parse_args().home)

    from flows.experiment import run_experiment

    result = run_experiment(load_config("quickstart"))
    layer = [entry for entry in result["dictionaries"] if entry["hook_point"] == "blocks.9.hook_resid_post"]
    pca = next(entry["fvu"] for entry in layer if entry["method"] == "pca")
    print(f"{'method':10} {'L0':>7} {'FVU':>7} {'of PCA':>7}   ({os.environ['SAEFLOW_HOME']})")
    for entry in layer:
        print(f"{entry['method']:10} {entry['l0']:7.1f} {entry['fvu']:7.3f} {entry['fvu'] / pca:7.2f}")
    topk = next(entry for entry in layer if entry["method"] == "topk")
    assert topk["fvu"] <= 0.15, "TopK with k = 32 leaves more than 15 % of the variance unexplained"
