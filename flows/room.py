"""Whether an experiment fits on the disk, not counting what is there already."""

import shutil

from flows.parameters import ExperimentConfig
from flows.preflight import Prepared, prepare
from flows.stages import Job, look_up, stages
from flows.wording import size
from tasks.caching import artifacts
from tasks.errors import ExperimentError
from tasks.harvest import find_earlier, harvest

DISK_MARGIN = 1.05  # file systems keep some blocks for themselves


def ready(config: ExperimentConfig) -> Prepared:
    """An experiment that can start: `prepare`, and room on the disk for what is not made yet.

    Raises:
        ExperimentError: what is wrong, and what to do about it.
    """
    prepared = prepare(config)
    store = artifacts()
    free = shutil.disk_usage(store.scratch).free
    elsewhere = set() if store.streams_to_this_disk else {harvest.kind}
    on_disk = {kind: count for kind, count in prepared.bytes_needed.items() if kind not in elsewhere}
    needed = sum(on_disk.values())
    if needed * DISK_MARGIN > free:  # only then is it worth the time to look what is already there
        to_do = [stage.job for stage in stages(prepared, look_up) if stage.ref is None]
        needed = sum(on_disk.get(kind, 0) for kind in {job.step.kind for job in to_do})
        needed -= sum(_bytes_begun(job) for job in to_do)
        if store.streams_to_this_disk and any(job.step is harvest for job in to_do):
            needed -= _bytes_to_link(prepared)
    if needed * DISK_MARGIN > free:
        raise ExperimentError(
            f"the experiment needs about {needed:,} bytes ({size(needed)}) in {store.scratch}, and {free:,} bytes "
            f"({size(free)}) are free. Lower corpus.tokens, name fewer hook_points, or choose another --home."
        )
    return prepared


def _bytes_begun(job: Job) -> int:
    """Bytes that an interrupted attempt at a job left."""
    if job.inputs_missing():
        return 0
    place = artifacts().path(job.step.kind, job.step.key(job.inputs)).with_suffix(".partial")
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _bytes_to_link(prepared: Prepared) -> int:
    """Bytes of earlier activations that a harvest takes over as links to the same files."""
    config = prepared.config
    inputs = {"model": prepared.model, "hook_points": config.hook_points, "dtype": prepared.dtype}
    earlier = find_earlier(prepared.base, **inputs, storage=config.storage, compute=prepared.compute_harvest)
    return sum(file["size"] for file in artifacts().manifest(earlier)["files"]) if earlier else 0
