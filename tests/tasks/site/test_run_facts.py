from pathlib import Path
from typing import Any

from tasks.site.run_facts import commits
from tests.tasks.site.made_up import material, overview

CLEAN: dict[str, Any] = {"commit": "0" * 40, "dirty": False}
CHANGED: dict[str, Any] = {"commit": "0" * 40, "dirty": True}


def made(hour: int, **checkout: Any) -> dict[str, Any]:
    return {"created": f"2026-01-01T{hour:02}:00:00+00:00", **checkout}


def test_commits_are_told_in_the_order_in_which_they_were_used():
    manifests = [made(3, checkout=CHANGED), made(4, checkout=CLEAN), made(2, checkout=CLEAN), made(5, checkout=None)]
    told = commits([*manifests, made(1)])
    assert [(entry["commit"], entry["dirty"], entry["artifacts"]) for entry in told] == [
        (None, None, 1), ("0" * 40, False, 2), ("0" * 40, True, 1), (None, None, 1)
    ]  # fmt: skip
    assert "did not record" in told[0]["reason"]
    assert "git checkout" in told[-1]["reason"]


def test_the_page_tells_the_commit_or_why_there_is_none(tmp_path: Path):
    page = overview(tmp_path, material(), commits=commits([made(1, checkout=CLEAN)]))
    assert f"<dt>commit</dt><dd><code>{'0' * 40}</code></dd>" in page
    page = overview(tmp_path, material(), commits=commits([made(1, checkout=CHANGED), made(2, checkout=None)]))
    assert f"<code>{'0' * 40}</code> with uncommitted changes (1 artifact); <abbr title=" in page
    page = overview(tmp_path, material(), commits=commits([made(1, checkout=None)]))
    assert 'that git can read" tabindex="0">—</abbr></dd>' in page
