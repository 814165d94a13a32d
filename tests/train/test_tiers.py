"""Multi-tier networks through configurations, run directories and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from equilip import certify
from equilip.cli import main
from equilip.errors import ConfigError
from equilip.nn import MultiTierMonotone
from equilip.operators import Circular
from equilip.solve import equilibrium
from equilip.train import TrainConfig, load_form, load_run, train
from equilip.train.tiers import TierConfig


def test_a_run_from_training_to_its_form(tmp_path: Path) -> None:
    config = TrainConfig(
        model="multi-tier", width=2, tiers=3, kernel=1, padding="circular", pool=1, m=0.5, limit=60, epochs=1
    )
    path, model = train(config, tmp_path / "run")
    assert isinstance(model, MultiTierMonotone)
    assert model.hidden_shapes == ((2, 8, 8), (4, 4, 4), (8, 2, 2))
    assert (model.m, model.kernel_size, model.padding) == (0.5, 1, Circular(0))
    again, restored = load_run(path)
    assert again.model.tiers == TierConfig((1, 8, 8), 2, 3, 1, "circular", 1)
    assert again.model.hidden == (128, 64, 32)
    x = torch.rand(3, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(restored(x), model.eval()(x))
    form = load_form(path)
    torch.testing.assert_close(equilibrium(form, x).y, model(x), rtol=1e-4, atol=1e-4)
    certify.check_guarantee(form, model.guarantee())


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")

    def result(*arguments: str) -> dict[str, object]:
        assert main([*arguments, "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    learnt = result(
        "train", "--data", "digits", "--model", "multi-tier", "--width", "4", "--tiers", "2", "--m", "0.1", "--epochs",
        "4", "--lr", "0.01", "--out", run,
    )  # fmt: skip
    assert float(str(learnt["test_error_percent"])) < 20
    assert result("evaluate", run)["unconverged"] == 0
    proved = result("certify", run)
    assert proved["declared"] is None
    assert float(str(proved["certified_raw"])) > 0
    assert main(["verify", f"{run}/certificate.json"]) == 0
    assert main(["report", run, "--out", str(tmp_path / "report.html")]) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"gamma": 1.0},
        {"depth": 2},
        {"kernel": 2},
        {"kernel": 9},
        {"tiers": 0},
        {"metric": "channel"},
        {"loss": "boxes", "loss_eps": 0.1},
        {"model": "lben", "tiers": 3},
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        TrainConfig(**{"model": "multi-tier", **change})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "advice"),
    [
        ({"tiers": 1}, "from 2 on"),
        ({"tiers": 5}, "and fewer"),
        ({"pool": 3}, "choose another pool"),
        ({"padding": "reflect"}, "unknown padding"),
        ({"image": (64,)}, "three dimensions"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_advice(change: dict[str, object], advice: str) -> None:
    sizes = {"image": (1, 8, 8), "channels": 2, "tiers": 2}
    with pytest.raises(ConfigError, match=advice):
        TierConfig(**{**sizes, **change})  # type: ignore[arg-type]
