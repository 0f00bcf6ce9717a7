"""One Prefect server for a run and all its processes.

Where no server is configured, Prefect starts a temporary one, and every process of a pool starts its own: 7 seconds
of CPU time each. So a run starts it here and tells its processes the address.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings


@contextmanager
def one_server() -> Iterator[None]:
    """The configured server, or a temporary one that ends with this process."""
    if PREFECT_API_URL.value():
        yield
        return
    from prefect.server.api.server import SubprocessASGIServer  # two seconds, for runs that need it

    server = SubprocessASGIServer()
    # Servers share Prefect's database. Two that create or upgrade it at once fail both: one after another.
    PREFECT_HOME.value().mkdir(parents=True, exist_ok=True)
    with (PREFECT_HOME.value() / "saeflow-server.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        server.start()
    os.environ["PREFECT_API_URL"] = server.api_url  # for the processes of the pool
    try:
        with temporary_settings({PREFECT_API_URL: server.api_url}):
            yield
    finally:
        del os.environ["PREFECT_API_URL"]
