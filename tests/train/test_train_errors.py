"""What the training room refuses, beyond what stands with its other tests: each error says what to do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import equilip
from equilip import form as forms
from equilip import interop, nn, train
from equilip.errors import ConfigError, FormatError
from equilip.train import TrainConfig, checkpoint, metrics, resume, runs
from equilip.train.devices import device, dtype
from equilip.train.models import ModelConfig, build


@pytest.fixture
def imported(tmp_path: Path) -> Path:
    """A run directory that no training made."""
    torch.manual_seed(0)
    form = forms.dense(0.1 * torch.randn(4, 4), torch.randn(4, 3), torch.randn(4), torch.randn(2, 4), torch.randn(2))
    path = runs.prepare(tmp_path / "imported")
    runs.write_config(
        path, runs.RunConfig(model=ModelConfig("explicit", 3, (4,), 2), imported=runs.ImportConfig("x.pt", "0", "x"))
    )
    runs.write_model(path, nn.Explicit(form))
    return path


def test_an_imported_network_has_no_training(imported: Path) -> None:
    with pytest.raises(ConfigError, match="holds an imported network: there is no training to continue"):
        resume(imported)
    with pytest.raises(ConfigError, match="describes an imported network, not a training that could be repeated"):
        runs.read_train_values(imported / "config.toml")


def test_a_configuration_without_a_model(imported: Path) -> None:
    config = imported / "config.toml"
    config.write_text(re.sub(r"\[model\].*?\n\n", "", config.read_text(), flags=re.DOTALL))
    with pytest.raises(ConfigError, match=r"config\.toml has no table \[model\]"):
        train.load_run(imported)


def test_metrics_that_are_none(imported: Path) -> None:
    assert metrics.read(imported) == []
    for text in ("no JSON", '{"epoch": 1}', "[]"):
        (imported / "metrics.jsonl").write_text(text + "\n")
        with pytest.raises(FormatError, match=r"metrics\.jsonl does not hold the metrics of a training, or it is dam"):
            metrics.read(imported)


@pytest.mark.parametrize("kind", ["lben", "monotone"])
def test_two_widths_where_there_is_one(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"a model of kind {kind} has one width, not 2"):
        ModelConfig(kind, 3, (4, 5), 2)


def test_an_explicit_model_of_nothing() -> None:
    with pytest.raises(ConfigError, match="an explicit model is made from a form, and none was given"):
        build(ModelConfig("explicit", 3, (4,), 2))


def test_devices_and_number_formats() -> None:
    assert device("cpu") == torch.device("cpu")
    for name in ("nowhere", "cpu:x", "meta"):
        with pytest.raises(ConfigError, match=f"the device '{name}' is not available here; use --device cpu"):
            device(name)
    with pytest.raises(ConfigError, match="unknown dtype 'float16'; use float32 or float64"):
        dtype("float16")


def test_an_optimiser_of_another_network(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def stop(_: object) -> None:
        raise Killed

    config = TrainConfig(gamma=1.0, limit=40, width=6, epochs=2, batch=20)
    with pytest.raises(Killed):
        train.train(config, tmp_path / "run", on_epoch=stop)
    found = checkpoint.read(tmp_path / "run")
    assert found is not None
    state = {name: {**own, "exp_avg": torch.zeros(3, 7)} for name, own in found.optimiser.items()}
    checkpoint.write(tmp_path / "run", replace(found, optimiser=state))
    with pytest.raises(FormatError, match=r"checkpoint\.safetensors: exp_avg of .* has shape \(3, 7\)"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("room", [equilip, train, interop], ids=lambda room: room.__name__)
def test_names_that_a_room_does_not_have(room: object) -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        room.nonsense  # type: ignore[attr-defined]  # noqa: B018
