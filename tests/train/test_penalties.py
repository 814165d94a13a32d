"""Penalties: what they weigh is what they say, found slopes are real ones, and training lowers the proved slope."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from equilip import certify, nn
from equilip.cli import main
from equilip.errors import ActivationError, ConfigError, InputError
from equilip.train import CLIP, Discrepancy, Jacobian, TrainConfig, load_form, metrics, train
from equilip.train.losses import LipschitzMargin
from equilip.train.slopes import SequentialSlopes, slopes

PLAIN = TrainConfig(
    model="feedforward", depth=2, width=16, limit=400, epochs=8, batch=32, lr=5e-3, schedule="one-cycle"
)
CLIPPED: dict[str, object] = {"penalty": "clip", "regulariser": 0.1}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(rows: int = 12, features: int = 5) -> torch.Tensor:
    return torch.randn(rows, features, dtype=torch.float64, generator=seeded(3))


def plain(*sizes: int) -> torch.nn.Sequential:
    torch.manual_seed(5)
    layers: list[torch.nn.Module] = []
    for size, following in pairwise(sizes):
        layers += [torch.nn.Linear(size, following, dtype=torch.float64), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def test_the_jacobian_penalty_is_right_on_average() -> None:
    model, x = plain(5, 7, 3), batch()
    exact = torch.autograd.functional.jacobian(lambda x: model(x).sum(0), x).square().sum() / len(x)
    found = torch.stack([Jacobian(0.5)(model, x, seeded(k)).detach() for k in range(400)])
    spread = float(found.std()) / 20
    assert abs(float(found.mean()) - 0.5 * float(exact)) < 4 * spread


@pytest.mark.parametrize("made", [plain(5, 6, 3), nn.LBEN(5, 6, 3, gamma=1.0, epsilon=0.3, dtype=torch.float64)])
def test_gradients_of_the_jacobian_penalty(made: torch.nn.Module) -> None:
    x = batch(3)
    parameter = next(made.parameters())

    def value() -> torch.Tensor:
        return Jacobian(0.5)(made, x, seeded(1))

    (gradient,) = torch.autograd.grad(value(), parameter)
    direction = torch.randn(parameter.shape, dtype=parameter.dtype, generator=seeded(2))
    with torch.no_grad():
        at = parameter.clone()
        values = []
        for sign in (1, -1):
            parameter.copy_(at + sign * 1e-5 * direction)
            with torch.enable_grad():
                values.append(float(value().detach()))
        parameter.copy_(at)
    assert float((gradient * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4)


def test_pairs_find_the_slope_of_a_linear_map_and_never_more() -> None:
    model = torch.nn.Linear(6, 4, dtype=torch.float64)
    torch.nn.init.normal_(model.weight, generator=seeded(1))
    exact = float(torch.linalg.matrix_norm(model.weight.detach(), 2)) ** 2
    clip = CLIP(6, 1.0, pairs=8).double()
    found = [float(clip(model, batch(12, 6)).detach()) for _ in range(300)]
    assert max(found) <= exact * (1 + 1e-12)
    assert found[-1] > 0.999 * exact > found[0]
    assert all(later >= earlier for earlier, later in pairwise(found))


def test_no_found_slope_beats_a_proved_bound() -> None:
    model = plain(5, 8, 3)
    bound = certify.lipschitz(nn.sequential_form(model)).value
    clip = CLIP(5, 1.0).double()
    found = max(float(clip(model, batch()).detach()) for _ in range(200)) ** 0.5
    assert 0.7 * bound < found <= bound


def test_samples_that_are_the_same_make_no_pair() -> None:
    model = plain(5, 8, 3)
    x = batch(1).expand(6, 5)
    clip = CLIP(5, 1.0, pairs=4).double()
    value = clip(model, x)
    value.backward()
    assert float(value.detach()) == 0.0
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_any_module_and_any_shape_of_input() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(72, 3))
    x = torch.rand(10, 1, 8, 8, generator=seeded())
    for made in (CLIP((1, 8, 8), 0.1), Jacobian(0.1)):
        before = [p.detach().clone() for p in model.parameters()]
        optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
        first = max(float(made(model, x, seeded(1)).detach()) for _ in range(60))
        for _ in range(60):
            optimiser.zero_grad()
            made(model, x, seeded(1)).backward()
            optimiser.step()
        assert float(made(model, x, seeded(1)).detach()) < 0.5 * first
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), before, strict=True):
                parameter.copy_(value)


def test_what_is_remembered_is_in_the_state_dict() -> None:
    model, x = plain(5, 8, 3), batch()
    one, other = CLIP(5, 1.0).double(), CLIP(5, 1.0).double()
    for _ in range(5):
        one(model, x)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(model, x), other(model, -x))
    assert sum(p.numel() for p in one.parameters()) == 0


def test_margin_training_of_a_sequential() -> None:
    torch.manual_seed(1)
    residual = nn.Residual(torch.nn.Linear(6, 6), torch.nn.ReLU())
    model = torch.nn.Sequential(
        nn.Standardise([0.1] * 6, [0.5, 0.4, 0.5, 0.6, 0.5, 0.5]), residual, nn.CPL(6, 4), torch.nn.Linear(6, 3)
    ).double()
    found = slopes(model)
    assert isinstance(found, SequentialSlopes)
    norms = [float(torch.linalg.matrix_norm(w.weight.detach(), 2)) for w in (residual[0], model[-1])]
    assert float(found.whole().detach()) == pytest.approx((1 + norms[0]) * norms[1] / 0.4)
    bound = certify.lipschitz(nn.sequential_form(model))
    assert bound.value_raw <= float(found.whole().detach())
    x, label = batch(40, 6), torch.randint(0, 3, (40,), generator=seeded())
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimiser.zero_grad()
        LipschitzMargin(0.3)(model(x), label, found).backward()
        optimiser.step()
    assert certify.lipschitz(nn.sequential_form(model)).value_raw < 0.8 * bound.value_raw


def test_sequences_that_have_no_bound_are_refused() -> None:
    with pytest.raises(ActivationError):
        slopes(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.GELU(), torch.nn.Linear(3, 2)))
    with pytest.raises(InputError, match="last layer"):
        slopes(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.ReLU()))
    with pytest.raises(InputError):
        slopes(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Linear(3, 2)))


def test_the_weight_follows_the_accuracy_after_warming_up() -> None:
    rule = Discrepancy(Jacobian(0.5), goal=0.9, increment=0.25, warm_up=2)
    weights = []
    for accuracy in (0.1, 1.0, 0.9, 0.91, 0.89, 0.5, 0.5, 0.5, 0.5, 0.95):
        rule.epoch(accuracy)
        weights.append(rule.weight)
    assert weights == [0.5, 0.5, 0.75, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0, 0.25]


def test_the_penalty_is_weighed_by_the_present_weight() -> None:
    model, x = plain(5, 8, 3), batch()
    rule = Discrepancy(Jacobian(0.5), goal=0.9, increment=0.25, warm_up=0)
    before = float(rule(model, x, seeded(1)).detach())
    rule.epoch(1.0)
    assert float(rule(model, x, seeded(1)).detach()) == pytest.approx(1.5 * before, rel=1e-12)
    rule.epoch(0.0)
    rule.epoch(0.0)
    rule.epoch(0.0)
    assert float(rule(model, x, seeded(1)).detach()) == 0.0


def test_the_weight_is_in_the_state_dict_whatever_the_format() -> None:
    one = Discrepancy(CLIP(5, 0.1), goal=0.9, increment=0.1, warm_up=1).float()
    for accuracy in (0.0, 1.0, 1.0):
        one.epoch(accuracy)
    other = Discrepancy(CLIP(5, 7.0), goal=0.9, increment=0.1, warm_up=1)
    other.load_state_dict(one.state_dict())
    one.epoch(0.0)
    other.epoch(0.0)
    assert other.weight == one.weight == pytest.approx(0.2)
    assert torch.equal(one.penalty.step, other.penalty.step)
    with pytest.raises(RuntimeError, match="_extra_state"):
        other.load_state_dict({key: value for key, value in one.state_dict().items() if "extra" not in key})


@pytest.mark.parametrize(
    ("goal", "increment", "warm_up"),
    [(0.0, 1.0, 0), (1.0, 1.0, 0), (0.9, 0.0, 0), (0.9, float("nan"), 0), (0.9, 1.0, -1)],
)
def test_rules_that_make_no_sense(goal: float, increment: float, warm_up: int) -> None:
    with pytest.raises(InputError):
        Discrepancy(Jacobian(1.0), goal, increment, warm_up)


@pytest.mark.parametrize("accuracy", [-0.1, 1.1, 97.0, float("nan")])
def test_accuracies_that_are_none(accuracy: float) -> None:
    with pytest.raises(InputError, match="share"):
        Discrepancy(Jacobian(1.0), 0.9, 0.1).epoch(accuracy)


def test_training_towards_a_goal_logs_its_weights(tmp_path: Path) -> None:
    config = replace(PLAIN, penalty="clip", regulariser=0.02, clip_goal=0.8, clip_increment=0.01, clip_warm_up=1)
    train(config, tmp_path / "run")
    history = metrics.read(tmp_path / "run")
    weight = 0.02
    for epoch in history:
        assert epoch.regulariser == weight
        if epoch.epoch > 1:
            weight = max(0.0, weight + (0.01 if epoch.train_error_percent <= 20 else -0.01))
    assert len({epoch.regulariser for epoch in history}) > 2
    train(replace(PLAIN, epochs=1), tmp_path / "none")
    assert metrics.read(tmp_path / "none")[0].regulariser is None


@pytest.mark.parametrize("penalty", ["clip", "jacobian"])
def test_training_with_a_penalty_lowers_the_proved_slope(penalty: str, tmp_path: Path) -> None:
    train(PLAIN, tmp_path / "plain")
    train(replace(PLAIN, penalty=penalty, regulariser=0.1), tmp_path / "flat")
    before, after = (certify.lipschitz(load_form(tmp_path / name)).value for name in ("plain", "flat"))
    assert after < 0.8 * before


def test_trained_and_certified_by_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    command = ["train", "--model", "feedforward", "--depth", "2", "--width", "12", "--limit", "300", "--epochs", "3"]
    assert main([*command, "--penalty", "clip", "--regulariser", "0.1", "--out", run]) == 0
    capsys.readouterr()
    assert main(["certify", run, "--eps", "0.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["certified"] < found["product_of_norms"]
    assert 0 <= found["robustness"][0]["certified_accuracy"] <= 1
    assert main(["verify", f"{run}/certificate.json"]) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"penalty": "clip"}, "needs a weight"),
        ({"regulariser": 0.1}, "belongs to the loss boxes"),
        (
            {"penalty": "clip", "regulariser": 0.1, "loss": "boxes", "loss_eps": 0.1, "model": "nemon", "depth": 1},
            "boxes",
        ),
        ({"penalty": "jacobian", "regulariser": 0.1, "model": "unconstrained", "depth": 1}, "equilibrium"),
        ({"clip_goal": 0.9}, "give penalty clip"),
        ({"clip_goal": 0.9, "penalty": "jacobian", "regulariser": 0.1}, "give penalty clip"),
        ({**CLIPPED, "clip_goal": 1.0}, "between 0 and 1, got 1"),
        ({**CLIPPED, "clip_increment": 0.1}, "mean nothing without clip_goal"),
        ({**CLIPPED, "clip_warm_up": 2}, "mean nothing without clip_goal"),
        ({**CLIPPED, "clip_goal": 0.9, "clip_increment": 0.0}, "clip_increment must be a positive number"),
        ({**CLIPPED, "clip_goal": 0.9, "clip_warm_up": -1}, "clip_warm_up cannot be negative"),
        ({**CLIPPED, "clip_goal": 0.9, "clip_warm_up": 7}, "after epoch 8 for the first time, and there are 8"),
        ({"penalty": "clap", "regulariser": 0.1}, "did you mean 'clip'"),
    ],
)
def test_configurations_that_make_no_sense(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(PLAIN, **changes)


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_that_make_no_sense(weight: float) -> None:
    with pytest.raises(InputError):
        Jacobian(weight)
    with pytest.raises(InputError):
        CLIP(3, weight)
    with pytest.raises(InputError):
        CLIP((3, 0), 1.0)
