"""What evaluations are tested on: dictionaries made by hand, and a small model's activations."""

import hashlib
import json
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from sae_core.architectures import ReLU
from sae_core.dictionary import Dictionary
from storage.artifacts import ArtifactRef
from tasks import corpus, language_model
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.harvest import harvest
from tasks.specs import CorpusSpec, ModelSpec, StorageSpec
from tests.conftest import CONTEXT, write_text


@contextmanager
def harvested(
    source: Path,
    tmp_path_factory: pytest.TempPathFactory,
    *hook_points: str,
    documents: Sequence[str] = (),
    held_out_tokens: int = 1024,
) -> Iterator[dict[str, ArtifactRef]]:
    """Model, tokens and activations, in a home of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(tmp_path_factory.mktemp("home")))
        model = language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=str(source))))
        texts = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
        # Short ones, so that half of the held-out split is enough of them for an interval.
        short = [text for paragraph in write_text(60).split("\n\n") for text in textwrap.wrap(paragraph, 200)]
        documents = documents or [f" {text}" for text in short]
        texts.write_text("\n".join(json.dumps({"text": text}) for text in documents))
        spec = CorpusSpec(sources=(str(texts),), tokens=4096, held_out_tokens=held_out_tokens, context_length=CONTEXT)
        tokens = corpus.tokenize.build(model=model, corpus=corpus.locate(spec))
        activations = harvest.build(
            model=model, tokens=tokens, hook_points=hook_points, dtype="float32",
            storage=StorageSpec(dtype="float32"), compute=Compute(),
        )  # fmt: skip
        yield {"model": model, "tokens": tokens, "activations": activations}


def saved(dictionary: Dictionary) -> ArtifactRef:
    told = [dictionary.method, dictionary.config(), [tensor.tolist() for tensor in dictionary.state_dict().values()]]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]
    return artifacts().build(
        "dictionary", key, lambda place: dictionary.save(place), code_version="1", spec={}, inputs={}, resumable=False
    )


def zeros(width: int) -> Dictionary:
    """It rebuilds everything as zero."""
    dictionary = ReLU(width, 3, l1_coefficient=0)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.zero_()
    return dictionary


def reader(directions: torch.Tensor, bias: float) -> ReLU:
    """relu(direction · x + bias), which writes the direction."""
    dictionary = ReLU(directions.shape[1], len(directions), l1_coefficient=0)
    with torch.no_grad():
        dictionary.W_enc_nd.copy_(directions)
        dictionary.W_dec_nd.copy_(directions / directions.norm(dim=1, keepdim=True))
        dictionary.b_enc_n.fill_(bias)
        dictionary.b_dec_d.zero_()
    return dictionary
