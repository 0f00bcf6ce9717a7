"""What does the orchestration cost, and what do more workers gain?

    python -m benchmarks.orchestration [--rounds 3] [--quickstart]

Four layers of SmolLM2-135M, a TopK dictionary each, 1 thread a process. Everything but the imports is counted: server,
pool, tasks, cache look-ups.

    cached     the same experiment again, with everything made: seconds after the imports. The claim: at most 15
    workers    the training of the four dictionaries by 2 processes, relative to 1. The claim: at most 0.6
    overhead   share of the time of a first run of the preset quickstart (with --quickstart) that is not spent inside
               its steps. The claim: at most 5 %
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.parameters import load_config

HOOK_POINTS = [f"blocks.{layer}.hook_resid_post" for layer in (2, 4, 6, 8)]

RUN = """
import json, sys, time
imports = time.perf_counter()
import flows.experiment, transformer_lens, transformers, torch._dynamo, zarr
from prefect.server.api.server import SubprocessASGIServer
from flows.parameters import ExperimentConfig
started = time.perf_counter()
result = flows.experiment.run_experiment(ExperimentConfig.model_validate(json.loads(sys.argv[1])))
print(json.dumps({"seconds": time.perf_counter() - started, "imports": started - imports, **result}))
"""


def run(home: Path, **changes: Any) -> dict[str, Any]:
    """One experiment in a process of its own."""
    config = {
        "name": "layers",
        "corpus": {"tokens": 65_536, "held_out_tokens": 8192},
        "hook_points": HOOK_POINTS,
        "training": {"batch_size": 1024, "epochs": 4},
        "dictionaries": [{"method": "topk", "expansion": 4, "k": 32}],
        **changes,
    }
    environment = {**os.environ, "SAEFLOW_HOME": str(home), "PREFECT_LOGGING_LEVEL": "WARNING", "TQDM_DISABLE": "1"}
    environment |= {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "PREFECT_HOME": str(home / "prefect")}
    environment["PREFECT_RESULTS_LOCAL_STORAGE_PATH"] = str(home / "records")
    ran = subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(config)], env=environment, capture_output=True, text=True, check=False
    )
    if ran.returncode != 0:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def forget(home: Path, kinds: tuple[str, ...]) -> None:
    subprocess.run(["rm", "-rf", *(str(home / kind) for kind in kinds), str(home / "records")], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quickstart", action="store_true")
    arguments = parser.parse_args()
    rounds = arguments.rounds
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        if arguments.quickstart:
            result = run(home, **load_config("quickstart").model_dump(mode="json"))
            work = busy(home, result)
            told = f"{result['seconds']:.1f} s, {work:.1f} s of it with a step at work"
            print(f"quickstart {told}: overhead {1 - work / result['seconds']:.1%}")
            return
        run(home, compute={"workers": 1, "threads": 1})
        cached = [run(home, compute={"workers": 1, "threads": 1}) for _ in range(rounds)]
        assert all(stage["cached"] for result in cached for stage in result["stages"])
        print(f"all cached {statistics.median(result['seconds'] for result in cached):.1f} s after imports")
        spans: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for workers, seconds in spans.items():
                forget(home, ("dictionary", "evaluation", "report"))
                result = run(home, compute={"workers": workers, "threads": 1})
                seconds.append(span(home, result))
        ratios = [two / one for one, two in zip(spans[1], spans[2], strict=True)]
        for workers, seconds in spans.items():
            print(f"{workers} workers: {statistics.median(seconds):.1f} s for four dictionaries")
        print(f"2 workers take {statistics.median(ratios):.2f} of the time of 1")


def times(home: Path, refs: Iterable[str]) -> list[tuple[float, float]]:
    """When each of these artifacts was begun and when it was whole."""
    found = []
    for ref in refs:
        manifest = json.loads((home / ref / "manifest.json").read_text())
        end = datetime.fromisoformat(manifest["created"]).timestamp()
        found.append((end - manifest["seconds"], end))
    return sorted(found)


def span(home: Path, result: dict[str, Any]) -> float:
    """Seconds from when the first dictionary is begun to when the last is whole."""
    spans = times(home, (stage["ref"] for stage in result["stages"] if stage["ref"].startswith("dictionary/")))
    return max(end for _, end in spans) - spans[0][0]


def busy(home: Path, result: dict[str, Any]) -> float:
    """Seconds in which at least one step was at work, the preparation of the model included."""
    models = [f"model/{directory.name}" for directory in (home / "model").iterdir()]
    total, until = 0.0, 0.0
    for start, end in times(home, [*models, *(stage["ref"] for stage in result["stages"])]):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


if __name__ == "__main__":
    main()
