"""Methods held against each other, on scores that were made up."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tasks.cells import RANDOM_WEIGHTS
from tasks.evaluate.interpretability_comparison import correlations, differences, summary
from tasks.evaluate.interpretability_drawing import draw_means, draw_moments, draw_violins
from tasks.evaluate.interpretability_scores import Scored, is_sparse


def made_up(
    name: str, mean: float, features: int = 60, sparse: bool = False, place: str = "layer 1", seed: int = 0
) -> Scored:
    rng = np.random.default_rng([seed, features, round(100 + mean * 100)])
    score = np.clip(mean + 0.2 * rng.normal(size=features), -1, 1)
    density = 10 ** rng.uniform(-4, -1, features)
    moments = {"density": density, "skew": density**-0.5 * (1 + score), "kurtosis": density**-1 * np.exp(score)}
    return Scored(name, place, name, "model", sparse, score, np.maximum(score, 0), moments)


def test_every_sparse_autoencoder_is_held_against_every_baseline_of_its_layer():
    sae, pca = made_up("sae", 0.5, sparse=True), made_up("pca (k=4)", 0.3)
    elsewhere = made_up("pca (k=4)", 0.3, place="layer 2")
    rows = list(differences([sae, pca, elsewhere, made_up("other sae", 0.5, sparse=True, seed=1)]))
    assert [(row["dictionary"], row["baseline"]) for row in rows] == [("sae", "pca (k=4)"), ("other sae", "pca (k=4)")]
    welch: Any = stats.ttest_ind(sae.score, pca.score, equal_var=False)
    assert rows[0]["p"] == pytest.approx(welch.pvalue)
    assert rows[0]["difference"] == pytest.approx(sae.score.mean() - pca.score.mean())
    assert 0 < rows[0]["low"] < rows[0]["difference"] < rows[0]["high"]


def test_a_difference_of_too_few_features_is_null_and_says_so():
    few, none = made_up("few", 0.5, features=2, sparse=True), made_up("none", 0.1, features=0)
    (row,) = differences([few, none])
    assert row["difference"] is row["p"] is None
    assert row["undefined"] == "few and none: fewer than 3 features have a score"
    assert summary(none)["score"] is summary(none)["score_low"] is None
    assert summary(none)["score_features"] == 0
    assert all(row["spearman"] is None for row in correlations(none))


def test_scores_are_correlated_with_moments_by_rank():
    each = made_up("sae", 0.5)
    each.moments["skew"][:5] = np.nan
    rows = {row["moment"]: row for row in correlations(each)}
    assert rows["kurtosis"]["spearman"] == pytest.approx(stats.spearmanr(each.score, each.moments["kurtosis"])[0])
    assert rows["skew"]["features"] == 55


@pytest.mark.parametrize(
    ("params", "model", "sparse"),
    [
        ({"alpha": 1e-3}, "m", True), ({"alpha": 0.0}, "m", False), ({"k": 32}, "m", True),
        ({"coefficient": None, "target_l0": 32}, "m", True), ({"k": 32}, f"m {RANDOM_WEIGHTS}", False),
    ],
)  # fmt: skip
def test_what_has_no_penalty_or_no_language_is_a_baseline(params: dict[str, Any], model: str, sparse: bool):
    assert is_sparse({"params": params, "model": model}) is sparse


def test_drawings_are_the_same_whenever_they_are_drawn(tmp_path: Path):
    read = [
        made_up("sae", 0.5, sparse=True), made_up("pca (k=4)", -0.1), made_up("few", 0.3, features=2),
        made_up("none", 0.3, features=0), made_up("sae", 0.4, sparse=True, place="layer 2"),
    ]  # fmt: skip
    for draw in (draw_means, draw_violins, draw_moments):
        files = [tmp_path / f"{draw.__name__}{number}" / "drawing.svg" for number in range(2)]
        for file in files:
            file.parent.mkdir()
            draw(read, file)
        assert files[0].read_bytes() == files[1].read_bytes()
        assert "pca (k=4)" in files[0].read_text()
