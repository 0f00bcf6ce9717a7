import numpy as np
import pytest
import torch

from sae_core import Coactivation
from sae_core.coactivation import partners


def test_counts_jaccard_and_phi_are_those_of_a_dense_count():
    generator = torch.Generator().manual_seed(0)
    f_Bn = torch.randn(300, 7, generator=generator) * (torch.rand(300, 7, generator=generator) < 0.3)
    f_Bn[:, 6] = f_Bn[:, 5] * -2  # always together
    pairs = Coactivation(7)
    for part in f_Bn.split(41):
        pairs.update(part)
    active = (f_Bn != 0).numpy()
    both = (active[:, :, None] & active[:, None, :]).sum(0)
    either = (active[:, :, None] | active[:, None, :]).sum(0)
    np.testing.assert_array_equal(pairs.counts_nn, both)
    np.testing.assert_allclose(pairs.jaccard(), both / either)
    np.testing.assert_allclose(pairs.phi(), np.corrcoef(active.T), atol=1e-12)
    assert pairs.jaccard()[5, 6] == 1
    assert pairs.phi()[5, 6] == pytest.approx(1)


def test_what_is_never_or_always_active_has_no_correlation():
    pairs = Coactivation(3)
    pairs.update(torch.tensor([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]]))
    assert pairs.phi()[:2].isnan().all()
    assert pairs.jaccard()[0, 0].isnan()
    assert pairs.jaccard()[1, 2] == 0.5


def test_partners_are_the_others_with_the_largest_jaccard():
    generator = torch.Generator().manual_seed(1)
    pairs = Coactivation(9)
    pairs.update((torch.rand(200, 9, generator=generator) < 0.4).float())
    found = partners(pairs.counts_nn[3:6], 3, pairs.counts_nn.diagonal(), pairs.rows, 4)
    shares = pairs.jaccard()
    for row, feature in enumerate(range(3, 6)):
        others = sorted(set(range(9)) - {feature}, key=lambda other: -shares[feature, other])[:4]
        assert found.feature[row].tolist() == others
        assert found.jaccard[row].tolist() == shares[feature, others].tolist()
        assert found.phi[row].tolist() == pytest.approx(pairs.phi()[feature, others].tolist())
        assert found.both[row].tolist() == pairs.counts_nn[feature, others].tolist()


def test_no_feature_is_its_own_partner_where_there_are_few():
    generator = torch.Generator().manual_seed(2)
    pairs = Coactivation(5)
    pairs.update((torch.rand(200, 5, generator=generator) < 0.4).float())
    found = partners(pairs.counts_nn, 0, pairs.counts_nn.diagonal(), pairs.rows, 10)
    for feature in range(5):
        told = found.feature[feature][found.both[feature] > 0].tolist()
        assert sorted(told) == sorted(set(range(5)) - {feature})
    assert pairs.counts_nn.diagonal().all(), "the counts stay as they are"


def test_other_codes_and_too_many_features_are_refused():
    with pytest.raises(ValueError, match="not of 3 features"):
        Coactivation(3).update(torch.zeros(5, 4))
    with pytest.raises(ValueError, match="needs 28 GiB"):
        Coactivation(50_000)
