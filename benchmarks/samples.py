"""Tokens per second of samples that grow side by side: with our attention, and with that of transformers ("sdpa").

    python -m benchmarks.samples --threads 1

One model and two memories as long as a sample. Both read the same tokens and take turns at each, so that both see the
same machine; the ratio is of CPU seconds, which other work stretches less than those of the clock.
"""

import argparse
import statistics
import time

import torch

from tasks.decoding import ATTENTION, Decoder
from tasks.language_model import load_plain, locate, prepare_model
from tasks.samples import LENGTH
from tasks.specs import ModelSpec

OPENING = 16  # tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--dtype", default="bfloat16")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    model = load_plain(prepare_model.build(located=locate(ModelSpec())), arguments.dtype)
    decoders = {name: Decoder(model, arguments.length) for name in (ATTENTION, "sdpa")}
    clock: dict[str, list[float]] = {name: [] for name in decoders}
    processor: dict[str, list[float]] = {name: [] for name in decoders}
    differences = []
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(1000, 20_000, (arguments.texts, OPENING), generator=generator)
    for index in range(arguments.tokens + 1):
        logits = {}
        for name in list(decoders)[:: -1 if index % 2 else 1]:
            model.set_attn_implementation(name)
            started = time.perf_counter(), time.process_time()
            logits[name] = decoders[name].read(tokens).float()
            if index:  # the first reads the opening
                clock[name].append(time.perf_counter() - started[0])
                processor[name].append(time.process_time() - started[1])
        ours, theirs = logits.values()
        differences.append(((ours - theirs).norm() / theirs.norm()).item())
        tokens = logits["sdpa"].argmax(-1, keepdim=True)

    print(
        f"{arguments.texts} texts, {arguments.tokens} new tokens each in a memory of {arguments.length}, "
        f"{arguments.dtype}, {torch.get_num_threads()} threads; logits differ by {max(differences):.1%} at most"
    )
    for name, seconds in clock.items():
        ratio = statistics.median(map(lambda own, sdpa: own / sdpa, processor[name], processor["sdpa"]))
        rate = arguments.texts / statistics.median(seconds)
        print(f"{name:16} {rate:8,.0f} tokens/s {ratio:6.2f} of the CPU seconds of sdpa")


if __name__ == "__main__":
    main()
