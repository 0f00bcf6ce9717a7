import pytest
import torch
import torch.nn.functional as F

from sae_core.neighbours import neighbours


@pytest.mark.parametrize(("n", "rows_at_once"), [(40, 1024), (40, 7), (3, 2), (1, 1)])
def test_neighbours_are_those_of_all_pairs(n: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sae_core.neighbours.ROWS_AT_ONCE", rows_at_once)
    directions = F.normalize(torch.randn(n, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    found = neighbours(directions, 5)
    for feature in range(n):
        cosines = [(float(directions[feature] @ directions[other]), other) for other in range(n) if other != feature]
        expected = sorted(cosines, reverse=True)[:5]
        assert found.feature_nk[feature].tolist() == [other for _, other in expected]
        assert found.cosine_nk[feature].tolist() == pytest.approx([cosine for cosine, _ in expected], abs=1e-6)
