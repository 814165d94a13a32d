"""What is proved to be monotone: by which proof, what is refused, and that no proof is found of what is false."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from equilip import certify, checker, nn
from equilip.activations import ReLU
from equilip.cli import main
from equilip.errors import ConfigError, InputError, ProofError
from equilip.form import Form, dense
from equilip.operators import Dense
from equilip.train import TrainConfig, load_run, train

GENERATOR = torch.Generator().manual_seed(0)


def relu_form(weights: list[list[float]], heads: list[list[float]], feed: list[list[float]]) -> Form:
    """y = C relu(U x) + D x."""
    U, C, D = (torch.tensor(rows, dtype=torch.float64) for rows in (weights, heads, feed))
    n, q = len(U), len(C)
    zeros = torch.zeros(n, n, dtype=torch.float64)
    return dense(zeros, U, zeros.new_zeros(n), C, zeros.new_zeros(q), D=D)


def wrapped(kind: str) -> nn.MonotonicWrapper:
    own = {"dtype": torch.float32, "generator": torch.Generator().manual_seed(1)}
    if kind == "lben":
        network = nn.LBEN(4, 6, 2, gamma=1.0, epsilon=0.1, **own)
    elif kind == "stack":
        network = nn.Stack([nn.CPL(4, 5, **own), nn.SandwichLinear(4, 2, **own)], 1.5)
    else:
        layers = [nn.Entries(4, 6, **own), nn.Pointwise(ReLU(), 6), nn.RowSums(6, 2, **own)]
        network = nn.SumBounded(layers, 1.5)
    return nn.MonotonicWrapper(network, torch.tensor([[1, 0, -1, 1], [-1, 0, 1, 0]]))


@pytest.mark.parametrize(("kind", "method"), [("sum", "comparison"), ("stack", "quadratic"), ("lben", "quadratic")])
def test_the_promise_is_proved_and_checked(kind: str, method: str, tmp_path: Path) -> None:
    model = wrapped(kind)
    found = certify.monotone(model)
    assert found.method == method
    assert found.directions.tolist() == [[1, 0, -1, 1], [-1, 0, 1, 0]]
    bound = certify.lipschitz(model)
    model.form().save(tmp_path / "form.safetensors")
    certify.write_certificate(bound, tmp_path / "certificate.json", monotone=found)
    verdict = checker.check(tmp_path / "certificate.json")
    assert verdict.valid, verdict.reason
    assert [claim.kind for claim in verdict.claims] == ["lipschitz", "lipschitz", "monotone"]
    recalled = certify.recall(tmp_path / "certificate.json", model)
    assert recalled is not None
    assert recalled.value == bound.value


@pytest.mark.parametrize("kind", ["sum", "stack", "lben"])
def test_what_the_weights_do_not_keep_is_not_proved(kind: str) -> None:
    model = wrapped(kind)
    form, S, slope = model.form().detach(), model.directions, model.slope
    with pytest.raises(ProofError):
        certify.monotone(form, -S, bound=slope)
    # Scaled by four, f outweighs the linear term wherever it uses a good part of its bound.
    steep = replace(form, C=Dense(form.C.dense() * 400))
    with pytest.raises(ProofError):
        certify.monotone(steep, S, bound=slope)
    one = S.clone()
    one[0, 1] = 1
    with pytest.raises(ProofError):
        certify.monotone(form, one, bound=slope)


def test_the_edge_is_proved_and_a_little_less_is_not() -> None:
    """y = 2x - relu(x) - relu(x) has slope 0 at least; the claim needs the smallest of room for its own rounding."""
    form = relu_form([[1.0], [1.0]], [[-1.0, -1.0]], [[2.0 + 1e-9]])
    assert certify.monotone(form, [1]).bound == 2.0 + 1e-9
    with pytest.raises(ProofError):
        certify.monotone(relu_form([[1.0], [1.0]], [[-1.0, -1.0]], [[2.0 - 1e-9]]), [1])
    with pytest.raises(ProofError):
        certify.monotone(form, [-1], bound=1.0)


def test_only_claimed_inputs_have_to_be_outweighed() -> None:
    form = relu_form([[1.0, 50.0]], [[-1.0], [90.0]], [[1.5, 0.0], [0.0, 0.0]])
    assert certify.monotone(form, [[1, 0], [0, 0]]).directions.tolist() == [[1, 0], [0, 0]]
    with pytest.raises(ProofError):
        certify.monotone(form, [[1, 1], [0, 0]], bound=1.5)
    with pytest.raises(ProofError):
        certify.monotone(form, [[1, 0], [1, 0]], bound=1.5)


def test_no_proof_of_random_networks_is_false() -> None:
    """Random networks and claims: where there is a proof, no slope of the wrong sign is found; both happen often."""
    proved = 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        U, C = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((4, 3), (2, 4)))
        S = torch.randint(-1, 2, (2, 3), generator=generator)
        S[0, 0] = 1
        W = 0.3 * torch.randn(4, 4, dtype=torch.float64, generator=generator).tril(-1)
        D = float(4 * torch.rand(1, generator=generator)) * S.double()
        form = dense(W, U, torch.zeros(4).double(), C, torch.zeros(2).double(), D=D)
        try:
            certify.monotone(form, S, seconds=1.0)
        except ProofError:
            continue
        proved += 1
        for pattern in range(16):
            J = torch.diag(torch.tensor([pattern >> i & 1 for i in range(4)], dtype=torch.float64))
            slope = D + C @ torch.linalg.solve(torch.eye(4, dtype=torch.float64) - J @ W, J @ U)
            assert float((slope * S).min()) >= 0
    assert 8 < proved < 52


def test_mistakes_are_named() -> None:
    model = wrapped("sum")
    with pytest.raises(InputError, match="directions are needed"):
        certify.monotone(model.network)
    with pytest.raises(InputError, match="all 0"):
        certify.monotone(model, [0, 0, 0, 0])
    with pytest.raises(InputError, match="of shape"):
        certify.monotone(model, [1, 0])
    with pytest.raises(ProofError, match="no float"):
        certify.monotone(relu_form([[1.0]], [[0.0]], [[1.0]]), [1], bound=1e-20)
    with pytest.raises(ProofError, match="cannot outweigh"):
        certify.monotone(model.network, [1, 0, 0, 0])
    with pytest.raises(InputError, match="two forms"):
        certify.write_certificate(certify.lipschitz(model.network), "nowhere", monotone=certify.monotone(model))


def table(path: Path) -> str:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 4))
    np.savez(path / "table.npz", X=X, y=(X[:, 0] - X[:, 2] + 0.3 * rng.normal(size=120) > 0).astype(int))
    return f"npz:{path / 'table.npz'}"


def config(path: Path, **changes: object) -> TrainConfig:
    given = {"increasing": (0,), "decreasing": (2,), "width": 8, "depth": 2, "gamma": 1.5, "epochs": 10, "batch": 16}
    return TrainConfig(**{"data": table(path), "model": "monotonic", "lr": 2e-2, **given, **changes})


def test_trained_certified_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, trained = train(config(tmp_path), tmp_path / "run")
    _, model = load_run(run)
    assert isinstance(model, nn.MonotonicWrapper)
    assert torch.equal(model.directions, trained.directions)
    assert model.directions.tolist() == [[-1, 0, 1, 0], [1, 0, -1, 0]]
    assert main(["certify", str(run), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["monotone"]["directions"] == [[-1, 0, 1, 0], [1, 0, -1, 0]]
    assert found["declared"] is None
    assert main(["verify", f"{run}/certificate.json"]) == 0
    assert "output 1 never falls where input 0 grows" in capsys.readouterr().out
    assert main(["evaluate", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["test_error_percent"] < 25
    assert main(["attack", str(run), "--eps", "0.1"]) == 0


@pytest.mark.parametrize("towards", [None, 0, 1])
def test_any_number_of_classes(towards: int | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is classified as the class leant towards stays so, however much the rising inputs grow."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(240, 4))
    np.savez(tmp_path / "three.npz", X=X, y=np.digitize(X[:, 0] - X[:, 2] + 0.3 * rng.normal(size=240), (-0.8, 0.8)))
    own = config(tmp_path, data=f"npz:{tmp_path / 'three.npz'}", towards=towards, learn_gamma=True, epochs=8)
    run, model = train(own, tmp_path / "run")
    chosen = 2 if towards is None else towards
    assert isinstance(model, nn.MonotonicWrapper)
    assert model.gamma != own.gamma
    signs = torch.tensor([1 if k == chosen else -1 for k in range(3)])
    assert torch.equal(model.directions, signs[:, None] * torch.tensor([1.0, 0.0, -1.0, 0.0]))
    x = 3 * torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    grown = x + torch.rand(400, 1, generator=torch.Generator().manual_seed(2)) * torch.tensor([4.0, 0.0, -4.0, 0.0])
    with torch.no_grad():
        before, after = model(x), model(grown)
    assert bool(((after - before) * signs >= -1e-4).all())
    stays = before.argmax(1) == chosen
    assert bool(stays.any())
    assert bool((after.argmax(1)[stays] == chosen).all())
    assert main(["certify", str(run)]) == 0
    assert main(["verify", f"{run}/certificate.json"]) == 0
    assert f"output {chosen} never falls where input 0 grows" in capsys.readouterr().out
    assert torch.equal(load_run(run)[1](x), before)


def test_a_training_whose_numbers_break_the_promise_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equilip.nn.monotonic.ROOM", 1e-3)
    with pytest.raises(ProofError, match="outweighed"):
        train(config(tmp_path, gamma=5.0), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gamma": None}, "give gamma"),
        ({"increasing": (), "decreasing": ()}, "needs inputs"),
        ({"increasing": (1, 1)}, "each once"),
        ({"increasing": (2,)}, "each once"),
        ({"increasing": (-1,)}, "needs inputs"),
        ({"increasing": (4,)}, "no input 4"),
        ({"model": "feedforward", "gamma": None}, "belong to the model monotonic"),
        ({"loss": "certified", "loss_eps": 0.1}, "no l2 bound"),
        ({"towards": 2}, "no class 2 to lean towards: the data has 2"),
        ({"towards": -1}, "no class -1"),
        ({"model": "feedforward", "gamma": None, "increasing": (), "decreasing": (), "towards": 1}, "belong to"),
    ],
)
def test_configurations_that_make_no_sense(changes: dict[str, object], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        train(config(tmp_path, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
