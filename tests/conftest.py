"""Real small things: random-weight language models of three architectures, a text, an experiment over them.

What takes seconds to import is imported where it is used: the first process of pytest-xdist, and processes that tests
start, import this too and use none of it.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("PREFECT_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run side by side, one to a core

import pytest
import yaml

from tests.object_store import ENVIRONMENT, new_bucket, s3_server

SENTENCE = "the a cat dog bird tree house river stone light runs sleeps sings under over near old small green and"
WORDS = SENTENCE.split()
VOCABULARY = 320
CONTEXT = 32

SIZES: dict[str, Any] = {"vocab_size": VOCABULARY, "eos_token_id": 0}
LLAMA_SIZES = SIZES | {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "max_position_embeddings": 64,
}  # fmt: skip
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": LLAMA_SIZES | {"num_key_value_heads": 2},
    "gpt_neox": LLAMA_SIZES,
    "gpt2": SIZES | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "bos_token_id": 0},
}


def write_model(directory: Path, architecture: str = "llama") -> Path:
    """A random-weight model with its own tokenizer, in Hugging Face format."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **ARCHITECTURES[architecture]))
    model.save_pretrained(directory)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(write_text(300, seed=1).splitlines(), trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>").save_pretrained(directory)
    return directory


def write_text(paragraphs: int, seed: int = 0) -> str:
    """Paragraphs of made-up sentences, no two alike."""
    rng = random.Random(seed)
    return "\n\n".join(
        f"{number}. " + " ".join(rng.choice(WORDS) for _ in range(120)) + "." for number in range(paragraphs)
    )


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "stories.txt"
    file.write_text(write_text(600))
    return file


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home directory, the one that steps find in the environment."""
    monkeypatch.setenv("SAEFLOW_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def tiny_experiment(tiny_model: Path, tiny_corpus: Path) -> dict[str, object]:
    """Parameters of an experiment that takes seconds; change what a test is about."""
    return {
        "name": "tiny",
        "model": {"source": str(tiny_model), "dtype": "float32"},
        "corpus": {
            "sources": [str(tiny_corpus)],
            "tokens": 8192,
            "held_out_tokens": 1024,
            "context_length": CONTEXT,
        },
        "hook_points": ["blocks.1.hook_resid_post", "blocks.2.mlp.hook_post"],
        "training": {"batch_size": 128, "epochs": 2},
        "dictionaries": [{"method": "tied_relu", "expansion": 2}, {"method": "topk", "expansion": 2, "k": 4}],
        "baselines": [{"method": "pca", "k": 4}, {"method": "random", "expansion": 2}, {"method": "identity"}],
        "feature_pages": False,
        "compute": {"workers": 2, "threads": 1, "device": "cpu"},
    }


@pytest.fixture
def tiny_yaml(tmp_path: Path, tiny_experiment: dict[str, object]) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(tiny_experiment))
    return file


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one temporary Prefect server for all tests of a process."""
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        PREFECT_RESULTS_LOCAL_STORAGE_PATH,
        temporary_settings,
    )
    from prefect.testing.utilities import prefect_test_harness

    records = tmp_path_factory.mktemp("records")
    with (
        prefect_test_harness(server_startup_timeout=120),
        temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None, PREFECT_RESULTS_LOCAL_STORAGE_PATH: records}),
    ):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 server for all tests of a process."""
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of an empty bucket that the environment leads to."""
    for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": s3}.items():
        monkeypatch.setenv(name, value)
    return f"s3://{new_bucket(s3)}"
