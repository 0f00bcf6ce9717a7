"""Runs inside the environment of dictionary-learning."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoderNew
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.p_anneal import PAnnealTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from inside import D, K, N, randomise, run
from torch import Tensor

SHARED = {"steps": 1, "activation_dim": D, "dict_size": N, "layer": 3, "lm_name": "m", "device": "cpu"}
SCHEDULE = {"warmup_steps": 0, "sparsity_warmup_steps": None}
MADE = {
    "standard": {"trainer": StandardTrainer, **SCHEDULE},
    "april_update": {"trainer": StandardTrainerAprilUpdate, **SCHEDULE},
    "p_anneal": {"trainer": PAnnealTrainer, **SCHEDULE},
    "gated": {"trainer": GatedSAETrainer, **SCHEDULE},
    "jumprelu": {"trainer": JumpReluTrainer, **SCHEDULE},
    "topk": {"trainer": TopKTrainer, "k": K, "warmup_steps": 0},
    "batch_topk": {"trainer": BatchTopKTrainer, "k": K, "warmup_steps": 0},
    "matryoshka": {
        "trainer": MatryoshkaBatchTopKTrainer,
        "k": K,
        "warmup_steps": 0,
        "group_fractions": [0.25, 0.25, 0.5],
    },
}


def load(place: Path) -> Callable[[Tensor], Tensor]:
    return load_dictionary(str(place), device="cpu")[0]


def make(made: Path, refused: Path) -> None:
    refused.mkdir()
    for name, own in MADE.items():
        rows = [torch.randn(32, D) for _ in range(2)]
        trainSAE(rows, [SHARED | own], steps=1, save_dir=str(made / name), device="cpu")
        for file in (made / name / "trainer_0").iterdir():
            file.rename(made / name / file.name)
        (made / name / "trainer_0").rmdir()
        dictionary = load(made / name)
        randomise(dictionary)
        torch.save(dictionary.state_dict(), made / name / "ae.pt")
    (made / "new").mkdir()
    dictionary = AutoEncoderNew(D, N)  # no trainer makes one
    randomise(dictionary)
    torch.save(dictionary.state_dict(), made / "new" / "ae.pt")
    config = json.loads((made / "standard" / "config.json").read_text())
    config["trainer"]["dict_class"] = "AutoEncoderNew"
    (made / "new" / "config.json").write_text(json.dumps(config))


run(load, make)
