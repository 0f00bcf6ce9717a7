"""Every dictionary, learned or fitted, keeps the same promises."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_core import (
    BatchTopK,
    Crosscoder,
    Dictionary,
    Gated,
    JumpReLU,
    MatryoshkaBatchTopK,
    ReLU,
    TiedReLU,
    TopK,
    Transcoder,
    create,
    fit_ica,
    fit_identity,
    fit_nmf,
    fit_pca,
    fit_random,
    load_dictionary,
)
from sae_core.dictionary import DICTIONARIES


def rows(count: int = 50, d: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def perturbed(dictionary: Dictionary) -> Dictionary:
    """The dictionary with random biases, as training would leave it."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in dictionary.parameters():
            if parameter.ndim == 1:
                parameter.normal_(generator=generator)
    if isinstance(dictionary, BatchTopK):
        dictionary.set_threshold(0.4)
    return dictionary


def one_of_each() -> list[Dictionary]:
    x_Bd = rows()
    return [
        perturbed(TiedReLU(6, 12, alpha=1e-3)),
        perturbed(ReLU(6, 12, l1_coefficient=1)),
        perturbed(Gated(6, 12, l1_coefficient=1)),
        perturbed(TopK(6, 12, k=3)),
        perturbed(BatchTopK(6, 12, k=3)),
        perturbed(MatryoshkaBatchTopK(6, 12, k=3, widths=(4, 12))),
        perturbed(JumpReLU(6, 12, coefficient=1)),
        perturbed(Crosscoder(6, 12, k=3, layers=2)),
        perturbed(Transcoder(6, 12, k=3, d_out=6, skip=True)),
        fit_pca(iter([x_Bd])),
        fit_pca(iter([x_Bd]), k=2),
        fit_pca(iter([x_Bd]), centred=False, rectify=True),
        fit_ica(iter([rows(500) ** 3]), seed=0),  # not Gaussian: it converges
        fit_nmf(lambda: iter([x_Bd]), n_features=4, seed=0),
        fit_random(lambda: iter([x_Bd]), n_features=12, seed=0),
        fit_random(lambda: iter([x_Bd]), n_features=12, seed=0, k=4),
        fit_identity(iter([x_Bd])),
        fit_identity(iter([x_Bd]), k=2),
    ]


def label(dictionary: Dictionary) -> str:
    return f"{dictionary.method}-{getattr(dictionary, 'k', None)}"


each_dictionary = pytest.mark.parametrize("dictionary", one_of_each(), ids=label)
each_autoencoder = pytest.mark.parametrize(
    "dictionary", [it for it in one_of_each() if not isinstance(it, Transcoder)], ids=label
)


def test_the_parametrised_tests_here_cover_every_registered_method():
    assert {dictionary.method for dictionary in one_of_each()} == set(DICTIONARIES)


@each_dictionary
def test_a_saved_dictionary_comes_back_bit_for_bit(dictionary: Dictionary, tmp_path: Path):
    dictionary.save(tmp_path, extra={"mean": [0.1], "scale": 2.5})
    loaded = load_dictionary(tmp_path)
    assert type(loaded) is type(dictionary)
    assert loaded.config() == dictionary.config()
    saved = dictionary.state_dict()
    assert saved.keys() == loaded.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.state_dict().items())
    assert torch.equal(dictionary(rows()), loaded(rows()))
    assert json.loads((tmp_path / "config.json").read_text())["extra"] == {"mean": [0.1], "scale": 2.5}


@each_dictionary
def test_saving_twice_writes_the_same_bytes(dictionary: Dictionary, tmp_path: Path):
    dictionary.save(tmp_path / "a")
    dictionary.save(tmp_path / "b")
    for name in ("config.json", "dictionary.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_float64_dictionary_stays_float64_on_disk(tmp_path: Path):
    TopK(6, 12, k=3).double().save(tmp_path)
    assert next(load_dictionary(tmp_path).parameters()).dtype == torch.float64


@each_autoencoder
def test_folding_a_normalization_in_is_exact(dictionary: Dictionary):
    dictionary = dictionary.double()
    x_Bd = rows().double() * 40 + 300
    mean_d, scale = x_Bd.mean(0), 17.3
    z_Bd = (x_Bd - mean_d) / scale
    folded = dictionary.fold_normalization(mean_d, scale)
    torch.testing.assert_close(folded.encode(x_Bd), scale * dictionary.encode(z_Bd), rtol=0, atol=1e-10)
    torch.testing.assert_close(folded(x_Bd), scale * dictionary(z_Bd) + mean_d, rtol=0, atol=1e-10)
    assert torch.equal(folded.directions, dictionary.directions)


def test_folding_leaves_the_original_as_it_was():
    dictionary = perturbed(TopK(6, 12, k=3))
    before = {name: tensor.clone() for name, tensor in dictionary.state_dict().items()}
    dictionary.fold_normalization(torch.ones(6), 3.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in dictionary.state_dict().items())


@each_dictionary
def test_directions_are_unit_rows(dictionary: Dictionary):
    assert dictionary.directions.shape == (dictionary.n_features, dictionary.d_in)
    torch.testing.assert_close(
        dictionary.directions.norm(dim=1), torch.ones(dictionary.n_features).to(dictionary.directions)
    )


@each_dictionary
def test_rows_may_have_any_leading_dimensions(dictionary: Dictionary):
    dictionary = dictionary.float()
    x_Bd = rows(12)
    torch.testing.assert_close(dictionary(x_Bd.view(3, 4, 6)).view(12, 6), dictionary(x_Bd))


@each_dictionary
def test_activations_of_the_wrong_width_are_refused_with_advice(dictionary: Dictionary):
    with pytest.raises(ValueError, match=r"width 6, got shape \[5, 7\].*hook point"):
        dictionary.encode(torch.zeros(5, 7))


@pytest.mark.parametrize(("mean_d", "scale"), [(torch.zeros(5), 1.0), (torch.zeros(6), 0.0), (torch.zeros(6), -1.0)])
def test_a_normalization_that_does_not_fit_is_refused(mean_d: torch.Tensor, scale: float):
    with pytest.raises(ValueError, match=r"mean of shape \[6\] and a positive scale"):
        TopK(6, 12, k=3).fold_normalization(mean_d, scale)


def test_a_missing_file_is_named(tmp_path: Path):
    TopK(6, 12, k=3).save(tmp_path)
    (tmp_path / "dictionary.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"dictionary\.safetensors is missing"):
        load_dictionary(tmp_path)


def test_weights_that_are_not_the_configs_are_refused(tmp_path: Path):
    TopK(6, 12, k=3).save(tmp_path)
    tensors = load_file(tmp_path / "dictionary.safetensors")
    save_file(tensors | {"b_enc_n": torch.zeros(13)}, tmp_path / "dictionary.safetensors")
    with pytest.raises(ValueError, match="not of one dictionary"):
        load_dictionary(tmp_path)


def test_an_unknown_method_lists_the_nearest():
    with pytest.raises(ValueError, match=r"'top_k' does not exist. Nearest: topk"):
        create("top_k", 6, 12, k=3)


def test_arguments_that_a_method_does_not_take_are_refused_with_those_that_it_does():
    with pytest.raises(ValueError, match=r"tied_relu takes the arguments \(alpha\), got \(k\)"):
        create("tied_relu", 6, 12, k=3)


@pytest.mark.parametrize("k", [0, 13])
def test_k_must_fit_into_the_features(k: int):
    with pytest.raises(ValueError, match=f"k={k} must lie between 1 and n_features=12"):
        TopK(6, 12, k=k)
    with pytest.raises(ValueError, match=f"k={k} must lie between 1 and n_features=12"):
        fit_random(lambda: iter([rows()]), n_features=12, seed=0, k=k)


@pytest.mark.parametrize(("d_in", "n_features"), [(0, 4), (4, 0), (-1, 4)])
def test_sizes_must_be_positive(d_in: int, n_features: int):
    with pytest.raises(ValueError, match="at least 1"):
        TiedReLU(d_in, n_features, alpha=0)
