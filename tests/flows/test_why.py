"""Why a stage is not found: a real experiment whose stages are built in this process."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from flows.catalogue import Catalogue
from flows.parameters import ExperimentConfig, load_config
from flows.preflight import prepare
from flows.stages import Job, stages
from flows.why import Answer, answers, chosen
from storage.artifacts import ArtifactRef
from storage.lineage import short
from tasks.caching import artifacts
from tasks.errors import ExperimentError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("home")]

SMALL = [
    "hook_points=[blocks.1.hook_resid_post]",
    "dictionaries=[]",
    "baselines=[{method: pca, k: 4}, {method: identity}]",
]


def build(jobs: Sequence[Job]) -> list[ArtifactRef]:
    return [job.step.build(**job.inputs) for job in jobs]


def states(told: Sequence[Answer]) -> dict[str, str]:
    return {answer.job.name: answer.state for answer in told}


def test_each_stage_is_found_or_told_what_keeps_it_from_that(tiny_yaml: Path):
    def config(*changes: str) -> ExperimentConfig:
        return load_config(str(tiny_yaml), [*SMALL, *changes])

    first = answers(config())
    assert first[0].state == "to do"
    assert first[0].reasons == ["no tokens was made yet"]
    assert {answer.state for answer in first[1:]} == {"waits"}
    assert first[1].reasons == ["for tokenize, which is not made yet"]

    stages(prepare(config()), build)
    assert set(states(answers(config())).values()) == {"found"}

    changed = {answer.job.name: answer for answer in answers(config("baselines.0.k=5"))}
    pca = changed["pca k=5 blocks.1.hook_resid_post"]
    made = next(
        ref for ref, manifest in artifacts().list("dictionary") if manifest["spec"]["baseline"]["method"] == "pca"
    )
    assert (pca.state, pca.reasons) == (
        "to do",
        [f"nearest is {short(str(made))}, which differs in", "  spec.baseline.k: 4 → 5"],
    )
    assert changed["evaluate pca k=5 blocks.1.hook_resid_post"].state == "waits"
    assert changed["evaluate identity blocks.1.hook_resid_post"].state == "found"

    # Deeper: other tokens, which are made already, and activations of them, which are not.
    larger = config("corpus.tokens=9000")
    prepared = prepare(larger)
    tokens = stages(prepared, lambda jobs: build(jobs) if jobs[0].name == "tokenize" else [None] * len(jobs))[0].ref
    harvest = chosen(answers(larger), "harvest")[0]
    assert harvest.state == "to do"
    assert harvest.reasons[1].startswith("  input tokens: tokens/")
    assert harvest.reasons[1].endswith(f"→ {short(str(tokens))}, because")
    assert "    spec.corpus.spec.tokens: 8192 → 9000" in harvest.reasons

    evaluation = next(Path(artifacts().path(ref)) for ref, _ in artifacts().list("evaluation"))
    (evaluation / "metrics.json").write_text("{}")
    damaged = [answer for answer in answers(config()) if answer.state != "found"]
    assert [answer.state for answer in damaged] == ["damaged"]  # and the report is what it will be made from again
    assert damaged[0].reasons[0].startswith("metrics.json has 2 bytes")

    with pytest.raises(ExperimentError, match=r"no stage 'harvset'. Nearest: .*harvest"):
        chosen(answers(config()), "harvset")


def test_a_stage_that_was_begun_says_so(tiny_yaml: Path):
    config = load_config(str(tiny_yaml), SMALL)
    prepared = prepare(config)

    def tokens_and_a_failing_harvest(jobs: Sequence[Job]) -> list[ArtifactRef]:
        if jobs[0].name != "harvest":
            return build(jobs)
        inputs = {**jobs[0].inputs, "compute": None}
        with pytest.raises(AttributeError):
            jobs[0].step.build(**inputs)
        raise InterruptedError

    with pytest.raises(InterruptedError):
        stages(prepared, tokens_and_a_failing_harvest)
    assert len(Catalogue.of(artifacts()).unfinished) == 1
    harvest = chosen(answers(config), "harvest")[0]
    assert harvest.reasons[0].startswith("begun and not finished: ")
    assert harvest.reasons[0].endswith(" ago")
