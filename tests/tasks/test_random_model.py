"""The control whose weights learned nothing."""

from pathlib import Path

import pytest
import torch

from tasks.caching import artifacts
from tasks.language_model import description, load, load_tokenizer, locate, prepare_model
from tasks.random_model import randomize_model
from tasks.specs import ModelSpec


@pytest.mark.usefixtures("home")
def test_matrices_are_drawn_anew_as_large_as_they_were_and_all_else_stays(tiny_model: Path):
    model = prepare_model.build(located=locate(ModelSpec(source=str(tiny_model))))
    control = randomize_model.build(model=model, seed=0)
    own, drawn = (dict(load(ref, "float32", "cpu").original_model.named_parameters()) for ref in (model, control))
    assert own.keys() == drawn.keys()
    for name, weight in own.items():
        if weight.ndim < 2:
            assert torch.equal(weight, drawn[name])
        else:
            assert drawn[name].std().item() == pytest.approx(weight.std().item(), rel=0.1)
            together = torch.corrcoef(torch.stack([weight.flatten(), drawn[name].flatten()]))[0, 1]
            assert abs(together) < 0.1
    assert description(control).name == f"{description(model).name} (random weights)"
    assert description(control).hook_points == description(model).hook_points
    assert load_tokenizer(control)("the cat")["input_ids"] == load_tokenizer(model)("the cat")["input_ids"]

    again, other = (randomize_model.make(place, model=model, seed=seed) for place, seed in places(artifacts().home))
    assert again == other == {"weights": "weights"}
    files = [artifacts().path(control), artifacts().home / "again", artifacts().home / "other"]
    weights = [(folder / "weights/model.safetensors").read_bytes() for folder in files]
    assert weights[0] == weights[1] != weights[2]


def places(home: Path) -> list[tuple[Path, int]]:
    made = [(home / "again", 0), (home / "other", 1)]
    for place, _ in made:
        place.mkdir()
    return made
