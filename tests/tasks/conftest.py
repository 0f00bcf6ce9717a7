"""A tiny model whose held-out text has been read, in a home of its own."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks import corpus, language_model
from tasks.compute import Compute
from tasks.harvest import harvest
from tasks.specs import CorpusSpec, ModelSpec, StorageSpec
from tests.conftest import CONTEXT, write_text

EMBEDDING = "blocks.0.hook_resid_pre"
RESIDUAL = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def harvested(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Model, tokens and activations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAEFLOW_HOME", str(tmp_path_factory.mktemp("home")))
        model = language_model.prepare_model.build(located=language_model.locate(ModelSpec(source=str(tiny_model))))
        texts = tmp_path_factory.mktemp("corpus") / "texts.jsonl"
        words = write_text(100).split()
        documents = [" ".join(words[start : start + 12]) for start in range(0, len(words), 12)]
        texts.write_text("\n".join(json.dumps({"text": text}) for text in documents))
        spec = CorpusSpec(sources=(str(texts),), tokens=4096, held_out_tokens=8192, context_length=CONTEXT)
        tokens = corpus.tokenize.build(model=model, corpus=corpus.locate(spec))
        activations = harvest.build(
            model=model, tokens=tokens, hook_points=(EMBEDDING, RESIDUAL), dtype="float32",
            storage=StorageSpec(dtype="float32"), compute=Compute(),
        )  # fmt: skip
        yield {"model": model, "tokens": tokens, "activations": activations}
