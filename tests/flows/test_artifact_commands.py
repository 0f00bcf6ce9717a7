"""`saeflow artifacts` as a person runs it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.artifact_tables import grouped
from storage.artifacts import ArtifactRef
from storage.locks import Locks
from tests.flows.command import Result, assert_refused, saeflow, saeflow_process
from tests.flows.homes import SmallHome


@pytest.fixture
def small(tmp_path: Path) -> SmallHome:
    return SmallHome(tmp_path / "home")


def artifacts(
    small: SmallHome, *arguments: object, columns: int = 120, call: Callable[..., Result] = saeflow
) -> Result:
    return call("artifacts", *arguments, "--home", small.store.uri, COLUMNS=str(columns))


def lines(result: Result, code: int = 0) -> list[str]:
    assert result.returncode == code, result.stderr
    return result.stdout.splitlines()


def damage(small: SmallHome, ref: ArtifactRef, file: str = "content.txt") -> None:
    path = small.store.path(ref) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_what_a_home_holds_is_listed_with_its_experiments_and_sizes(small: SmallHome):
    made = small.chain(1)
    small.record("tiny", *made.values())
    small.make("tokens", {"corpus": {"tokens": 7, "sources": ["[red]stories[/red] :smile: \x1b[31m.txt"]}})
    with pytest.raises(InterruptedError):
        small.make("tokens", {"n": 2}, fails=True)
    damage(small, made["activations"], "manifest.json")

    told = lines(artifacts(small, "ls", call=saeflow_process))
    dictionary = next(line for line in told if line.startswith("dictionary/"))
    assert dictionary.split()[:3] == [f"dictionary/{made['dictionary'].key[:8]}", "1,000", "bytes"]
    assert dictionary.endswith(" s  tiny  topk at h, k=4")
    odd = next(line for line in told if "stories" in line)
    assert "sources=[red]stories[/red] :smile: �[31m.txt" in odd
    assert " — " in odd
    assert any(line.startswith(f"damaged     {made['activations']}: manifest.json cannot be read") for line in told)
    assert any(line.startswith("unfinished  tokens/") and "no process is at work" in line for line in told)
    assert "tokens           2  2.0 KiB" in told
    assert told[-1] == f"together         5  4.9 KiB  in {small.store.uri}"

    found = json.loads(artifacts(small, "ls", "tokens", "--json").stdout)
    assert [len(found[group]) for group in ("artifacts", "damaged", "unfinished")] == [2, 0, 1]
    entry = next(entry for entry in found["artifacts"] if entry["ref"] == str(made["tokens"]))
    assert (entry["bytes"], entry["experiments"], entry["provenance"]) == (1000, ["tiny"], "tokens=1001")
    assert_refused(artifacts(small, "ls", "token"), "holds no 'token'. There are: activations, dictionary")


def test_an_empty_home_holds_nothing(small: SmallHome):
    assert lines(artifacts(small, "ls")) == [f"together         0  0 bytes  in {small.store.uri}"]
    assert not Path(small.store.uri).exists()


def test_one_artifact_is_shown_with_what_it_was_made_from_and_what_was_made_from_it(small: SmallHome):
    made = small.chain(1)
    small.record("tiny", *made.values())
    told = lines(artifacts(small, "show", made["dictionary"].key[:6], columns=80))
    assert told[0] == f"{made['dictionary']}  topk at h, k=4"
    assert f"path    {small.store.uri}/{made['dictionary']}" in told
    assert "for     tiny" in told
    commit = small.store.manifest(made["dictionary"])["checkout"]
    assert commit is None or f"commit {commit['commit']}" in " ".join(told)
    start = told.index("made from")
    short = {kind: f"{kind}/{ref.key[:8]}" for kind, ref in made.items()}
    assert told[start + 1 : start + 7] == [
        f"  {short['activations']}  hook_points=h",
        f"    {short['model']}  source=tiny",
        f"    {short['tokens']}  tokens=1001",
        f"      {short['model']}  (see above)",
        "used for",
        f"  {short['evaluation']}  of topk at h, k=4",
    ]
    assert told[-2:] == ["1 file, 1,000 bytes", "   1,000 bytes  content.txt"]
    shown = artifacts(small, "show", made["dictionary"], "--json")
    assert json.loads(shown.stdout) == small.store.manifest(made["dictionary"])
    assert_refused(artifacts(small, "show", "nothing"), "'nothing' is not there", small.store.uri)


def test_files_whose_names_differ_in_a_number_are_told_as_one_group():
    names = ["train/acts/c/0/0", "train/acts/c/17/0", "commits/000001.json", "commits/000002.json", "blocks.1.x/a"]
    groups = grouped([{"name": name, "size": 10} for name in [*names, "blocks.2.x/a"]])
    assert groups == {
        "train/acts/c/*/*": [10, 10],
        "commits/*.json": [10, 10],
        "blocks.1.x/a": [10],
        "blocks.2.x/a": [10],
    }


def test_every_damaged_file_is_named_and_how_it_is_repaired(small: SmallHome):
    made = small.chain(1)
    small.record("tiny", made["evaluation"])
    imported = small.make("dictionary", {"dictionary": {"method": "relu"}, "imported": {"format": "saelens"}})
    whole = artifacts(small, "verify")
    assert lines(whole) == ["6 artifacts, 5.9 KiB: all are whole"]
    assert "verify  100 %  6,000/6,000 bytes" in whole.stderr

    damage(small, made["tokens"])
    damage(small, made["model"], "manifest.json")
    (small.store.path(imported) / "content.txt").unlink()
    told = lines(artifacts(small, "verify"), code=1)
    tokens = f"tokens/{made['tokens'].key[:8]}"
    assert f"damaged  {tokens}  content.txt does not have the recorded sha256" in told
    assert any(line.startswith("damaged  model/") and "manifest.json cannot be read" in line for line in told)
    assert "6 artifacts, 4.9 KiB: 3 damaged files in 3 artifacts" in told
    assert any("run the experiment tiny again (saeflow run FILE.yaml)" in line and tokens in line for line in told)
    assert any("saeflow import" in line for line in told)
    only = lines(artifacts(small, "verify", made["activations"], made["dictionary"]))
    assert only == ["2 artifacts, 2.0 KiB: all are whole"]


def test_what_others_were_made_from_is_removed_only_with_them_or_by_force(small: SmallHome):
    made = small.chain(1)
    small.record("tiny", *made.values())
    refused = artifacts(small, "rm", made["tokens"])
    assert_refused(refused, f"{made['tokens']} is not removed", f"activations/{made['activations'].key[:8]}", "--force")
    assert small.store.find("tokens", made["tokens"].key)

    together = lines(artifacts(small, "rm", made["dictionary"], made["evaluation"]))
    assert [line.split()[:2] for line in together] == [
        ["removed", str(made["evaluation"])],
        ["removed", str(made["dictionary"])],
    ]
    assert "the next run makes it again: tiny" in together[0]
    lines(artifacts(small, "rm", made["tokens"], "--force"))
    assert sorted(ref.kind for ref, _ in small.store.list()) == ["activations", "model"]


def test_nothing_is_removed_while_a_process_is_at_work_on_it(small: SmallHome):
    with pytest.raises(InterruptedError):
        small.make("tokens", {"n": 1}, fails=True)
    (build,) = small.store.unfinished()
    with Locks(Path(small.store.uri)).hold(build.kind, build.key):
        assert_refused(artifacts(small, "rm", build), "a process is at work on it")
        assert lines(artifacts(small, "ls"))[0].endswith(": a process is at work on it")
    assert lines(artifacts(small, "rm", build.key[:5]))[0].startswith(f"removed  {build}")
    assert small.store.unfinished() == []


def test_garbage_is_listed_first_and_deleted_when_asked(small: SmallHome):
    one, two = small.chain(1), small.chain(2)
    small.record("one", *one.values())
    small.record("two", *two.values())
    with pytest.raises(InterruptedError):
        small.make("tokens", {"n": 1}, fails=True)

    nothing = lines(artifacts(small, "gc"))
    assert nothing[0] == "kept: 9 artifacts, 8.8 KiB, for 2 experiments (one, two)"
    assert nothing[-2:] == [
        "to go: 0 artifacts and 0 unfinished builds, 0 bytes",
        "nothing was deleted: --delete does it",
    ]

    forget = ("gc", "--forget", "two", "--older-than", "0")
    dry = lines(artifacts(small, *forget))
    assert "to go: 4 artifacts and 1 unfinished build, 4.9 KiB" in dry
    assert len(list(small.store.list())) == 9
    assert small.records.names() == ["one", "two"]

    assert lines(artifacts(small, *forget, "--delete"))[-1] == "deleted: 4 artifacts and 1 unfinished build, 4.9 KiB"
    assert {str(ref) for ref, _ in small.store.list()} == {str(ref) for ref in one.values()}
    assert (small.records.names(), small.store.unfinished()) == (["one"], [])
    for ref in one.values():
        small.store.verify(ref)


@pytest.mark.slow
def test_a_home_in_an_object_store_is_told_of_and_cleaned_alike(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SAEFLOW_CACHE", str(tmp_path / "cache"))
    small = SmallHome(f"{bucket}/home")
    one, two = small.chain(1), small.chain(2)
    small.record("one", *one.values())
    small.record("two", *two.values())
    with pytest.raises(InterruptedError):
        small.make("tokens", {"n": 1}, fails=True)

    told = lines(artifacts(small, "ls"))
    assert told[-1] == f"together         9  8.8 KiB  in {small.store.uri}"
    assert sum(line.startswith("unfinished  tokens/") for line in told) == 1
    assert f"path    {small.store.uri}/{one['tokens']}" in lines(artifacts(small, "show", one["tokens"]))
    assert lines(artifacts(small, "verify")) == ["9 artifacts, 8.8 KiB: all are whole"]
    small.store.location(two["tokens"]).commit("content.txt", b"x" * 1000)
    damaged = lines(artifacts(small, "verify", two["tokens"]), code=1)
    assert damaged[0].endswith("content.txt does not have the recorded sha256")
    assert "rm --force" in damaged[-1]

    assert_refused(artifacts(small, "rm", one["tokens"]), "is not removed")
    last = lines(artifacts(small, "gc", "--forget", "two", "--older-than", "0", "--delete"))[-1]
    assert last == "deleted: 4 artifacts and 1 unfinished build, 4.9 KiB"
    assert {str(ref) for ref, _ in small.store.list()} == {str(ref) for ref in one.values()}
    assert (small.records.names(), small.store.unfinished()) == (["one"], [])


def test_garbage_cannot_be_told_without_records(small: SmallHome):
    small.chain(1)
    assert_refused(artifacts(small, "gc", "--delete"), "no record of any experiment", "artifacts rm")
    small.record("one")
    assert_refused(artifacts(small, "gc", "--forget", "two"), "no record of experiment 'two'. There are: one")
    assert len(list(small.store.list())) == 5


def test_the_commands_wait_for_no_heavy_import():
    program = (
        "import sys, flows.cli; sys.exit(bool({'torch', 'prefect', 'zarr', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
