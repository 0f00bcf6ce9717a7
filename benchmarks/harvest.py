"""Is a harvest as fast as the model itself, and as frugal with ten times the tokens? Layer 9 of SmolLM2-135M, on CPU.

    python -m benchmarks.harvest [--rounds 3] [--tokens 65536] [--only saeflow saelens]
    python -m benchmarks.harvest --memory

Over the same tokens, with the same dtype and batch, in turn:

    bare              the Hugging Face model without the layers above 9, its last norm and its head; nothing is kept
    saeflow           the harvest step, from reading tokens to the sealed artifact with its checksums
    transformer_lens  TransformerLens 4, run_with_cache(stop_at_layer=10); nothing is written
    saelens           SAELens' CacheActivationsRunner, in an environment of its own, into an Arrow data set

The claim: saeflow reaches 0.9 of bare. Rates are medians over the rounds, ratios medians of the ratios of each round.

--memory harvests N and 10 N tokens, each in a process of its own. The claim: at most 1.1 times the resident memory.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import tasks.harvest
from storage.activations import ActivationStore
from storage.artifacts import ArtifactRef
from tasks import corpus, language_model
from tasks.caching import artifacts
from tasks.capture import TOKENS_PER_PASS
from tasks.compute import Compute
from tasks.corpus import SPLITS, token_rows
from tasks.specs import CorpusSpec, ModelSpec, StorageSpec
from tests.peers.environments import python_of

LAYER, CONTEXT, HELD_OUT_TOKENS = 9, 256, 4096
HOOK_POINT = f"blocks.{LAYER}.hook_resid_post"
SEQUENCES = TOKENS_PER_PASS // CONTEXT

Run = Callable[[], tuple[float, Tensor]]
"""All tokens once: seconds, and the mean activation, which tells whether all contestants compute the same."""


class Saeflow:
    """The harvest step as a flow runs it, and where its time goes."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs = inputs
        self.seconds: dict[str, float] = {}
        self.runs: list[dict[str, float]] = []
        # A harvest loads its model once, however many tokens follow: a cost of its own, in no rate. So the first run
        # loads it, and the others are given the same one. All else counts: creating stores, reading tokens, permuting,
        # compressing, flushing, committing, sealing, hashing.
        self.load = cache(self._timed("load", tasks.harvest.load))

    def __call__(self) -> tuple[float, Tensor]:
        forget(self.inputs)
        self.seconds = dict.fromkeys(("load", "capture", "fill", "build"), 0.0)
        with ExitStack() as patches:
            patches.enter_context(patch.object(tasks.harvest, "load", self.load))
            for name in ("capture", "fill"):
                timed = self._timed(name, getattr(tasks.harvest, name))
                patches.enter_context(patch.object(tasks.harvest, name, timed))
            found = self._timed("build", tasks.harvest.harvest.build)(**self.inputs)
        self.runs.append(self.seconds)
        stores = [ActivationStore.open(artifacts().path(found) / split) for split in SPLITS]
        rows = torch.tensor([float(store.n_rows) for store in stores])
        mean = rows / rows.sum() @ torch.stack([store.statistics(HOOK_POINT).mean for store in stores])
        return self.seconds["build"] - self.seconds["load"], mean

    def shares(self) -> dict[str, float]:
        """Shares of the time: the forward pass, waiting for the writer, and all that comes before and after."""
        capture, fill, build = (sum(run[name] for run in self.runs[1:]) for name in ("capture", "fill", "build"))
        return {"forward": capture / build, "waiting": (fill - capture) / build, "sealing": (build - fill) / build}

    def _timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.seconds[name] += time.perf_counter() - started

        return timed


def bare(weights: Path, dtype: str, rows: np.ndarray) -> Run:
    from transformers import AutoModel

    model = AutoModel.from_pretrained(weights, dtype=getattr(torch, dtype))
    model.layers, model.norm = model.layers[: LAYER + 1], torch.nn.Identity()
    return partial(in_batches, rows, lambda batch: model(batch, use_cache=False).last_hidden_state)


def transformer_lens(weights: Path, dtype: str, rows: np.ndarray) -> Run:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(str(weights), device="cpu", dtype=getattr(torch, dtype))
    wanted = {"names_filter": [HOOK_POINT], "stop_at_layer": LAYER + 1, "return_type": None}
    return partial(in_batches, rows, lambda batch: bridge.run_with_cache(batch, **wanted)[1][HOOK_POINT])


def in_batches(rows: np.ndarray, activations: Callable[[Tensor], Tensor]) -> tuple[float, Tensor]:
    means = []
    started = time.perf_counter()
    with torch.inference_mode():
        for batch in torch.from_numpy(rows).split(SEQUENCES):
            # The sum is 1 ms of a second: the forward pass is what is measured.
            means.append(activations(batch).sum((0, 1), dtype=torch.float32) / rows.size)
    return time.perf_counter() - started, torch.stack(means).sum(0)


def saelens(weights: Path, dtype: str, rows: np.ndarray, home: Path) -> Run:
    np.save(home / "rows.npy", rows)
    script = Path(__file__).with_name("harvest_saelens.py")
    command = [python_of("saelens"), script, weights, home / "rows.npy", "--layer", LAYER, "--sequences", SEQUENCES]
    command += ["--dtype", dtype, "--threads", torch.get_num_threads()]

    def run() -> tuple[float, Tensor]:
        with tempfile.TemporaryDirectory(dir=home) as output:
            told = in_process([*command, "--output", output], os.environ | {"HF_HUB_OFFLINE": "1"})
        assert told["tokens"] == rows.size
        return told["seconds"], torch.tensor(told["mean"])

    return run


def in_process(command: list[Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a script that prints JSON as its last line."""
    ran = subprocess.run([str(word) for word in command], env=environment, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def harvest_inputs(tokens: int, dtype: str) -> dict[str, Any]:
    """Arguments of the harvest step; what they need is made, or found from before."""
    model = language_model.prepare_model.build(located=language_model.locate(ModelSpec()))
    spec = CorpusSpec(tokens=tokens, held_out_tokens=HELD_OUT_TOKENS, context_length=CONTEXT)
    return {
        "model": model,
        "tokens": corpus.tokenize.build(model=model, corpus=corpus.locate(spec)),
        "hook_points": (HOOK_POINT,),
        "dtype": dtype,
        "storage": StorageSpec(),
        "compute": Compute(threads=torch.get_num_threads()),
    }


def forget(inputs: dict[str, Any]) -> None:
    """Remove what an earlier harvest of the same inputs made, whole or not."""
    key = tasks.harvest.harvest.key(inputs)
    artifacts().remove(ArtifactRef(kind=tasks.harvest.harvest.kind, key=key, digest=""))


def compare_speed(home: Path, tokens: int, dtype: str, rounds: int, only: list[str]) -> dict[str, Any]:
    inputs = harvest_inputs(tokens, dtype)
    weights = artifacts().path(inputs["model"]) / "weights"
    rows = np.concatenate([token_rows(inputs["tokens"], split)[:] for split in SPLITS]).astype(np.int64)
    saeflow = Saeflow(inputs)
    contestants: dict[str, Callable[[], Run]] = {
        "bare": lambda: bare(weights, dtype, rows),
        "saeflow": lambda: saeflow,
        "transformer_lens": lambda: transformer_lens(weights, dtype, rows),
        "saelens": lambda: saelens(weights, dtype, rows, home),
    }
    runs = {name: make() for name, make in contestants.items() if name == "bare" or name in only}
    expected = torch.empty(0)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds + 1):
        for name, run in runs.items():
            spent, mean = run()
            expected = mean if name == "bare" else expected
            if not torch.allclose(mean, expected, rtol=0.02, atol=0.02):
                raise SystemExit(f"{name} computes something else: its mean activation is {mean}, not {expected}")
            if index > 0:  # the first round warms up
                seconds[name].append(spent)
                print(f"round {index}  {name:16s} {rows.size / spent:8,.0f} tokens/s", file=sys.stderr, flush=True)

    print(f"{rows.size:,} tokens, {dtype}, {SEQUENCES} × {CONTEXT} a batch, {torch.get_num_threads()} threads")
    print(f"{'':16s} {'tokens/s':>9s} {'of bare':>8s}")
    results: dict[str, Any] = {}
    for name, spent in seconds.items():
        ratio = statistics.median(base / own for base, own in zip(seconds["bare"], spent, strict=True))
        results[name] = {"tokens_per_second": rows.size / statistics.median(spent), "of_bare": ratio}
        print(f"{name:16s} {results[name]['tokens_per_second']:9,.0f} {ratio:8.2f}")
    if saeflow.runs:
        shares, load = saeflow.shares(), saeflow.runs[0]["load"]
        results["saeflow"] |= {"shares": shares, "load_seconds": load}
        told = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        print(f"saeflow's time: {told}; and once, loading the model: {load:.1f} s")
    return {"tokens": rows.size, "dtype": dtype, "threads": torch.get_num_threads(), "rounds": rounds, **results}


def compare_memory(tokens: int, dtype: str) -> dict[str, Any]:
    """A part is 32k tokens: from two parts on, one is written while the next is computed."""
    options = ["--dtype", dtype, "--threads", torch.get_num_threads(), "--home", os.environ["SAEFLOW_HOME"]]
    peaks: dict[int, int] = {}
    for count in (tokens, 10 * tokens):
        harvest_inputs(count, dtype)
        command = [sys.executable, "-m", "benchmarks.harvest", *options, "--peak-of", count]
        peaks[count] = in_process(command)["peak_bytes"]
        print(f"{count:12,} tokens  {peaks[count] / 2**20:8,.0f} MiB at most", flush=True)
    ratio = peaks[10 * tokens] / peaks[tokens]
    print(f"ten times the tokens, {ratio:.3f} times the memory")
    return {"dtype": dtype, "threads": torch.get_num_threads(), "peak_bytes": peaks, "ratio": ratio}


def peak_of(tokens: int, dtype: str) -> dict[str, Any]:
    inputs = harvest_inputs(tokens, dtype)
    forget(inputs)
    tasks.harvest.harvest.build(**inputs)
    # Not getrusage: its maximum begins with what the parent process had.
    kilobytes = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert kilobytes is not None
    return {"peak_bytes": 1024 * int(kilobytes[1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--tokens", type=int, default=65_536, help="to train on, a multiple of 4096; N of --memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["saeflow", "transformer_lens", "saelens"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float32"])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help="keeps the model and the tokens; else a temporary directory")
    arguments = parser.parse_args()
    if arguments.tokens % TOKENS_PER_PASS:
        parser.error(f"--tokens must be a multiple of {TOKENS_PER_PASS}")
    torch.set_num_threads(arguments.threads)
    dtype = language_model.resolve_dtype(arguments.dtype, "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        home = arguments.home or Path(temporary)
        os.environ["SAEFLOW_HOME"] = str(home)
        if arguments.peak_of:
            results = peak_of(arguments.peak_of, dtype)
        elif arguments.memory:
            results = compare_memory(arguments.tokens, dtype)
        else:
            results = compare_speed(home, arguments.tokens, dtype, arguments.rounds, arguments.only)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
