"""What cannot be solved is said so, early, by name, and with what was reached."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from solve_problems import SOLVERS, make, problem, tensor, truth

from equilip.activations import ReLU, Tanh
from equilip.errors import ConvergenceError, EquilipError, IllPosedError, InputError, ToleranceError
from equilip.form import Form, dense
from equilip.solve import (
    Anderson,
    Auto,
    Averaged,
    DouglasRachford,
    ForwardBackward,
    Implicit,
    JacobianFree,
    Newton,
    PeacemanRachford,
    Phantom,
    Plan,
    Refined,
    Settings,
    Solver,
    Status,
    Substitution,
    Unrolled,
    equilibrium,
)
from equilip.solve import newton as newton_module

F64 = torch.float64
ITERATIVE = ["peaceman-rachford", "douglas-rachford", "anderson", "newton", "auto"]


# ---------------------------------------------------------------- tolerances


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("case", ["lben of 40", "lben of 12, skewed", "monotone of 15", "lben of 10, stiff"])
def test_a_tolerance_below_float32_is_said_to_be(name: str, case: str) -> None:
    own = problem(case)
    form, x = own.form.to(torch.float32), own.x.float()
    with pytest.raises(ToleranceError, match=r"float32 resolves about .* use float64") as caught:
        equilibrium(form, x, Settings(solver=SOLVERS[name], tolerance=1e-10))
    solution = caught.value.solution
    assert solution is not None
    assert solution.status is Status.RESOLUTION
    # What was reached is as good as float32 gets, and it did not take for ever.
    assert float(solution.residual.max()) < 1e-3
    converging = equilibrium(own.form, own.x, Settings(PeacemanRachford(), tolerance=1e-8)).iterations
    assert solution.iterations <= 3 * converging + 200


def test_a_tolerance_below_float64_too() -> None:
    own = problem("lben of 12, skewed")
    with pytest.raises(ToleranceError, match="float64 resolves about"):
        equilibrium(own.form, own.x, Settings(PeacemanRachford(), tolerance=1e-18))


def test_the_default_tolerance_is_within_reach() -> None:
    """Coarser where W is large, so that nobody gets an error for asking for nothing special."""
    for name in ("lben of 40", "lben of 12, skewed", "monotone of 15"):
        own = problem(name)
        for dtype in (torch.float32, F64):
            solution = equilibrium(own.form.to(dtype), own.x.to(dtype))
            assert solution.tolerance == (1e-4 if dtype == torch.float32 else 1e-8)
    large = problem("huge W")
    assert equilibrium(large.form.to(torch.float32), large.x.float(), Settings(raise_on_failure=False)).tolerance > 0.1


# ---------------------------------------------------------------- convergence


@pytest.mark.parametrize("name", ["peaceman-rachford", "douglas-rachford", "anderson", "forward-backward"])
def test_what_was_reached_comes_with_the_error(name: str) -> None:
    own = problem("gentle")
    settings = Settings(solver=SOLVERS[name], tolerance=1e-12, max_iterations=3)
    with pytest.raises(
        ConvergenceError, match=r"4 of 4 samples missed the tolerance 1e-12.*raise max_iterations"
    ) as caught:
        equilibrium(own.form, own.x, settings)
    assert not isinstance(caught.value, ToleranceError)
    solution = caught.value.solution
    assert solution is not None
    assert solution.status is Status.ITERATION_LIMIT
    assert solution.iterations <= 3
    assert not bool(solution.converged.any())
    assert bool((solution.error >= solution.residual * 0).all())

    flagged = equilibrium(
        own.form, own.x, Settings(SOLVERS[name], tolerance=1e-12, max_iterations=3, raise_on_failure=False)
    )
    assert flagged.status is Status.ITERATION_LIMIT
    assert torch.equal(flagged.converged, flagged.residual <= 1e-12)
    assert torch.equal(flagged.z, solution.z)


def test_some_samples_may_converge_and_others_not() -> None:
    own = problem("lben of 10, stiff")
    x = own.x.clone()
    easy = dense(
        own.form.W.dense(), own.form.U.dense(), torch.full((10,), -1.0, dtype=F64), own.form.C.dense(), own.form.c,
        lam=own.form.lam,
    )  # fmt: skip
    x[1] = 0  # all neurons off: z = 0 at once
    solution = equilibrium(
        easy, x, Settings(PeacemanRachford(), tolerance=1e-10, max_iterations=5, raise_on_failure=False)
    )
    assert bool(solution.converged[1])
    assert not bool(solution.converged.all())
    with pytest.raises(ConvergenceError, match=rf"{int((~solution.converged).sum())} of 4 samples"):
        equilibrium(easy, x, Settings(PeacemanRachford(), tolerance=1e-10, max_iterations=5))


def test_divergence_is_told() -> None:
    form, x = make(np.array([[2.0, 1.0], [1.0, 2.0]]))
    solution = equilibrium(form, x.abs(), Settings(Averaged(0.5), require_well_posed=False, raise_on_failure=False))
    assert solution.status in (Status.DIVERGED, Status.ITERATION_LIMIT, Status.STALLED)
    assert not bool(solution.converged.all())
    assert bool(solution.error.isinf().all())
    with pytest.raises(ConvergenceError):
        equilibrium(form, x.abs(), Settings(Averaged(0.5), require_well_posed=False))


def test_the_adjoint_can_fail_too() -> None:
    """Its error has no solution to show; with raise_on_failure=False the gradient is what was reached."""
    own = problem("lben of 10, stiff")
    for flag in (True, False):
        x = own.x.clone().requires_grad_()
        settings = Settings(PeacemanRachford(), Implicit(1e-300 if flag else 1e-15), raise_on_failure=flag)
        solution = equilibrium(own.form, x, settings)
        if flag:
            with pytest.raises(ConvergenceError, match="adjoint equation") as caught:
                solution.y.sum().backward()
            assert caught.value.solution is None
        else:
            solution.y.sum().backward()
            assert x.grad is not None


# ---------------------------------------------------------------- well-posedness

ILL = [
    np.array([[2.0]]),
    np.array([[1.0]]),
    np.array([[0.0, 3.0], [3.0, 0.0]]),
    2 * np.eye(4) + 0.1 * np.arange(16).reshape(4, 4) / 16,
]


@pytest.mark.parametrize("W", ILL, ids=lambda W: f"{len(W)} neurons, {W[0, 0]}")
@pytest.mark.parametrize("name", [n for n in SOLVERS if n != "substitution"])
def test_an_ill_posed_equation_is_refused_before_solving(
    name: str, W: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    form, x = make(W)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("solved what it should have refused")

    for solver in {type(s) for s in SOLVERS.values()}:
        monkeypatch.setattr(solver, "prepare", fail)
    with pytest.raises(IllPosedError, match="require_well_posed=False"):
        equilibrium(form, x, Settings(solver=SOLVERS[name]))


def test_the_refusal_can_be_overridden() -> None:
    """z = relu([[0, 3], [3, 0]] z - 1) has the equilibrium 0 (and another), and is solved if one insists."""
    W = np.array([[0.0, 3.0], [3.0, 0.0]])
    form = dense(
        tensor(W),
        torch.zeros(2, 1).double(),
        torch.full((2,), -1.0).double(),
        torch.eye(2).double(),
        torch.zeros(2).double(),
    )
    x = torch.zeros(3, 1, dtype=F64)
    with pytest.raises(IllPosedError):
        equilibrium(form, x)
    solution = equilibrium(form, x, Settings(Averaged(0.5), require_well_posed=False))
    assert bool(solution.converged.all())
    assert torch.equal(solution.z, torch.zeros(3, 2, dtype=F64))
    assert bool(solution.error.isinf().all())


def test_acyclic_networks_are_never_refused() -> None:
    rng = np.random.default_rng(0)
    form, x = make(np.tril(1e3 * rng.standard_normal((30, 30)), -1))
    assert bool(equilibrium(form, x).converged.all())


@pytest.mark.parametrize(
    "solver",
    [
        PeacemanRachford(),
        PeacemanRachford(1.0),
        DouglasRachford(1.0),
        Anderson(PeacemanRachford(1.0)),
        Newton(),
        Refined(),
        Auto(),
    ],
    ids=repr,
)
@pytest.mark.parametrize("flag", [True, False])
def test_a_singular_resolvent_is_no_error_of_torch(solver: Solver, flag: bool) -> None:
    """W = 2 I and α = 1 make I + α (I - W) = 0."""
    form, x = make(2 * np.eye(3))
    settings = Settings(solver, require_well_posed=False, raise_on_failure=flag)
    try:
        solution = equilibrium(form, x, settings)
    except EquilipError:
        return
    assert not flag or bool(solution.converged.all())


def test_solvers_that_ask_for_more_say_so() -> None:
    cyclic = problem("lben of 3")
    with pytest.raises(InputError, match="without cycles"):
        equilibrium(cyclic.form, cyclic.x, Settings(Substitution()))
    with pytest.raises(IllPosedError, match="l-infinity"):
        equilibrium(problem("lben of 40").form, problem("lben of 40").x, Settings(Averaged()))
    form, x = make(np.array([[2.0]]))
    with pytest.raises(IllPosedError):
        equilibrium(form, x, Settings(ForwardBackward(), require_well_posed=False))


# ---------------------------------------------------------------- the fault of some batched LU routines


@pytest.mark.parametrize("n", [128, 129, 200])
def test_no_large_batch_of_matrices_reaches_lapack(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(n)
    V, S = rng.standard_normal((2, n, n)) / np.sqrt(n)
    W = np.eye(n) - (V.T @ V + 0.5 * np.eye(n) + S.T - S)
    form, x = make(W, lam=np.ones(n), batch=3)
    shapes: list[torch.Size] = []
    for name in ("solve_ex", "solve", "inv", "inv_ex", "lu_factor", "lu_factor_ex"):
        original = getattr(torch.linalg, name)

        def record(
            A: torch.Tensor, *rest: object, original: Callable[..., object] = original, **more: object
        ) -> object:
            shapes.append(A.shape)
            return original(A, *rest, **more)

        monkeypatch.setattr(torch.linalg, name, record)
    solution = equilibrium(form, x, Settings(Newton(warm=2), tolerance=1e-10))
    batched = [shape for shape in shapes if len(shape) > 2]
    assert all(shape[-1] <= 128 for shape in batched)
    assert bool(batched) == (n <= 128)
    assert any(len(shape) == 2 for shape in shapes)
    assert float(solution.error.max()) < 1e-6
    assert newton_module.LARGEST_BATCHED == 128


def test_singular_newton_matrices_are_no_exception() -> None:
    """(I - J W) can be singular on the way for a W that is not well-posed."""
    form, x = make(np.array([[1.0, 0.0], [0.0, 1.0]]))
    solution = equilibrium(form, x, Settings(Newton(), require_well_posed=False, raise_on_failure=False))
    assert not bool(solution.converged.all()) or bool(solution.z.isfinite().all())


# ---------------------------------------------------------------- inputs


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "gradient", [Implicit(), JacobianFree(), Phantom(), Unrolled()], ids=lambda g: type(g).__name__
)
@pytest.mark.parametrize("case", ["lben of 3", "acyclic of 9", "W = 0"])
def test_inputs_that_are_not_finite_are_refused(value: float, gradient: object, case: str) -> None:
    own = problem(case)
    x = own.x.clone()
    x[1, 0] = value
    with pytest.raises(InputError, match="NaN or infinity"):
        equilibrium(own.form, x, Settings(gradient=gradient))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["W", "U", "b"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("required", [True, False])
def test_weights_that_are_not_finite_are_refused(name: str, value: float, required: bool) -> None:
    own = problem("lben of 3")
    parts = {"W": own.form.W.dense(), "U": own.form.U.dense(), "b": own.form.b}
    parts[name] = parts[name].clone()
    parts[name].view(-1)[0] = value
    form = dense(**parts, C=own.form.C.dense(), c=own.form.c, lam=own.form.lam)
    with pytest.raises(InputError, match="NaN or infinity"):
        equilibrium(form, own.x, Settings(require_well_posed=required))


def test_inputs_that_overflow_in_a_sum_are_not_refused() -> None:
    """A sum of finite numbers that overflows is no reason."""
    form, _ = make(np.zeros((2, 2)), p=2)
    x = torch.full((3, 2), 1e308, dtype=F64)
    form = dense(
        form.W.dense(),
        torch.eye(2, dtype=F64),
        torch.zeros(2, dtype=F64),
        torch.eye(2, dtype=F64),
        torch.zeros(2, dtype=F64),
    )
    assert torch.equal(equilibrium(form, x).z, x)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (4, 4), (2, 4, 3), (), (0,)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    own = problem("lben of 3")
    with pytest.raises(InputError, match=r"shape \(batch, 3\)"):
        equilibrium(own.form, torch.zeros(shape, dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.float16])
def test_inputs_of_another_format_are_refused(dtype: torch.dtype) -> None:
    own = problem("lben of 3")
    with pytest.raises(InputError, match=str(dtype)):
        equilibrium(own.form, own.x.to(dtype))


@pytest.mark.parametrize(
    "start",
    [torch.zeros(4, 2, dtype=F64), torch.zeros(3, 3, dtype=F64), torch.zeros(3, dtype=F64), torch.zeros(4, 3)],
    ids=lambda t: f"{tuple(t.shape)} {t.dtype}",
)
def test_starts_that_do_not_fit_are_refused(start: torch.Tensor) -> None:
    own = problem("lben of 3")
    with pytest.raises(InputError, match="start"):
        equilibrium(own.form, own.x, start=start)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Settings(tolerance=0.0),
        lambda: Settings(tolerance=-1e-3),
        lambda: Settings(tolerance=1.0),
        lambda: Settings(tolerance=math.nan),
        lambda: Settings(max_iterations=0),
        lambda: Implicit(0.0),
        lambda: Implicit(math.nan),
        lambda: Phantom(steps=0),
        lambda: Phantom(damping=0.0),
        lambda: Phantom(damping=1.5),
        lambda: PeacemanRachford(0.0),
        lambda: PeacemanRachford(-1.0),
        lambda: PeacemanRachford(math.nan),
        lambda: DouglasRachford(-1.0),
        lambda: Refined(-1.0),
        lambda: ForwardBackward(0.0),
        lambda: ForwardBackward(math.nan),
        lambda: Averaged(0.0),
        lambda: Averaged(1.5),
    ],
)
def test_choices_without_sense_are_refused(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        wrong()


def test_every_failure_has_a_name() -> None:
    assert issubclass(ToleranceError, ConvergenceError)
    assert issubclass(ConvergenceError, EquilipError)
    assert issubclass(ConvergenceError, RuntimeError)
    assert issubclass(IllPosedError, EquilipError)
    assert issubclass(IllPosedError, ValueError)
    assert ConvergenceError("x", None).solution is None


def test_nothing_wrong_is_kept_by_a_plan() -> None:
    """A plan for one W, handed another or one changed in place: right, or an error; never a wrong answer."""
    own = problem("lben of 12, skewed")
    plan = Plan(Settings(tolerance=1e-9), own.form.lam)
    equilibrium(own.form, own.x, Settings(tolerance=1e-9), plan=plan)
    W = own.form.W.dense().clone()
    changed: Form = dense(0.5 * W, own.form.U.dense(), own.form.b, own.form.C.dense(), own.form.c)
    solution = equilibrium(changed, own.x, Settings(tolerance=1e-9), plan=plan)
    assert float((solution.error / solution.z.norm(dim=1)).max()) < 1e-5
    inner = changed.W.dense()
    inner.mul_(0.3)
    try:
        solution = equilibrium(changed, own.x, Settings(tolerance=1e-9), plan=plan)
    except ConvergenceError:
        return
    assert float((solution.error / solution.z.norm(dim=1)).max()) < 1e-5


def test_the_reference_is_independent() -> None:
    """The bank's truth solves the equation to all digits of float64: what every other test here rests on."""
    for name in ("lben of 12, skewed", "huge W", "acyclic of 9"):
        own = problem(name)
        for sigma in (ReLU(), Tanh()):
            z = tensor(truth(name, sigma, F64).astype(np.float64))
            image = sigma.value(own.form.W.plus(z, own.form.bias(own.x)))
            scale = float(own.form.W.dense().abs().sum(1).max()) + 1
            assert float((image - z).abs().max()) <= 1e-15 * scale * max(float(z.abs().max()), 1.0)
