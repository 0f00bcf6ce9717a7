import pytest
import torch

from sae_core import capacity
from sae_core import geometry as geometry_module


def test_an_orthonormal_basis_has_capacity_one_and_copies_share_it():
    basis, _ = torch.linalg.qr(torch.randn(9, 9, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(capacity(basis), torch.ones(9))
    torch.testing.assert_close(capacity(torch.cat([basis, basis, -basis])), torch.full((27,), 1 / 3))


def test_capacity_does_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch):
    u_nd = torch.randn(11, 4, generator=torch.Generator().manual_seed(0))
    u_nd[3] = 0
    gram_nn = u_nd @ u_nd.T
    expected = gram_nn.diagonal() ** 2 / gram_nn.square().sum(1)
    monkeypatch.setattr(geometry_module, "ROWS_AT_ONCE", 3)
    torch.testing.assert_close(capacity(u_nd), expected, equal_nan=True)
    assert capacity(u_nd).isnan().tolist() == [index == 3 for index in range(11)]
