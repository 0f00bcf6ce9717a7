"""How long it takes to make the pages of single features and a site of them, how large they are, and in what memory.

    OMP_NUM_THREADS=2 python -m benchmarks.feature_pages --features 24576 --tokens 32768
    OMP_NUM_THREADS=2 python -m benchmarks.feature_pages --features 256 --beside sae_dashboard

On SmolLM2-135M, layer 9, and documentation. The dictionary is a TopK autoencoder that was not trained: each feature
reads the direction of one held-out activation, so nearly all of them fire. With --home what is made, is kept and found.

--beside has SAEDashboard, in an environment of its own, make its dashboards of the same features on the same tokens.
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from sae_core import TopK, load_dictionary
from sae_core.interchange import FORMATS, Provenance
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.corpus import locate as locate_corpus
from tasks.corpus import token_rows, tokenize
from tasks.evaluate.reconstruction import evaluate_reconstruction
from tasks.feature_pages import BROWSE, feature_pages
from tasks.features import read_features
from tasks.harvest import harvest
from tasks.language_model import locate as locate_model
from tasks.language_model import prepare_model, resolve_dtype
from tasks.loss_gradients import loss_gradients
from tasks.report import report
from tasks.rows import open_store
from tasks.site.material import About
from tasks.specs import CorpusSpec, ModelSpec, RowFilter, StorageSpec
from tests.peers.environments import python_of

HOOK = "blocks.9.hook_resid_post"
K = 32
FRAGMENT = 64


def dictionary_of(activations: ArtifactRef, features: int) -> ArtifactRef:
    """Feature i reads and writes the direction in which the i-th of some held-out activations is off their mean."""
    rows = torch.cat([x for x, _ in open_store(activations, "held_out").iter_rows(HOOK, RowFilter())])
    chosen = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:features]]
    made = TopK(rows.shape[1], features, K)
    with torch.no_grad():
        made.b_dec_d.copy_(rows.mean(0))
        made.W_dec_nd.copy_(F.normalize(chosen - made.b_dec_d, dim=1))
        made.W_enc_nd.copy_(made.W_dec_nd)
        made.b_enc_n.zero_()
    return artifacts().build(
        "dictionary",
        f"benchmark{features}-{len(rows)}",
        lambda place: made.save(place),
        code_version="1",
        spec={"baseline": {"method": "topk", "k": K}, "hook_point": HOOK},
        inputs={"activations": activations},
        resumable=False,
    )


@contextlib.contextmanager
def timed(name: str) -> Iterator[None]:
    wall, work = time.perf_counter(), time.process_time()
    yield
    wall, work = time.perf_counter() - wall, time.process_time() - work
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"{name:12} {wall:7.1f} s, {work:7.1f} s of CPU, {peak:,.0f} MiB at most so far", flush=True)


def dashboard(place: Path, given: dict[str, Any], dictionary: ArtifactRef, features: int) -> dict[str, float]:
    """What SAEDashboard takes for the same."""
    place.mkdir()
    held_out = np.asarray(token_rows(given["tokens"], "held_out")[:]).reshape(-1, FRAGMENT)
    np.save(place / "tokens.npy", held_out)
    provenance = Provenance("SmolLM2-135M-Instruct", HOOK, FRAGMENT, False, "")
    FORMATS["saelens"].write(load_dictionary(artifacts().path(dictionary)), place / "sae", provenance)
    script = Path(__file__).with_name("feature_pages_saedashboard.py")
    weights = artifacts().path(given["model"]) / "weights"
    command = [python_of("sae_dashboard"), script, weights, place / "sae", place / "tokens.npy", place]
    command += ["--features", features]
    ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--features", type=int, default=24_576)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--beside", choices=["sae_dashboard"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAEFLOW_HOME"] = str(arguments.home or Path(folder) / "home")
        compute, dtype = Compute(threads=torch.get_num_threads()), resolve_dtype("auto", "cpu")
        model = prepare_model.build(located=locate_model(ModelSpec()))
        spec = CorpusSpec(tokens=4096, held_out_tokens=arguments.tokens)
        tokens = tokenize.build(model=model, corpus=locate_corpus(spec))
        given = {"model": model, "tokens": tokens, "compute": compute}
        activations = harvest.build(hook_points=(HOOK,), dtype=dtype, storage=StorageSpec(), **given)
        dictionary = dictionary_of(activations, arguments.features)
        at = {**given, "dictionary": dictionary, "hook_point": HOOK}
        print(f"{arguments.features:,} features, {arguments.tokens:,} tokens, {compute.threads} threads, {dtype}")
        with timed("features"):
            own = {"rows": RowFilter(), "fragment_length": FRAGMENT, "seed": 0}
            features = read_features.build(activations=activations, **own, **at)
        with timed("gradients"):
            gradients = loss_gradients.build(hook_points=(HOOK,), dtype=dtype, **given)
        with timed("pages"):
            pages = feature_pages.build(name=str(dictionary), features=features, gradients=gradients, **at)
        measured = evaluate_reconstruction.build(
            dictionary=dictionary, activations=activations, hook_point=HOOK, rows=RowFilter(), compute=compute
        )
        with timed("site"):
            about = About(name="feature pages", config={})
            names, each = (str(dictionary),), {"dictionaries": (dictionary,), "evaluations": (measured,)}
            report.build(about=about, names=names, studies=(), comparisons=(), pages=(pages,), **each)
        place = artifacts().path(pages) / BROWSE
        sizes = {file: file.stat().st_size / 2**20 for file in place.rglob("*") if file.is_file()}
        shards = [size for file, size in sizes.items() if file.parent.name == "shards"]
        told = f"{sum(shards):,.1f} in {len(shards)} shards of at most {max(shards):.2f}"
        print(f"{sum(sizes.values()):,.1f} MiB, of it {told}", flush=True)
        if arguments.beside:
            peer = dashboard(Path(folder) / "peer", given, dictionary, arguments.features)
            print(
                f"{arguments.beside}: {peer['seconds']:.1f} s, {peer['cpu']:.1f} s of CPU, {peer['mib']:,.1f} MiB, "
                f"{peer['peak_mib']:,.0f} MiB of memory at most"
            )


if __name__ == "__main__":
    main()
