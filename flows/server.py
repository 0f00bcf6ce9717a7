"""One Prefect server for a run and all its processes.

Where no server is configured, Prefect starts a temporary one, and every process of a pool starts its own: 7 seconds
of CPU time each. So a run starts it here and tells its processes the address.
"""

from __future__ import annotations

import contextvars
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

if TYPE_CHECKING:
    from prefect.server.api.server import SubprocessASGIServer


@contextmanager
def one_server(meanwhile: Callable[[], object]) -> Iterator[None]:
    """The configured server, or a temporary one that ends with this process.

    Args:
        meanwhile: what is done while it starts. Where that fails, there is no server.
    """
    if PREFECT_API_URL.value():
        meanwhile()
        yield
        return
    starting = _Starting()
    try:
        meanwhile()
    except BaseException:
        starting.give_up()
        raise
    api_url = starting.server.result().api_url
    os.environ["PREFECT_API_URL"] = api_url  # for the processes of the pool
    try:
        with temporary_settings({PREFECT_API_URL: api_url}):
            yield
    finally:
        del os.environ["PREFECT_API_URL"]


class _Starting:
    """A server that starts in a thread of its own, which nobody waits for at the end of the process."""

    def __init__(self) -> None:
        self.server: Future[SubprocessASGIServer] = Future()
        self._given_up = threading.Event()
        threading.Thread(target=contextvars.copy_context().run, args=(self._start,), daemon=True).start()

    def give_up(self) -> None:
        """Not to start it, or to stop it once it has started."""
        self._given_up.set()
        self.server.add_done_callback(lambda server: server.exception() or server.result().stop())

    def _start(self) -> None:
        from prefect.server.api.server import SubprocessASGIServer  # two seconds, for runs that need it

        try:
            # Servers share Prefect's database. Two that create or upgrade it at once fail both: one after another.
            PREFECT_HOME.value().mkdir(parents=True, exist_ok=True)
            with (PREFECT_HOME.value() / "saeflow-server.lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if self._given_up.is_set():
                    return
                server = SubprocessASGIServer()
                server.start()
            self.server.set_result(server)
        except BaseException as error:  # raised where it is waited for, which would otherwise be for ever
            self.server.set_exception(error)
