"""Stacks as chains: the same outputs to the last digits, files that are read back, and what has no place in one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from equilip import chain, nn
from equilip.activations import LeakyReLU, Tanh
from equilip.chain import Chain
from equilip.errors import FormatError, InputError
from equilip.form import Standardisation
from equilip.links import Linear, Scale
from equilip.operators import Circular, Conv2d, Dense

Layer = Callable[..., nn.LipschitzLayer]
LAYERS: dict[str, Layer] = {
    "cpl": lambda **k: nn.CPL(6, 4, activation=Tanh(), **k),
    "sll": lambda **k: nn.SLL(6, 9, **k),
    "sandwich": lambda **k: nn.Sandwich(6, 5, activation=LeakyReLU(0.2), **k),
    "sandwich-linear": lambda **k: nn.SandwichLinear(6, 3, **k),
    "aol": lambda **k: nn.AOL(6, 3, bias=False, **k),
    "cayley": lambda **k: nn.Cayley(6, 8, **k),
    "spectral": lambda **k: nn.Spectral(6, 3, **k),
    "cpl-conv": lambda **k: nn.CPLConv(2, 3, 3, 2, 1, image_size=(5, 4), **k),
    "cpl-conv-circular": lambda **k: nn.CPLConv(2, 3, 3, 2, Circular(1), image_size=(6, 4), **k),
    "sll-conv": lambda **k: nn.SLLConv(2, None, 2, image_size=4, **k),
    "aol-conv": lambda **k: nn.AOLConv(2, 3, 3, padding=2, bias=False, image_size=4, **k),
    "spectral-conv": lambda **k: nn.SpectralConv(2, 3, 4, 2, 1, image_size=(5, 4), **k),
    "cayley-conv": lambda **k: nn.CayleyConv(2, 3, 3, image_size=(4, 5), **k),
    "cayley-conv-stride": lambda **k: nn.CayleyConv(2, 9, 3, stride=2, bias=False, image_size=(4, 6), **k),
    "sandwich-conv": lambda **k: nn.SandwichConv(2, 3, 3, image_size=(4, 5), **k),
    "sandwich-conv-stride": lambda **k: nn.SandwichConv(2, 3, 2, stride=2, image_size=(4, 6), **k),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_is_itself_in_a_chain(name: str, tmp_path: Path) -> None:
    own = {"dtype": torch.float64, "generator": torch.Generator().manual_seed(0)}
    stack = nn.Stack([LAYERS[name](**own)], gamma=1.5)
    x = torch.randn(7, stack.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network = stack.chain()
    assert torch.allclose(network.apply(x), stack(x), rtol=0, atol=1e-13)
    assert torch.allclose(network.apply(x), 1.5 * stack.layers(x), rtol=0, atol=1e-13)
    digest = network.save(tmp_path / "chain")
    again = chain.load(tmp_path / "chain")
    assert isinstance(again, Chain)
    assert again.sha256 == digest == network.detach().sha256
    assert torch.equal(again.apply(x), network.detach().apply(x))
    network.apply(x).sum().backward()
    assert all(parameter.grad is not None for parameter in stack.parameters())


def test_glue_sorting_and_units() -> None:
    units = Standardisation(torch.full((16,), 0.3), torch.full((16,), 0.7))
    own = {"generator": torch.Generator().manual_seed(0)}
    layers = [
        nn.SpaceToDepth(1, 2, image_size=4), nn.PadChannels(4, 6, image_size=2), nn.GroupSort(6, 3, image_size=2),
        nn.MaxMin(6, image_size=2), nn.ScaledAveragePool2d(6, 2, image_size=2), nn.AveragePool2d(6, 1, image_size=1),
        nn.Pointwise(Tanh(), 6), nn.Cayley(6, 6, **own),
    ]  # fmt: skip
    stack = nn.Stack(layers, learn_gamma=True, gamma=2.0, standardisation=units)
    x = torch.rand(5, 16)
    assert torch.allclose(stack.chain().apply(x), stack(x), atol=1e-6)
    assert stack.chain().hidden_size == 6
    assert stack.chain().to(torch.float64).dtype == torch.float64


def test_small_stacks_stay_forms() -> None:
    small, large = (nn.Stack([nn.CPL(4, width), nn.Spectral(4, 2)]) for width in (2046, 2047))
    assert not isinstance(small.network(), Chain)
    assert isinstance(large.network(), Chain)


def test_what_has_no_place_in_a_chain() -> None:
    repeated = nn.Stack([nn.AOLConv(1, 2, 2, 1, Circular(3), image_size=3), nn.Spectral(2 * 64, 2)])
    with pytest.raises(InputError, match="has no place in a chain"):
        repeated.chain()
    with pytest.raises(InputError, match="there is nothing to keep"):
        nn.Stack([nn.MaxMin(4)]).chain()
    one = Linear(Dense(torch.eye(2)), None)
    with pytest.raises(InputError, match="a layer gives 2 numbers, the next takes 3"):
        Chain((one, Scale(1.0, 3)))
    with pytest.raises(InputError, match="one number format"):
        Chain((one, Linear(Dense(torch.eye(2, dtype=torch.float64)), None)))
    with pytest.raises(InputError, match="standardisation is for 3 inputs"):
        Chain((one,), Standardisation(torch.zeros(3), torch.ones(3)))
    with pytest.raises(InputError, match="expected inputs of shape"):
        Chain((one,)).apply(torch.zeros(2, 3))
    with pytest.raises(InputError, match="convert one of them"):
        Chain((one,)).apply(torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(InputError, match="holds NaN"):
        Chain((Linear(Dense(torch.full((1, 1), torch.nan)), None),)).to_bytes()


def test_files_that_are_no_chains(tmp_path: Path) -> None:
    own = Linear(Conv2d(torch.ones(1, 1, 3, 3), (1, 4, 4), Circular(1)), None)
    content = Chain((own, Scale(2.0, 16))).to_bytes()
    spoilt = [content[:-3], content.replace(b"form/3", b"form/9"), content.replace(b"scale", b"skale")]
    spoilt += [content.replace(b'"width\\":1', b'"width\\":7'), content.replace(b"circular", b"circulat")]
    spoilt += [content.replace(b'"size\\":16', b'"size\\":17'), content.replace(b"0.weight", b"7.weight")]
    for number, changed in enumerate(spoilt):
        assert changed != content, number
        (tmp_path / "spoilt").write_bytes(changed)
        with pytest.raises(FormatError):
            chain.load(tmp_path / "spoilt")
    with pytest.raises(FormatError, match="does not exist"):
        chain.load(tmp_path / "nothing")
    (tmp_path / "good").write_bytes(content)
    assert isinstance(chain.load(tmp_path / "good"), Chain)
