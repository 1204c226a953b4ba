"""Products by oneDNN against float64, for every layout that callers hand over; plain arithmetic where it must be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engines.layers import products
from engines.layers.attention import attend
from engines.layers.products import linear, product, recast_linear


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What was given to oneDNN."""
    given: list[Tensor] = []
    ask = products._by_onednn

    def recorded(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        given.append(x)
        return ask(x, weight, bias)

    monkeypatch.setattr(products, "_by_onednn", recorded)
    return given


def _layouts() -> dict[str, tuple[Tensor, Tensor, int]]:
    """a, b, and how many products they take."""
    wide = _noise(300, 640)
    return {
        "rows": (_noise(200, 128), _noise(128, 300), 1),
        "transposed": (_noise(200, 128), _noise(300, 128).T, 1),
        "cut out of wider rows": (wide[:200, 64:192], wide[:, 128:256].T, 1),
        "rows of a transposed matrix": (_noise(128, 200).T, _noise(300, 256)[::2][:128, :].T.mT, 1),
        "batch": (_noise(3, 2, 200, 128), _noise(3, 2, 128, 300), 6),
        "heads": (_noise(3, 200, 2, 128).transpose(1, 2), _noise(3, 300, 2, 128).permute(0, 2, 3, 1), 6),
        "shared weights": (_noise(3, 200, 128), _noise(128, 300).expand(3, -1, -1), 3),
    }


@pytest.mark.parametrize("layout", list(_layouts()))
def test_product_of_any_layout(layout: str, calls: list[Tensor]) -> None:
    a, b, expected_calls = _layouts()[layout]
    torch.testing.assert_close(product(a, b), (a.double() @ b.double()).float(), rtol=0, atol=2e-4)
    assert len(calls) == (expected_calls if torch.backends.mkldnn.is_available() else 0)


@pytest.mark.parametrize("bias", [True, False])
def test_recast_layer(bias: bool) -> None:
    net = nn.Sequential(nn.Linear(128, 300, bias=bias), nn.ReLU())
    x = _noise(2, 200, 128)
    with torch.no_grad():
        expected, names = net(x), set(net.state_dict())
        recast_linear(net)
        torch.testing.assert_close(net(x), expected, rtol=0, atol=1e-5)
    assert set(net.state_dict()) == names and not isinstance(net[0], nn.Linear)


def test_gradients_bfloat16_and_small_products_go_the_plain_way(calls: list[Tensor]) -> None:
    x, weight = _noise(200, 128).requires_grad_(), _noise(300, 128)
    linear(x, weight).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    product(_noise(200, 128).bfloat16(), _noise(128, 300).bfloat16())
    assert product(_noise(0, 128), _noise(128, 300)).shape == (0, 300)
    product(_noise(20, 128), _noise(128, 30))
    assert not calls


@pytest.mark.parametrize(("heads", "value_width"), [(1, 96), (4, 96), (4, 64)])
@pytest.mark.parametrize("count_mass", [True, False])
def test_attention_head_by_head_equals_all_at_once(
    heads: int, value_width: int, count_mass: bool, calls: list[Tensor]
) -> None:
    query, key = _noise(2, 700, heads * 64), _noise(2, 900, heads * 64)
    value = _noise(2, 900, heads * value_width)
    with torch.no_grad():
        got = attend(query, key, value, heads=heads, count_mass=count_mass)
    assert calls
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2).double() for x in (query, key, value))
    weights = torch.softmax(q @ k.mT / 8.0, dim=-1)
    torch.testing.assert_close(got.value.double(), (weights @ v).transpose(1, 2).flatten(2), rtol=0, atol=1e-5)
    assert (got.mass is not None) == count_mass
    if got.mass is not None:
        torch.testing.assert_close(got.mass.double(), weights.sum(2).mean(1), rtol=0, atol=1e-3)
