"""`saeflow` as a person calls it: its exit code, what it prints where.

In this process, where its imports are made already, or in one of its own, which takes seconds.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import IO
from unittest.mock import patch

import pytest

from flows.cli import main

Result = subprocess.CompletedProcess[str]


def saeflow(*arguments: object, **environment: str) -> Result:
    """Call the command here. What it does to the environment ends with it."""
    command = ["saeflow", *map(str, arguments)]
    with (
        tempfile.TemporaryFile("w+") as stdout,
        tempfile.TemporaryFile("w+") as stderr,
        patch.dict(os.environ, environment),
        patch.object(sys, "argv", command),
    ):
        with (
            _written_to(stdout, 1) as out,
            _written_to(stderr, 2) as err,
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Result(command, code, _text(stdout), _text(stderr))


def saeflow_process(*arguments: object, **environment: str) -> Result:
    """Call the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **environment},
        check=False,
    )


def assert_refused(result: Result, *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.startswith("saeflow: ")
    for part in parts:
        assert part in result.stderr


@contextmanager
def _written_to(file: IO[str], descriptor: int) -> Iterator[IO[str]]:
    """Have a standard descriptor lead to a file, which is how the command itself keeps stdout for its result."""
    kept = os.dup(descriptor)
    os.dup2(file.fileno(), descriptor)
    try:
        with open(descriptor, "w", closefd=False) as stream:
            yield stream
    finally:
        os.dup2(kept, descriptor)
        os.close(kept)


def _text(file: IO[str]) -> str:
    file.seek(0)
    return file.read()
