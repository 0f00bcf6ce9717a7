"""A small report to try: three dictionaries of a tiny model, and one of its control with random weights."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sae_core.architectures import TopK
from sae_core.baselines import fit_pca
from sae_core.dictionary import Dictionary
from storage.artifacts import ArtifactRef
from tasks.caching import artifacts
from tasks.compute import Compute
from tasks.harvest import harvest
from tasks.random_model import randomize_model
from tasks.rows import open_store, rows_to_fit_on
from tasks.site.pages import write_assets, write_page, write_script
from tasks.specs import RowFilter, StorageSpec
from tests.browser.site_data import HOSTILE
from tests.tasks.evaluate.subjects import reader

HOOK_POINT = "blocks.1.hook_resid_post"
TEXT = "the cat sleeps under a small tree and the bird sings"
WIDTH, FEATURES = 32, 96
TOLD_BY_HOSTILE_TOKENS, EXPLAINED_BY_HOSTILE_TEXT = 94, 95


class Made(NamedTuple):
    """A report and its dictionaries, in its order."""

    report: ArtifactRef
    topk: ArtifactRef
    relu: ArtifactRef
    pca: ArtifactRef
    control: ArtifactRef


def made_report(refs: dict[str, ArtifactRef]) -> Made:
    """Into the home of the model, tokens and activations of `subjects.harvested`."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat(list(rows_to_fit_on(open_store(refs["activations"], "train"), HOOK_POINT, RowFilter())))
    spread = rows.std().item()
    relu = reader(torch.randn(FEATURES, WIDTH, generator=generator), bias=-4 * spread)
    topk = TopK(WIDTH, FEATURES, k=4)
    topk.load_state_dict({name: torch.randn(t.shape, generator=generator) for name, t in topk.state_dict().items()})
    random_model = randomize_model.build(model=refs["model"], seed=0)
    random_activations = harvest.build(
        model=random_model, tokens=refs["tokens"], hook_points=(HOOK_POINT,), dtype="float32",
        storage=StorageSpec(dtype="float32"), compute=Compute(),
    )  # fmt: skip
    made = [
        saved(topk, refs["activations"], "topk"),
        saved(relu, refs["activations"], "relu"),
        saved(fit_pca([rows], None, centred=True, rectify=False), refs["activations"], "pca"),
        saved(topk, random_activations, "control"),
    ]
    models = ["tiny", "tiny", "tiny", "tiny (random weights)"]
    rows_told = [
        {"ref": str(ref), "hook_point": HOOK_POINT, "method": method, "params": {"k": 4}, "model": model}
        for ref, model, method in zip(made, models, ("topk", "relu", "pca", "topk"), strict=True)
    ]

    def write(place: Path) -> None:
        (place / "dictionaries.json").write_text(json.dumps(rows_told))
        nav = {"Overview": "index.html", "Try it": "try.html"}
        write_page(place, "try", "try", title="Try it", site="tiny", nav=nav, here="try.html")
        write_page(place, "index", "try", title="Overview", site="tiny", nav=nav, here="index.html")
        write_page(place, "features", "try", title="Features", site="tiny", nav=nav, here="features.html")
        write_assets(place)
        browse = f"browse/topk-{HOOK_POINT}-{made[0].key[:8]}"
        columns = [{"name": name, "meaning": "", "values": [9.5] * FEATURES} for name in ("maximum", "mean")]
        tokens = [[0, 1] for _ in range(FEATURES)]
        tokens[TOLD_BY_HOSTILE_TOKENS] = list(range(2, 2 + len(HOSTILE)))
        write_script(place, f"{browse}/index", {"columns": columns, "tokens": tokens})
        write_script(place, f"{browse}/tokens", [" cat", "</script><script>alert(1)</script>", *HOSTILE])
        explanations = {"18": "<b>animals</b> that sleep", str(EXPLAINED_BY_HOSTILE_TEXT): "".join(HOSTILE)}
        write_script(place, f"{browse}/more", {"explanations": explanations})

    inputs: dict[str, Any] = {f"dictionaries.{number}": ref for number, ref in enumerate(made)}
    report = artifacts().build(
        "report", "0123abcd", write, code_version="1", spec={}, inputs=inputs, resumable=False
    )  # fmt: skip
    return Made(report, *made)


def saved(dictionary: Dictionary, activations: ArtifactRef, name: str) -> ArtifactRef:
    """As training leaves one."""
    spec = {"hook_point": HOOK_POINT, "dictionary": {"method": dictionary.method, "k": 4}}
    key = hashlib.sha256(name.encode()).hexdigest()[:20]
    return artifacts().build(
        "dictionary", key, lambda place: dictionary.save(place), code_version="1", spec=spec,
        inputs={"activations": activations}, resumable=False,
    )  # fmt: skip
