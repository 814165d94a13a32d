"""Convolutional networks through configurations and run directories."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from equilip import certify
from equilip.checker import check
from equilip.errors import ConfigError
from equilip.nn import ChannelMetric, FeedForwardConv, LBENConv
from equilip.operators import Plain
from equilip.solve import equilibrium
from equilip.train import TrainConfig, load_form, load_run, train


def test_a_run_from_training_to_the_checked_certificate(tmp_path: Path) -> None:
    config = TrainConfig(
        model="lben-conv", width=2, gamma=1.0, epsilon=0.1, pool=4, kernel=3, metric="channel", limit=60, epochs=1,
        eps=(0.1,),
    )  # fmt: skip
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, LBENConv)
    again, restored = load_run(path)
    assert again.model.convolution is not None
    assert isinstance(restored, LBENConv)
    assert restored.metric == ChannelMetric()
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(restored(x), model.eval()(x), atol=1e-3)
    form = load_form(path)
    bound = certify.lipschitz(form)
    assert bound.value <= 1.0
    bound.save(path / "certificate.json")
    assert check(path / "certificate.json").valid


def test_a_run_of_the_feed_forward_network(tmp_path: Path) -> None:
    config = TrainConfig(model="feedforward-conv", width=3, pool=2, pool_padding=1, limit=60, epochs=1)
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, FeedForwardConv)
    assert model.C.shape == (10, 3 * 5 * 5)
    _, restored = load_run(path)
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(restored(x), model(x))
    form = load_form(path)
    torch.testing.assert_close(equilibrium(form, x).y, model(x), rtol=1e-4, atol=1e-4)
    certify.lipschitz(form).save(path / "certificate.json")
    assert check(path / "certificate.json").valid


def test_the_published_input_layer_and_pooling(tmp_path: Path) -> None:
    config = TrainConfig(
        model="lben-conv", width=2, gamma=1.0, layer="plain", metric="identity", pool=2, pool_padding=1, limit=60,
        epochs=1,
    )  # fmt: skip
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, LBENConv)
    assert (model.input_layer, model.pool_padding) == (Plain, 1)
    _, restored = load_run(path)
    assert isinstance(restored, LBENConv)
    assert (restored.input_layer, restored.pool_padding) == (Plain, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "lben", "metric": "channel"},
        {"model": "lben", "kernel": 5},
        {"model": "monotone", "pool": 4},
        {"model": "lben-conv", "kernel": 4},
        {"model": "lben-conv", "metric": "none"},
        {"model": "lben-conv", "padding": "mirror"},
        {"model": "lben-conv", "pool": 0},
        {"model": "lben-conv", "pool": 2, "pool_padding": 2},
        {"model": "lben-conv", "layer": "none"},
        {"model": "lben", "pool_padding": 1},
        {"model": "feedforward-conv", "layer": "plain"},
        {"model": "feedforward-conv", "metric": "channel"},
        {"model": "feedforward-conv", "gamma": 1.0},
        {"model": "feedforward-conv", "depth": 2},
        {"model": "lben-conv", "gamma": 1.0, "learn_gamma": True},
        {"model": "lben-conv", "gamma": 1.0, "feedthrough": True},
    ],
)
def test_what_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**wrong)  # type: ignore[arg-type]
