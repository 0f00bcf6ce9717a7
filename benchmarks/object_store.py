"""What do 16 requests at a time gain over one, when each takes as long as those of a real object store?

    python -m benchmarks.object_store [--delay 0.03]

Reads the chunks of an activation store (bfloat16, d = 576, 1024 rows) that is in an S3 server on loopback, behind a
proxy that adds a delay to every request: through the Location alone, and as `iter_rows` gives them to a reader. Server,
proxy and reader share this machine's cores, so what is compared is waiting, and not the bandwidth of anything.
"""

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from storage.activations import ActivationStore
from storage.layout import StoreLayout
from storage.object_storage import ObjectLocation
from storage.parallel import at_once
from tests.object_store import ENVIRONMENT, FaultyProxy, new_bucket, s3_server

HOOK = "blocks.0.hook_resid_post"
PARTS = 16
LAYOUT = StoreLayout(
    model="none",
    hook_points={HOOK: 576},
    dtype="bfloat16",
    segments=(PARTS * 4 * 8,),
    context_length=128,
    seed=0,
    tokens_digest="none",
    chunk_rows=1024,
    chunks_per_part=4,
)


def write(place: ObjectLocation) -> None:
    store = ActivationStore.create(place, LAYOUT)
    for part in store.missing_parts():
        sequences = LAYOUT.part_sequences(part)
        ids = np.stack([np.repeat(sequences, 128), np.tile(np.arange(128), len(sequences))], axis=1)
        rows = torch.randn(len(ids), 576, generator=torch.Generator().manual_seed(part))
        store.write_part(part, {HOOK: rows}, ids)
    store.seal()


@contextmanager
def timed(what: str, requests: list[str], rows: int) -> Iterator[None]:
    requests.clear()
    started = time.perf_counter()
    yield
    seconds = time.perf_counter() - started
    print(f"  {what:12} {seconds:6.2f} s  {len(requests) / seconds:6.0f} requests/s  {rows / seconds:9,.0f} rows/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--delay", type=float, default=0.03, help="seconds added to every request")
    delay = parser.parse_args().delay
    with s3_server() as server:
        proxy = FaultyProxy(server)
        os.environ.update(ENVIRONMENT, AWS_ENDPOINT_URL=proxy.url)
        place = ObjectLocation(f"s3://{new_bucket(server)}/store")
        write(place)
        proxy.delay = delay
        chunks = [name for name in place.names(f"data.zarr/{HOOK}/acts") if not name.endswith(".json")]
        rows = len(chunks) * LAYOUT.chunk_rows
        for threads in (1, 4, 16):
            print(f"{threads} at a time, {delay * 1000:.0f} ms a request")
            with timed("Location", proxy.seen, rows):
                at_once(place.read, chunks, threads)
            place.parallel_reads = threads
            store = ActivationStore.open(place)
            with timed("iter_rows", proxy.seen, rows):
                for _ in store.iter_rows(HOOK):
                    pass


if __name__ == "__main__":
    main()
