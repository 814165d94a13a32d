"""Evaluation: the error it names is the error, and samples without equilibrium count as wrong."""

from __future__ import annotations

import pytest
import torch

from equilip import form as forms
from equilip import nn
from equilip.errors import ConfigError, IllPosedError
from equilip.form import Form
from equilip.solve import Settings
from equilip.train import evaluate, evaluation
from equilip.train.evaluation import answers, neurons_at_most


def contracting(n: int = 6) -> Form:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    W = draw(n, n)
    return forms.dense(0.5 * W / torch.linalg.matrix_norm(W, 2), draw(n, 4), draw(n), draw(3, n), draw(3))


def picard(form: Form, x: torch.Tensor) -> torch.Tensor:
    bias = form.bias(form.standardise(x))
    z = torch.zeros_like(bias)
    for _ in range(100):
        z = form.step(z, bias)
    return form.output(z, form.standardise(x))


def test_agrees_with_a_plain_iteration() -> None:
    form = contracting()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(50, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 3, (50,), generator=generator)
    found = evaluate(form, x, y)
    assert found.test_error_percent == 100.0 * float((picard(form, x).argmax(1) != y).double().mean())
    assert found.n == 50
    assert found.unconverged == 0
    assert found.max_residual is not None
    assert found.max_residual < 1e-6
    assert found.max_error_bound is not None
    assert found.max_error_bound < 1e-4
    assert found.dtype == "float64"


def ill_posed() -> Form:
    """z = relu(5/2 z + x - 1): for x < 1 two equilibria, for x > 1 none."""
    one = torch.ones(1, 1, dtype=torch.float64)
    C = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    return forms.dense(2.5 * one, one, -one[0], C, torch.zeros(2, dtype=torch.float64))


def test_what_does_not_converge_is_counted_and_wrong() -> None:
    x = torch.tensor([[0.0], [2.0], [3.0]])
    y = torch.zeros(3, dtype=torch.int64)
    with pytest.raises(IllPosedError):
        evaluate(ill_posed(), x, y)
    found = evaluate(ill_posed(), x, y, Settings(require_well_posed=False))
    assert found.unconverged >= 2
    assert found.test_error_percent >= 100.0 * 2 / 3 - 1e-9
    assert found.max_error_bound is None


def test_data_of_another_width() -> None:
    with pytest.raises(ConfigError, match=r"takes 4 numbers; the data has \(5,\)"):
        evaluate(contracting(), torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="no sample"):
        evaluate(contracting(), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


MODELS = [
    nn.LBENConv((1, 8, 8), 3, 4, 1.0, pool=4, generator=torch.Generator().manual_seed(0)),
    nn.LBEN(64, 5, 4, 1.0, generator=torch.Generator().manual_seed(0)),
    nn.FeedForward(64, (7, 90), 4, generator=torch.Generator().manual_seed(0)),
    nn.FeedForwardConv((1, 8, 8), 3, 4, pool=4, generator=torch.Generator().manual_seed(0)),
]


@pytest.mark.parametrize("model", MODELS)
def test_batches_are_as_large_as_memory_allows_and_answer_as_the_whole_does(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.eval()
    x = torch.rand(11, 64, generator=torch.Generator().manual_seed(1))
    whole = answers(model, x)
    widest = {nn.LBENConv: 192, nn.LBEN: 64, nn.FeedForward: 90, nn.FeedForwardConv: 192}[type(model)]
    assert neurons_at_most(model) == widest
    monkeypatch.setattr(evaluation, "NUMBERS", 4 * widest + 1)
    seen: list[int] = []
    name = "solve" if isinstance(model, nn.EquilibriumModule) else "forward"
    method = getattr(model, name)

    def counted(rows: torch.Tensor, *others: object) -> object:
        seen.append(len(rows))
        return method(rows, *others)

    monkeypatch.setattr(model, name, counted)
    parts = answers(model, x)
    assert seen == [4, 4, 3]
    torch.testing.assert_close(parts.y, whole.y, rtol=1e-4, atol=1e-4)
    assert parts.converged.all()
    assert parts.residual.shape == (11,)
    assert not parts.y.requires_grad
    labels = whole.y.argmax(1)
    assert parts.wrong_percent(labels) == 0.0
    assert parts.wrong_percent((labels + 1) % 4) == 100.0
