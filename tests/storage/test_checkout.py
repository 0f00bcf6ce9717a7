import subprocess
import sys
from pathlib import Path

import pytest

from storage import checkout as module
from storage.checkout import checkout_at

IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")


def git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *IDENTITY, *arguments], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "repository"
    (root / "storage").mkdir(parents=True)
    (root / "storage" / "code.py").write_text("x = 1\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "Begin")
    return root


def test_a_checkout_is_told_by_its_commit_and_whether_it_was_changed(repository: Path):
    commit = git(repository, "rev-parse", "HEAD")
    assert checkout_at(repository) == {"commit": commit, "dirty": False}
    (repository / "notes.txt").write_text("not tracked")
    assert checkout_at(repository) == {"commit": commit, "dirty": False}
    (repository / "storage" / "code.py").write_text("x = 2\n")
    assert checkout_at(repository) == {"commit": commit, "dirty": True}


def test_a_worktree_is_a_checkout_of_its_own(repository: Path, tmp_path: Path):
    git(repository, "worktree", "add", "--quiet", str(tmp_path / "other"))
    assert checkout_at(tmp_path / "other") == {"commit": git(repository, "rev-parse", "HEAD"), "dirty": False}


def test_a_foreign_repository_around_the_package_is_not_followed(repository: Path, monkeypatch: pytest.MonkeyPatch):
    packages = repository / ".venv" / "lib" / "site-packages"
    packages.mkdir(parents=True)
    assert checkout_at(packages) is None
    (packages / ".git").mkdir()  # which is no repository, so that git looks above it
    assert checkout_at(packages) is None
    monkeypatch.setenv("GIT_DIR", str(repository / ".git"))
    assert checkout_at(packages) is None


def test_without_a_repository_a_commit_or_git_there_is_none(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert checkout_at(tmp_path) is None
    unborn = tmp_path / "unborn"
    unborn.mkdir()
    git(unborn, "init", "--quiet")
    assert checkout_at(unborn) is None
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert checkout_at(repository) is None


def test_git_is_asked_once_in_a_process(monkeypatch: pytest.MonkeyPatch):
    asked: list[Path] = []
    monkeypatch.setattr(module, "checkout_at", asked.append)
    module.checkout.cache_clear()
    try:
        assert module.checkout() is module.checkout() is None
    finally:
        module.checkout.cache_clear()
    assert asked == [Path(sys.modules["storage"].__path__[0]).resolve().parent]
