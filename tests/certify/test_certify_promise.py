"""What a parametrisation promises is proved for the stored numbers, or refused; and the norms that proofs must beat."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from certify_networks import KINDS, make, published, random_form, tensor

from equilip import nn
from equilip.certify import ALLOWANCE, check_guarantee, lipschitz, product_of_norms
from equilip.cli import main
from equilip.errors import ConfigError, InputError, ProofError
from equilip.interop.runs import import_run
from equilip.nn import Guarantee
from equilip.train import TrainConfig, load_run, resume, runs, train


def brittle(epsilon: float, dtype: torch.dtype, *, V: float = 0.0) -> nn.LBEN:
    """An LBEN whose slack is ``epsilon`` and nothing else (V = 0): what mathematics 10.2 warns of."""
    torch.manual_seed(0)
    model = nn.LBEN(12, 40, 4, 1.0, epsilon=epsilon, dtype=dtype)
    with torch.no_grad():
        model.V.mul_(V)
    return model


@pytest.mark.parametrize(
    ("epsilon", "dtype"),
    [(0.1, torch.float32), (1e-3, torch.float32), (1e-9, torch.float64)],
)
def test_a_promise_with_slack_is_kept(epsilon: float, dtype: torch.dtype) -> None:
    model = brittle(epsilon, dtype)
    check_guarantee(model.form(), model.guarantee())


def test_a_cast_that_uses_up_the_slack_is_refused() -> None:
    model = brittle(1e-9, torch.float32)
    with pytest.raises(
        ProofError, match=r"promises the bound 1, and its stored float32 .* larger epsilon, at least 1e-3"
    ):
        check_guarantee(model.form(), model.guarantee())
    double = brittle(1e-9, torch.float64)
    with pytest.raises(ProofError, match="float32"):
        check_guarantee(double.form().to(torch.float32), double.guarantee())


def test_a_promise_of_one_equilibrium_is_checked_too() -> None:
    def network(m: float, dtype: torch.dtype) -> nn.MonotoneNetwork:
        torch.manual_seed(0)
        model = nn.MonotoneNetwork(5, 30, 3, m=m, dtype=dtype)
        with torch.no_grad():
            model.A.zero_()
            model.B.mul_(30.0)
        return model

    for m, dtype in ((1e-9, torch.float64), (1.0, torch.float32)):
        model = network(m, dtype)
        check_guarantee(model.form(), model.guarantee())
    model = network(1e-9, torch.float32)
    with pytest.raises(ProofError, match=r"promises exactly one equilibrium.*larger epsilon \(or m\)"):
        check_guarantee(model.form(), model.guarantee())


def test_the_allowance_is_what_is_said() -> None:
    one = np.ones((1, 1))
    form = make(np.zeros((1, 1)), one, one)  # its largest slope is 1, and provable
    lam = torch.ones(1, dtype=torch.float64)
    bound = lipschitz(form)
    for given in (None, bound):
        check_guarantee(form, Guarantee(1.0 / (1.0 + 0.9 * ALLOWANCE), lam), bound=given)
        with pytest.raises(ProofError, match="smallest bound that could be proved for them is 1"):
            check_guarantee(form, Guarantee(1.0 / (1.0 + 1.1 * ALLOWANCE), lam), bound=given)


def test_other_multipliers_may_keep_a_promise() -> None:
    # The promise is a bound; wrong multipliers beside it do not break it, a wrong bound does.
    form = random_form(np.random.default_rng(0), "lben", 10, 4, 3)
    value = lipschitz(form).value
    wrong = tensor(np.exp(5 * np.random.default_rng(1).standard_normal(10)))
    check_guarantee(form, Guarantee(value, wrong))
    check_guarantee(form, Guarantee(None, wrong))
    with pytest.raises(ProofError):
        check_guarantee(form, Guarantee(0.999 * value, wrong))


def test_no_promise_and_unknown_promises() -> None:
    form = make(2.0 * np.eye(2), np.eye(2), np.eye(2))
    check_guarantee(form, None)
    lam = torch.ones(2, dtype=torch.float64)
    with pytest.raises(ProofError, match="not even that every input has exactly one equilibrium"):
        check_guarantee(form, Guarantee(None, lam))
    with pytest.raises(InputError, match="norm linf"):
        check_guarantee(form, Guarantee(1.0, lam, norm="linf"))
    with pytest.raises(InputError, match="another form"):
        check_guarantee(form, Guarantee(1.0, lam), bound=lipschitz(make(np.zeros((2, 2)), np.eye(2), np.eye(2))))


def test_training_that_breaks_the_promise_keeps_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(gamma=1.0, limit=40, width=6, epochs=2, batch=20)
    whole, _ = train(config, tmp_path / "whole")
    own = nn.LBEN.guarantee
    monkeypatch.setattr(nn.LBEN, "guarantee", lambda self: Guarantee(0.01, own(self).multipliers))
    out = tmp_path / "run"
    with pytest.raises(ProofError, match=r"promises the bound 0\.01.*train again.*complete and kept in .*run"):
        train(config, out)
    assert runs.stored_sha256(out) == runs.stored_sha256(whole)
    assert {file.name for file in out.iterdir()} == {file.name for file in whole.iterdir()}
    assert main(["evaluate", str(out)]) == 0
    assert main(["train", "--resume", str(out)]) == 0, "it is complete"
    capsys.readouterr()
    assert main(["certify", str(out)]) == 2, "and still not proved"
    assert "promises the bound 0.01" in capsys.readouterr().err
    assert not (out / "certificate.json").exists()


def test_a_broken_promise_is_found_again_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "realise", killed)
        with pytest.raises(KeyboardInterrupt):
            train(TrainConfig(gamma=1.0, limit=40, width=6, epochs=1, batch=20), tmp_path / "run")
    own = nn.LBEN.guarantee
    monkeypatch.setattr(nn.LBEN, "guarantee", lambda self: Guarantee(0.01, own(self).multipliers))
    with pytest.raises(ProofError, match=r"promises the bound 0\.01"):
        resume(tmp_path / "run")


def test_an_import_that_breaks_the_promise_leaves_nothing(tmp_path: Path) -> None:
    model = brittle(1e-9, torch.float32)
    names = {
        "psi": "psi",
        "B.weight": "U",
        "B.bias": "b",
        "V.weight": "V",
        "S.weight": "S",
        "G.weight": "C",
        "G.bias": "c",
    }
    torch.save({key: getattr(model, name).detach() for key, name in names.items()}, tmp_path / "x.params")

    def imported(dtype: str, out: Path, *, overwrite: bool = False) -> None:
        import_run(tmp_path / "x.params", "lben-fc", out=out, gamma=1.0, epsilon=1e-9, dtype=dtype, overwrite=overwrite)

    with pytest.raises(ProofError, match="float32"):
        imported("float32", tmp_path / "run")
    assert not (tmp_path / "run").exists()
    imported("float64", tmp_path / "run")
    digest = runs.stored_sha256(tmp_path / "run")
    with pytest.raises(ProofError, match="float32"):
        imported("float32", tmp_path / "run", overwrite=True)
    assert runs.stored_sha256(tmp_path / "run") == digest, "a failed import replaces nothing"
    assert load_run(tmp_path / "run")[1].form().detach().sha256 == digest
    with pytest.raises(ConfigError, match="not empty"):
        imported("float64", tmp_path / "run")


@pytest.mark.parametrize("kind", KINDS)
def test_proofs_beat_the_norms(kind: str) -> None:
    form = random_form(np.random.default_rng(3), kind, 8, 5, 3)
    norms = product_of_norms(form)
    if norms is None:
        assert kind in ("contraction", "loops"), "Lam = 1 is not theirs"
    else:
        assert lipschitz(form).value <= norms * (1 + 1e-9)


def test_norms_of_layers_are_multiplied_and_of_paths_added() -> None:
    rng = np.random.default_rng(4)
    first, second, third = (rng.standard_normal(shape) for shape in ((4, 3), (5, 4), (2, 5)))
    W, U, C = np.zeros((9, 9)), np.zeros((9, 3)), np.zeros((2, 9))
    W[4:, :4], U[:4], C[:, 4:] = second, first, third
    product = math.prod(np.linalg.norm(layer, 2) for layer in (first, second, third))
    assert product_of_norms(make(W, U, C)) == pytest.approx(product)
    D = rng.standard_normal((2, 3))
    assert product_of_norms(make(W, U, C, D)) == pytest.approx(product + np.linalg.norm(D, 2))


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [("mnist_lmt_c10_w80", True, 52.64), ("mnist_lmt_c100_w80", True, 39.42), ("mnist_mon_w80", False, 12.88)],
)
def test_norms_of_published_networks(name: str, raw: bool, value: float) -> None:
    assert product_of_norms(published(name), raw=raw) == pytest.approx(value, abs=0.005)
