"""Which commit of saeflow is running, where it runs from a git checkout of its own."""

import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TypedDict

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 10.0
"""How long git may take, on a disk that is far away say."""


class Checkout(TypedDict):
    commit: str
    """40 hex digits."""
    dirty: bool
    """Whether a file that git tracks differs from the commit."""


@cache
def checkout() -> Checkout | None:
    """The checkout that this process runs from, asked once; None for an installed package, or without git."""
    return checkout_at(ROOT)


def checkout_at(root: Path) -> Checkout | None:
    """The checkout whose top level is `root`; None where it is inside another one, or in none."""
    if not (root / ".git").exists():  # an installed package: no process has to be started
        return None
    try:
        top, commit = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        if not Path(top).samefile(root):  # git goes on above a `.git` that is none
            return None
        return Checkout(commit=commit, dirty=bool(_git(root, "status", "--porcelain", "--untracked-files=no")))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    # Git's own variables, which a hook sets, lead to another repository. Without locks it waits for no other git.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "--no-optional-locks", *arguments],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=SECONDS,
    ).stdout
