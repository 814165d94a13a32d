"""Stacks of convolutional layers train like all other networks, and what they promise holds in their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from equilip import certify, checker
from equilip.chain import Chain
from equilip.errors import ConfigError, InputError
from equilip.nn import Stack
from equilip.solve import equilibrium
from equilip.train import TrainConfig, evaluate, load_form, load_network, load_run, train
from equilip.train.config import IMAGE_STACKS
from equilip.train.image_stacks import ImageStackConfig


@pytest.mark.parametrize("kind", IMAGE_STACKS)
def test_a_run_from_training_to_the_checked_certificate(kind: str, tmp_path: Path) -> None:
    padding = "circular" if kind in ("cayley-conv", "sandwich-conv") else "zeros"
    config = TrainConfig(
        model=kind, gamma=2.0, limit=100, width=3, patch=2, pool=2, padding=padding, epochs=2, batch=25, lr=2e-2,
        eps=(0.1,),
    )  # fmt: skip
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, Stack)
    found, again = load_run(path)
    assert found.model.hidden == (48,)
    form, x = load_form(path), torch.rand(20, 64, generator=torch.Generator().manual_seed(0))
    assert form.hidden_size == 48
    assert torch.equal(model(x), again(x))
    assert torch.equal(again(x.view(20, 1, 8, 8)), again(x))
    assert torch.allclose(equilibrium(form, x).y, model(x), atol=1e-4)
    bound = certify.lipschitz(form)
    assert bound.value <= 2.0 * (1 + 1e-6)
    assert bound.value <= model.proved_bound()
    bound.save(path / "certificate.json")
    assert checker.check(path / "certificate.json").valid


def test_several_layers_and_a_bound_that_is_learnt(tmp_path: Path) -> None:
    config = TrainConfig(
        model="cpl-conv", gamma=1.0, learn_gamma=True, depth=2, limit=60, width=6, patch=2, pool=1, padding="circular",
        epochs=1, batch=30, lr=1e-2, activation="tanh", loss="lipschitz-margin", loss_eps=0.1, dtype="float64",
    )  # fmt: skip
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, Stack)
    assert model.gamma != pytest.approx(1.0, abs=1e-6)
    assert load_form(path).hidden_size == 2 * 6 * 16
    assert load_run(path)[1].gamma == model.gamma


@pytest.mark.parametrize("kind", [*IMAGE_STACKS, "aol", "sandwich"])
def test_networks_too_large_for_one_form_are_chains(kind: str, tmp_path: Path) -> None:
    images = kind in IMAGE_STACKS
    padding = "circular" if kind in ("cayley-conv", "sandwich-conv") else "zeros"
    own: dict[str, Any] = {"width": 60, "depth": 35}
    if images:
        own = {"padding": padding, "pool": 2, "width": 11, "depth": 3}
    config = TrainConfig(model=kind, gamma=2.0, limit=40, epochs=1, batch=20, lr=1e-3, eps=(0.1,), **own)
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, Stack)
    found, again = load_run(path)
    network = load_network(path)
    assert isinstance(network, Chain)
    assert network.hidden_size == sum(found.model.hidden) > 2048
    x = torch.rand(20, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), again(x))
    assert torch.allclose(network.apply(x), model(x), atol=1e-5)
    with pytest.raises(InputError, match="holds a chain of layers"):
        load_form(path)
    bound = certify.lipschitz(network)
    assert bound.value <= 2.0 * (1 + 1e-5)
    bound.save(path / "certificate.json")
    assert checker.check(path / "certificate.json").valid
    shown = evaluate(network.to(torch.float64), x, torch.zeros(20, dtype=torch.int64))
    assert shown.max_error_bound is not None
    assert shown.max_error_bound < 1e-8
    assert evaluate(network, x, torch.zeros(20, dtype=torch.int64)).test_error_percent == shown.test_error_percent


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"model": "cpl-conv"}, "give gamma"),
        ({"model": "cpl", "gamma": 1.0, "patch": 2}, "patch is a property"),
        ({"model": "lben-conv", "gamma": 1.0, "patch": 2}, "patch is a property"),
        ({"model": "cpl-conv", "gamma": 1.0, "metric": "channel"}, "metric is a property"),
        ({"model": "cpl-conv", "gamma": 1.0, "patch": 0}, "patch must be at least 1"),
        ({"model": "aol-conv", "gamma": 1.0, "kernel": 4}, "kernel must be"),
    ],
)
def test_mistakes_are_named(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        TrainConfig(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"kind": "cpl-conv", "image": (1, 1, 5), "patch": 2}, "choose another patch"),
        ({"kind": "cpl-conv", "image": (1, 8, 8), "patch": 2, "pool": 3}, "choose another pool"),
        ({"kind": "cpl-conv", "image": (1, 999, 999)}, "larger patch"),
        ({"kind": "cayley-conv", "image": (1, 8, 8)}, "give padding circular"),
        ({"kind": "sll-conv", "image": (1, 8, 8), "patch": 4, "padding": "circular"}, "smaller kernel"),
        ({"kind": "sll-conv", "image": (8, 8)}, "three dimensions"),
    ],
)
def test_sizes_that_do_not_fit_are_named(values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ImageStackConfig(channels=4, depth=1, **values)  # type: ignore[arg-type]
