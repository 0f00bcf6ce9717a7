import ast
import json
import shutil
from pathlib import Path

import pytest

from tests.tasks import fingerprints

RECORDED = json.loads(fingerprints.RECORD.read_text())


def test_every_step_is_recorded():
    assert set(RECORDED) == set(fingerprints.all_steps())


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_code_that_changed_has_a_new_version_or_was_acknowledged(name: str):
    assert fingerprints.current().get(name) == RECORDED[name], (
        f"the code behind {name} changed. If it now makes something else, raise its code_version. Then, or if its "
        "results stay the same, run `make acknowledge`."
    )


def test_a_fingerprint_covers_the_project_modules_that_a_step_uses():
    behind = fingerprints.modules_behind("tasks.train")
    assert {"tasks/train.py", "sae_core/training.py", "sae_core/architectures/topk.py"} <= behind
    assert "storage/activations.py" in behind
    assert "sae_core/baselines/basis.py" in fingerprints.modules_behind("tasks.evaluate.reconstruction")
    assert not any(file.startswith("flows") for file in behind)


@pytest.mark.parametrize("file", ["assets/site.js", "templates/base.html"])
def test_what_is_written_into_a_site_counts_for_the_steps_that_write_one(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for package in fingerprints.PACKAGES:
        shutil.copytree(fingerprints.ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "ROOT", tmp_path)
    before = fingerprints.current()
    changed = tmp_path / "tasks/site" / file
    changed.write_text(changed.read_text() + " ")
    after = fingerprints.current()
    # Feature pages are data that the pages of a site load; they share the module that writes both.
    assert {name for name in before if before[name] != after[name]} == {
        "tasks.report.report", "tasks.compare.compare_runs", "tasks.feature_pages.feature_pages"
    }  # fmt: skip


def test_comments_and_docstrings_do_not_count_and_code_does(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fingerprints, "ROOT", tmp_path)
    trees = []
    for number, text in enumerate(('"""A."""\nx = 1', '"""B."""\nx = 1  # one', "x = 2")):
        (tmp_path / f"{number}.py").write_text(text)
        trees.append(fingerprints.tree(f"{number}.py"))
    assert trees[0] == trees[1] != trees[2]
    assert trees[0] == fingerprints.dump(ast.parse("x = 1"))
