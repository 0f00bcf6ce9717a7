import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows.parameters import ExperimentConfig
from flows.preflight import Prepared, prepare
from flows.stages import Job, look_up, named, stages
from storage.artifacts import ArtifactRef
from storage.tables import read_table
from tasks import samples
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.corpus import base_of, segments, token_rows
from tasks.decoding import Decoder, check_decoding
from tasks.errors import ExperimentError
from tasks.language_model import load_plain, load_tokenizer, locate, prepare_model
from tasks.openings import KINDS, WORDS, opening
from tasks.samples import SamplesSpec, Writer, choose_tokens, documents_of, repeats, sample_text, samples_of
from tasks.specs import CorpusSpec, ModelSpec
from tests.conftest import LLAMA_SIZES, write_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(samples, "BATCH", 6)


@pytest.fixture
def model(home: Path, tiny_model: Path) -> ArtifactRef:
    return prepare_model.build(located=locate(ModelSpec(source=str(tiny_model))))


def written(model: ArtifactRef, tokens: int = 900, **changes: Any) -> ArtifactRef:
    spec = SamplesSpec(**{"kinds": KINDS, "tokens": tokens, "seed": 0, **changes})
    return sample_text.build(model=model, samples=spec, dtype="float32", compute=Compute())


def texts(ref: ArtifactRef) -> list[str]:
    return list(documents_of(ref, KINDS))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_texts(model: ArtifactRef):
    first = written(model)
    artifacts().remove(first)
    assert written(model) == first
    assert not set(texts(written(model, seed=1))) & set(texts(first))


def test_samples_go_on_from_openings_of_their_kind_and_count_their_tokens(model: ArtifactRef):
    ref = written(model)
    assert artifacts().manifest(ref)["notes"]["tokens"] >= 900
    tables = [read_table(file).to_pydict() for file in sorted(artifacts().path(ref).glob("*.parquet"))]
    assert len(tables) == artifacts().manifest(ref)["notes"]["batches"] > 2
    for table in tables:
        assert table["kind"] == [*KINDS, *KINDS]
        assert all(8 < tokens <= 65 for tokens in table["tokens"])
    assert len(set(texts(ref))) == 6 * len(tables)
    story = next(documents_of(ref, ["story"]))
    assert story == tables[0]["text"][0]
    assert len(list(documents_of(ref, ["news"]))) == 2 * len(tables)


def test_more_tokens_extend_the_same_samples_without_writing_them_again(
    model: ArtifactRef, monkeypatch: pytest.MonkeyPatch
):
    first = written(model)
    made = count_batches(monkeypatch)
    second = written(model, tokens=1800)
    assert texts(second)[: len(texts(first))] == texts(first)
    assert len(texts(second)) > len(texts(first))
    assert made == list(range(len(texts(first)) // 6, len(texts(second)) // 6))
    made.clear()
    artifacts().remove(first)
    assert written(model) == first
    assert made == []


def test_samples_of_another_seed_precision_or_kind_are_not_taken_over(
    model: ArtifactRef, monkeypatch: pytest.MonkeyPatch
):
    written(model)
    made = count_batches(monkeypatch)
    written(model, kinds=("story",))
    assert made[0] == 0
    assert samples.find_alike(model, SamplesSpec(kinds=KINDS, tokens=5, seed=1), "float32") == []
    assert samples.find_alike(model, SamplesSpec(kinds=KINDS, tokens=5, seed=0), "bfloat16") == []
    assert len(samples.find_alike(model, SamplesSpec(kinds=KINDS, tokens=5, seed=0), "float32")) == 1


def test_a_damaged_batch_is_written_anew_and_the_others_stay(model: ArtifactRef, monkeypatch: pytest.MonkeyPatch):
    ref = written(model)
    (artifacts().path(ref) / "00001.parquet").write_bytes(b"")
    made = count_batches(monkeypatch)
    assert written(model) == ref
    assert made == [1]


KILLED = """
import os, signal
from tasks import samples
from tasks.caching import artifacts
from tasks.compute import Compute

samples.BATCH = 6
write = samples.Batches.write

def write_and_die(self, number, batch):
    write(self, number, batch)
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)

samples.Batches.write = write_and_die
model = next(ref for ref, _ in artifacts().list("model"))
asked = samples.SamplesSpec(kinds=samples.KINDS, tokens=900, seed=0)
samples.sample_text.build(model=model, samples=asked, dtype="float32", compute=Compute())
"""


def test_a_run_that_is_killed_goes_on_at_the_batch_under_way_to_the_same_bytes(
    model: ArtifactRef, home: Path, monkeypatch: pytest.MonkeyPatch
):
    environment = {**os.environ, "SAEFLOW_HOME": str(home), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    made = count_batches(monkeypatch)
    resumed = written(model)
    assert made
    assert made[0] == 2
    artifacts().remove(resumed)
    assert written(model) == resumed


def test_no_two_openings_are_alike_and_their_people_differ():
    generator = torch.Generator().manual_seed(0)

    def choose(count: int) -> int:
        return int(torch.randint(count, (), generator=generator))

    for kind in KINDS:
        openings = [opening(kind, choose) for _ in range(500)]
        assert len({text[:100] for text in openings}) == 500
        assert not [text for text in openings if "{" in text or "|" in text or "\n  " in text]
    stories = [opening("story", choose) for _ in range(200)]
    assert any('"' in text for text in stories)
    names = set(WORDS["name"])
    assert len(names) == len(WORDS["name"]) >= 100
    people = [[name for name in names if f"{name} and " in text or f"and {name} " in text] for text in stories]
    assert any(len(pair) >= 2 for pair in people)


def test_a_decoder_says_token_by_token_what_the_model_says_at_once(model: ArtifactRef):
    plain = load_plain(model)
    tokens = torch.randint(300, (3, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = load_plain(model)(tokens, use_cache=False).logits
    decoder = Decoder(plain, 20)
    assert torch.allclose(decoder.read(tokens[:, :7]), whole[:, 6], atol=1e-5)
    for position in range(7, 12):
        assert torch.allclose(decoder.read(tokens[:, position, None]), whole[:, position], atol=1e-5)
    kept = torch.tensor([0, 2])
    decoder.keep(kept)
    for position in range(12, 20):
        assert torch.allclose(decoder.read(tokens[kept, position, None]), whole[kept, position], atol=1e-5)


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox"])
def test_models_of_other_architectures_can_be_sampled(home: Path, tmp_path: Path, architecture: str):
    located = locate(ModelSpec(source=str(write_model(tmp_path / "other", architecture))))
    assert len(texts(written(prepare_model.build(located=located), tokens=1))) == 6


def test_a_model_that_looks_ahead_is_refused(home: Path):
    from transformers import BertConfig, BertLMHeadModel

    sizes: dict[str, Any] = LLAMA_SIZES | {"initializer_range": 0.2}
    bert = BertLMHeadModel(BertConfig(**sizes)).eval()
    with pytest.raises(ExperimentError, match="bert cannot write samples: it looks ahead"):
        check_decoding(bert, "bert")


def test_a_model_without_end_of_text_is_refused_before_work(
    tiny_experiment: dict[str, Any], home: Path, tmp_path: Path
):
    directory = write_model(tmp_path / "endless")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        file = directory / name
        if file.exists():
            file.write_text(file.read_text().replace('"eos_token": "<|end|>"', '"eos_token": null'))
    with pytest.raises(ExperimentError, match="no end-of-text token"):
        prepared({**tiny_experiment, "model": {"source": str(directory), "dtype": "float32"}})


def test_tokens_come_from_the_nucleus_as_chance_has_it():
    logits = torch.tensor([[0.0, 5.0, 4.0, -20.0]]).repeat(1000, 1)
    chosen = choose_tokens(logits, torch.linspace(0, 0.999, 1000))
    assert set(chosen.tolist()) == {1, 2}
    share = (chosen == 1).float().mean()
    assert share == pytest.approx(1 / (1 + np.exp(-1 / samples.TEMPERATURE)), abs=2e-3)
    assert chosen.tolist() == sorted(chosen.tolist())


def test_a_sample_ends_where_it_repeats_itself(model: ArtifactRef, monkeypatch: pytest.MonkeyPatch):
    tokens = torch.arange(40).repeat(2, 1)
    tokens[1, -samples.REPEATED :] = tokens[1, 3 : 3 + samples.REPEATED]
    assert repeats(tokens).tolist() == [False, True]
    monkeypatch.setattr(samples, "choose_tokens", lambda logits, chance: torch.full((len(logits),), 42))
    continued = Writer(model, "float32", "cpu").continued([[5, 6, 7], [8, 9]], torch.Generator())
    assert continued == [[5, 6, 7, 42], [8, 9, 42]]


def corpus(*sources: str, **changes: Any) -> CorpusSpec:
    return CorpusSpec.model_validate({"sources": sources, "tokens": 3000, "held_out_tokens": 1000, **changes})


def test_a_corpus_asks_for_its_share_and_some_more():
    assert samples_of(corpus("package:numpy")) is None
    alone = samples_of(corpus("samples", seed=3))
    beside = samples_of(corpus("samples:story", "package:numpy"))
    both = samples_of(corpus("samples:news", "samples:story"))
    assert alone
    assert beside
    assert both
    assert (alone.kinds, alone.seed) == (KINDS, 3)
    assert 4000 < alone.tokens < 9000
    assert beside.tokens == pytest.approx(alone.tokens / 2, abs=1)
    assert (beside.kinds, both.kinds) == (("story",), ("story", "news"))
    assert both.tokens == alone.tokens
    with pytest.raises(ExperimentError, match=r"samples:poem.*samples:story"):
        samples_of(corpus("samples:poem"))


def prepared(experiment: dict[str, Any], **changes: Any) -> Prepared:
    asked = {**experiment["corpus"], "sources": ["samples"], "tokens": 2000, "held_out_tokens": 500, **changes}
    return prepare(ExperimentConfig.model_validate({**experiment, "corpus": asked}))


def built(jobs: Sequence[Job]) -> list[ArtifactRef]:
    return [job.step.build(**job.inputs) for job in jobs]


def test_an_experiment_over_samples_writes_them_before_it_cuts_them_to_rows(
    tiny_experiment: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(samples, "BATCH", 36)
    asked = prepared(tiny_experiment, sources=["samples", "package:einops"])
    planned = stages(asked, look_up, until="tokenize")
    assert [(stage.job.name, stage.ref, stage.job.inputs_missing()) for stage in planned] == [
        ("samples", None, False),
        ("tokenize", None, True),
    ]
    done = stages(asked, built, until="tokenize")
    tokens = named(done, "tokenize")
    assert stages(asked, look_up, until="tokenize") == done
    assert artifacts().manifest(tokens)["inputs"]["samples.0"] == named(done, "samples").model_dump()
    table = read_table(artifacts().path(tokens) / "documents.parquet").to_pydict()
    assert table["source"][:4] == ["samples", "package:einops", "samples", "package:einops"]
    rows = np.asarray(token_rows(tokens, "train")).reshape(-1).tolist()
    decoded: Any = load_tokenizer(asked.model).decode(rows)
    # What is decoded anew from its text may be cut into other tokens, but reads the same.
    trained = [text for text in texts(named(done, "samples")) if f"<|end|>{text}<|end|>" in decoded]
    assert trained


def test_a_corpus_of_samples_is_extended_by_new_ones(
    tiny_experiment: dict[str, Any], home: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(samples, "BATCH", 36)
    first = named(stages(prepared(tiny_experiment), built, until="tokenize"), "tokenize")
    further = {"tokens": 6000, "extends": str(first)}
    asked = prepared(tiny_experiment, **further)
    assert asked.base == first
    done = stages(asked, built, until="tokenize")
    second = named(done, "tokenize")
    assert base_of(second) == first
    count = token_rows(first, "train").shape[0]
    assert np.array_equal(np.asarray(token_rows(second, "train"))[:count], np.asarray(token_rows(first, "train")))
    assert segments(second, "train")[0] == count
    assert artifacts().manifest(second)["notes"]["short_of_wanted"] == []
    fingerprints = read_table(artifacts().path(second) / "documents.parquet")["fingerprint"].to_pylist()
    assert len(set(fingerprints)) == len(fingerprints)
    again = {**further, "extends": str(second)}
    assert prepared(tiny_experiment, **again).base == first
    artifacts().remove(named(done, "samples"))
    assert prepared(tiny_experiment, **again).base == first
    assert named(stages(prepared(tiny_experiment, **again), built, until="tokenize"), "tokenize") == second


def count_batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of batches that are written from now on."""
    made: list[int] = []
    batch = Writer.batch

    def counted(self: Writer, spec: SamplesSpec, number: int) -> Any:
        made.append(number)
        return batch(self, spec, number)

    monkeypatch.setattr(Writer, "batch", counted)
    return made
