"""Samples: prose that the language model itself writes, for experiments without a network.

Each is a made-up beginning (tasks.openings) and what the model says behind it, as a plain language model: no prompt and
no chat. They come in batches, each a function of (seed, number) and of nothing else, written as soon as it is whole. So
a run that is killed loses one batch, and whoever asks for more gets the same samples again with others behind them.

A sample ends where the model ends it, at a fixed length, or where it begins to repeat itself, as small models do: there
it would stay for the rest of its length.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float, Int
from pydantic import BaseModel
from torch import Tensor

from storage.artifacts import ArtifactRef
from storage.durable import write_whole
from storage.errors import DamagedArtifact
from storage.tables import read_table, write_table
from tasks.caching import artifacts, split_inputs, step
from tasks.compute import Compute
from tasks.decoding import Decoder, check_decoding
from tasks.errors import ExperimentError
from tasks.language_model import description, load_plain, load_tokenizer
from tasks.openings import KINDS, Kind, opening
from tasks.progress import Progress
from tasks.specs import CorpusSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 128  # samples: decoding is bound by reading the weights, once for all of them
LENGTH = 288  # tokens of a sample, its opening included
TEMPERATURE = 0.9  # at 0.8 a quarter of SmolLM2's samples run into a loop, and at 1 most lose their thread
CANDIDATES = 256  # most probable tokens that are chosen from
NUCLEUS = 0.95  # of their probability
REPEATED = 8  # tokens in a row, met a second time, that end a sample
WORTH_SHRINKING = 0.75  # of a batch's samples still under way
USUAL_TOKENS = 230  # of a sample

logger = logging.getLogger("saeflow.samples")


class SamplesSpec(BaseModel, frozen=True):
    """Which samples, and how many."""

    kinds: tuple[Kind, ...]
    tokens: int
    seed: int


class Sample(NamedTuple):
    kind: Kind
    text: str
    tokens: int


def is_samples(source: str) -> bool:
    """Whether a corpus source is text that the model writes."""
    return source.split(":")[0] == "samples"


def kinds_of(source: str) -> tuple[Kind, ...]:
    """The kinds of samples that a source stands for: `samples` is all of them.

    Raises:
        ExperimentError: there is no such kind.
    """
    if source == "samples":
        return KINDS
    found: tuple[Kind, ...] = tuple(kind for kind in KINDS if source == f"samples:{kind}")
    if not found:
        known = ", ".join(f"samples:{kind}" for kind in KINDS)
        raise ExperimentError(f"corpus source {source!r}: there are samples (of every kind), {known}.")
    return found


def samples_of(corpus: CorpusSpec) -> SamplesSpec | None:
    """The samples that a corpus needs: its share of the tokens, and some more.

    Which split a document belongs to is left to chance. So that the smaller one too is filled, there are two standard
    deviations of its number of documents to spare.
    """
    sources = [source for source in corpus.sources if is_samples(source)]
    if not sources:
        return None
    asked = {kind for source in sources for kind in kinds_of(source)}
    fewest = min(corpus.tokens, corpus.held_out_tokens) / USUAL_TOKENS
    spare = 1 + 2 / math.sqrt(max(fewest, 4))
    share = len(sources) / len(corpus.sources)
    return SamplesSpec(
        kinds=tuple(kind for kind in KINDS if kind in asked),
        tokens=math.ceil((corpus.tokens + corpus.held_out_tokens) * share * spare),
        seed=corpus.seed,
    )


def check_sampling(model: ArtifactRef) -> None:
    """Refuse a model that has no end-of-text token.

    Raises:
        ExperimentError: samples of it would not end.
    """
    if not isinstance(load_tokenizer(model).eos_token_id, int):
        raise ExperimentError(
            f"{description(model).name} has no end-of-text token, so its samples would not end: take samples out of "
            "corpus.sources, or use another model."
        )


@step(kind="samples", code_version="1", resumable=True)
def sample_text(place: Path, model: ArtifactRef, samples: SamplesSpec, dtype: str, compute: Compute) -> dict[str, Any]:
    """Write `00000.parquet`, `00001.parquet`, … with `kind`, `text` and `tokens` of each sample.

    Args:
        samples: `tokens` is the least that all samples have together; the last batch is written whole.
        dtype: precision of the forward pass, "bfloat16" or "float32".
    """
    compute.apply()
    check_sampling(model)
    batches = Batches(place, find_alike(model, samples, dtype))
    writer: Writer | None = None
    number = total = 0
    while total < samples.tokens and (tokens := batches.tokens(number)):
        number, total = number + 1, total + tokens
    with Progress("samples", samples.tokens, "tokens", done=total) as progress:
        while total < samples.tokens:
            if not batches.tokens(number):
                writer = writer or Writer(model, dtype, compute.device)
                batches.write(number, writer.batch(samples, number))
            tokens = batches.tokens(number)
            number, total = number + 1, total + tokens
            progress.add(tokens)
    return {"batches": number, "tokens": total}


def find_samples(inputs: dict[str, Any]) -> ArtifactRef | None:
    """What `sample_text` makes of these inputs, if it is there and whole."""
    try:
        return sample_text.find(**inputs)
    except DamagedArtifact:
        return None


def documents_of(samples: ArtifactRef, kinds: Sequence[Kind]) -> Iterator[str]:
    """The texts of these kinds, in order."""
    for file in sorted(artifacts().path(samples).glob("*.parquet")):
        table = read_table(file)
        for kind, text in zip(table["kind"].to_pylist(), table["text"].to_pylist(), strict=True):
            if kind in kinds:
                yield text


def find_alike(model: ArtifactRef, samples: SamplesSpec, dtype: str) -> list[Path]:
    """Where there are samples that differ from these only in how many there are: they have the same batches."""
    asked, _ = split_inputs({"samples": samples, "dtype": dtype})
    found = []
    for ref, manifest in artifacts().list(sample_text.kind):
        there = {**manifest["spec"], "samples": {**manifest["spec"]["samples"], "tokens": samples.tokens}}
        alike = there == asked and manifest["inputs"]["model"]["digest"] == model.digest
        if alike and manifest["code_version"] == sample_text.code_version:
            try:
                artifacts().verify(ref)
            except DamagedArtifact as error:  # then they are written anew
                logger.warning("the samples of %s are not taken over: %s", ref, error)
                continue
            found.append(artifacts().path(ref))
    return found


class Batches:
    """The files of samples, each written whole or not at all."""

    def __init__(self, place: Path, alike: Sequence[Path]) -> None:
        self.place, self.alike = place, alike

    def tokens(self, number: int) -> int:
        """Tokens of a batch that is there, or that there is in samples alike; 0 where it has yet to be written."""
        file = self._file(number)
        if not file.exists():
            copies = (place / file.name for place in self.alike)
            copy = next((copy for copy in copies if copy.exists()), None)
            if copy is None:
                return 0
            write_whole(file, copy.read_bytes())
        return sum(read_table(file)["tokens"].to_pylist())

    def write(self, number: int, samples: Sequence[Sample]) -> None:
        write_table(self._file(number), [sample._asdict() for sample in samples])

    def _file(self, number: int) -> Path:
        return self.place / f"{number:05d}.parquet"


class Writer:
    """The model at work."""

    def __init__(self, model: ArtifactRef, dtype: str, device: str) -> None:
        told = description(model)
        self.tokenizer: Any = load_tokenizer(model)
        self.model: PreTrainedModel = load_plain(model, dtype).to(device)
        check_decoding(self.model, told.name)
        self.length = min(LENGTH, told.context_length or LENGTH)
        self.ends = torch.tensor(sorted({self.tokenizer.eos_token_id, *self.tokenizer.all_special_ids}), device=device)

    def batch(self, samples: SamplesSpec, number: int) -> list[Sample]:
        generator = torch.Generator().manual_seed(_seed(samples.seed, number))

        def choose(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        kinds: list[Kind] = [samples.kinds[index % len(samples.kinds)] for index in range(BATCH)]
        openings = self.tokenizer([opening(kind, choose) for kind in kinds], add_special_tokens=False)["input_ids"]
        # Where the context is short, there should be room for what the model says.
        tokens = self.continued([ids[: self.length // 2] for ids in openings], generator)
        texts = [self.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd") for ids in tokens]
        return [Sample(kind, text, len(ids) + 1) for kind, text, ids in zip(kinds, texts, tokens, strict=True)]

    def continued(self, openings: Sequence[Sequence[int]], generator: torch.Generator) -> list[list[int]]:
        """The tokens of each text, its opening included, without those that end it."""
        device = self.model.device
        given = torch.full((len(openings), self.length), -1)
        for row, ids in zip(given, openings, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        given = given.to(device)
        tokens, ends = given.clone(), torch.full((len(openings),), self.length, device=device)
        alive = torch.arange(len(openings), device=device)  # the texts that the decoder has
        decoder = Decoder(self.model, self.length)
        start = min(map(len, openings))
        logits = decoder.read(tokens[:, :start])
        for position in range(start, self.length):
            # Numbers for all texts, whether they are over or not: what one says does not depend on the others.
            chance = torch.rand(len(openings), generator=generator).to(device)
            said = choose_tokens(logits[:, : len(self.tokenizer)], chance[alive])
            own = given[alive, position]
            tokens[alive, position] = torch.where(own >= 0, own, said)
            stops = torch.isin(said, self.ends) & (own < 0)
            loops = repeats(tokens[alive, : position + 1]) & (own < 0)
            here = torch.where(loops, position + 1 - REPEATED, position)
            over = (stops | loops) & (ends[alive] == self.length)
            ends[alive[over]] = here[over]
            under_way = ends[alive] == self.length
            n_under_way = int(under_way.sum())
            if n_under_way == 0:
                break
            if n_under_way < WORTH_SHRINKING * len(alive):
                decoder.keep(under_way.nonzero()[:, 0])
                alive = alive[under_way]
            if position + 1 < self.length:
                logits = decoder.read(tokens[alive, position : position + 1])
        return [row[:end] for row, end in zip(tokens.tolist(), ends.tolist(), strict=True)]


def choose_tokens(logits: Float[Tensor, "B V"], chance: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """A token of each row: of the nucleus of its most probable ones, that where `chance` falls."""
    top = logits.topk(min(CANDIDATES, logits.shape[-1]))
    probability = (top.values.float() / TEMPERATURE).softmax(-1)
    before = probability.cumsum(-1) - probability
    probability = probability.where(before < NUCLEUS, 0.0)
    until = probability.cumsum(-1)
    place = (until <= chance[:, None] * until[:, -1:]).sum(-1, keepdim=True)
    return top.indices.gather(1, place.clamp(max=top.indices.shape[1] - 1))[:, 0]


def repeats(tokens: Int[Tensor, "B T"]) -> Tensor:
    """Which texts end with a sequence of tokens that they have had before."""
    if tokens.shape[1] <= REPEATED:
        return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    earlier = tokens[:, :-1].unfold(1, REPEATED, 1)
    return (earlier == tokens[:, None, -REPEATED:]).all(-1).any(-1)


def _seed(seed: int, number: int) -> int:
    digest = hashlib.blake2b(f"samples {seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
