"""Where a step runs: work on a GPU waits for a slot, where the server has a limit."""

import threading
from contextvars import copy_context

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

from tasks.compute import GPU_SLOTS, Compute, gpu_slot


@pytest.mark.slow
@pytest.mark.usefixtures("prefect_server")
def test_work_on_a_gpu_waits_for_a_slot_and_work_on_the_cpu_does_not():
    begun = threading.Event()

    def work() -> None:
        with gpu_slot(Compute(device="cuda")):
            begun.set()

    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_SLOTS, limit=1))
        try:
            other = threading.Thread(target=copy_context().run, args=(work,))
            with gpu_slot(Compute(device="cuda")):
                other.start()
                with gpu_slot(Compute(device="cpu")):
                    assert not begun.wait(3)
            assert begun.wait(60)
            other.join()
        finally:
            client.delete_global_concurrency_limit_by_name(GPU_SLOTS)
