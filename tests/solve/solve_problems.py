"""A bank of equations, and their equilibria to 18 digits by a method of its own: dense Newton along a homotopy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from equilip.activations import (
    ELU,
    Activation,
    Blockwise,
    HardTanh,
    Identity,
    LeakyReLU,
    ReLU,
    Sigmoid,
    Softplus,
    Tanh,
    blocks,
)
from equilip.form import Form, dense
from equilip.solve import (
    Anderson,
    Auto,
    Averaged,
    DouglasRachford,
    ForwardBackward,
    Jacobi,
    Newton,
    PeacemanRachford,
    Refined,
    Solver,
    Substitution,
)

Array = NDArray[np.float64]
Long = NDArray[np.longdouble]

ACTIVATIONS: tuple[Activation, ...] = (
    ReLU(),
    LeakyReLU(0.2),
    Tanh(),
    Softplus(),
    ELU(0.7),
    HardTanh(-0.5, 1.0),
    Sigmoid(),
    Identity(),
)


@dataclass(frozen=True)
class Problem:
    """One equation and its inputs, float64, relu. ``contracting``: in a weighted ℓ∞ norm; ``gentle``: of a small
    condition number, so that forward-backward ends soon."""

    name: str
    form: Form
    x: torch.Tensor
    contracting: bool = False
    acyclic: bool = False
    gentle: bool = False


def tensor(a: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(a, dtype=np.float64, order="C"))


def lben_matrix(
    rng: np.random.Generator, n: int, *, spread: float = 0.5, skew: float = 1.0, epsilon: float = 0.3
) -> tuple[Array, Array]:
    """W and Λ with 2Λ - ΛW - WᵀΛ = 2 (VᵀV + ε) (mathematics 1.3)."""
    V, S = rng.standard_normal((2, n, n)) / np.sqrt(n)
    psi = np.exp(spread * rng.standard_normal(n))
    return np.eye(n) - psi[:, None] * (V.T @ V + epsilon * np.eye(n) + skew * (S.T - S)), 1 / psi


def contraction_matrix(rng: np.random.Generator, n: int) -> Array:
    """Contracting in a weighted ℓ∞ norm by the factor 0.5 (mathematics 3.3), by no multipliers that one is told."""
    T, d = rng.standard_normal((n, n)), 0.5 * rng.standard_normal(n)
    return np.exp(-d)[:, None] * T * np.exp(d) + np.diag(0.5 - np.abs(T).sum(axis=1))


def acyclic_matrix(rng: np.random.Generator, n: int) -> Array:
    """Strictly triangular, its neurons in a scrambled order."""
    order = rng.permutation(n)
    return np.tril(rng.standard_normal((n, n)), -1)[np.ix_(order, order)]


def make(
    W: Array, *, lam: Array | None = None, p: int = 3, q: int = 2, scale: float = 1.0, seed: int = 0, batch: int = 4
) -> tuple[Form, torch.Tensor]:
    rng = np.random.default_rng(1000 + seed)
    n = W.shape[0]
    form = dense(
        tensor(W),
        tensor(rng.standard_normal((n, p))),
        tensor(scale * rng.standard_normal(n)),
        tensor(rng.standard_normal((q, n))),
        tensor(scale * rng.standard_normal(q)),
        D=tensor(rng.standard_normal((q, p))) if seed % 2 else None,
        lam=None if lam is None else tensor(lam),
    )
    return form, tensor(scale * rng.standard_normal((batch, p)))


@cache
def bank() -> tuple[Problem, ...]:
    rng = np.random.default_rng(0)
    problems: list[Problem] = []

    def add(name: str, W: Array, lam: Array | None = None, **rest: object) -> None:
        flags = {k: rest.pop(k) for k in ("contracting", "acyclic", "gentle") if k in rest}
        form, x = make(W, lam=lam, seed=len(problems), **rest)  # type: ignore[arg-type]
        problems.append(Problem(name, form, x, **flags))  # type: ignore[arg-type]

    add("lben of 3", *lben_matrix(rng, 3))
    add("lben of 12, skewed", *lben_matrix(rng, 12, skew=5.0))
    add("lben of 10, stiff", *lben_matrix(rng, 10, spread=1.5, epsilon=0.02))
    add("lben of 40", *lben_matrix(rng, 40))
    add("gentle", -0.3 * rng.standard_normal((4, 4)) - 0.5 * np.eye(4), np.ones(4), gentle=True)
    hidden, _ = lben_matrix(rng, 6, spread=1.0, skew=2.0)
    add("well-posed by multipliers unknown", hidden)
    A, B = rng.standard_normal((2, 15, 15)) / 4
    add("monotone of 15", 0.8 * np.eye(15) - A.T @ A + B - B.T, np.ones(15))
    add("contracting of 8", contraction_matrix(rng, 8), contracting=True)
    add("acyclic of 9", acyclic_matrix(rng, 9), acyclic=True, contracting=True)
    add("one neuron", np.array([[-3.0]]), contracting=True, gentle=True)
    add("one neuron, no loop", np.array([[0.0]]), contracting=True, gentle=True, acyclic=True)
    add("W = 0", np.zeros((5, 5)), contracting=True, gentle=True, acyclic=True)
    rows = contraction_matrix(rng, 6)
    rows[[1, 4]] = 0.0
    add("rows of zero", rows, contracting=True)
    K = np.eye(6) + 0.2 * rng.standard_normal((6, 6))
    add("huge W", np.eye(6) - 1e6 * K, np.ones(6), gentle=True)
    add("tiny W", 1e-9 * rng.standard_normal((6, 6)), contracting=True, gentle=True)
    add("huge inputs", *lben_matrix(rng, 5), scale=1e12)
    add("tiny inputs", *lben_matrix(rng, 5), scale=1e-12)
    add("one sample", *lben_matrix(rng, 5), batch=1)
    add("no samples", *lben_matrix(rng, 5), batch=0)
    add("no neurons", np.zeros((0, 0)), contracting=True, acyclic=True, gentle=True)
    return tuple(problems)


def problem(name: str) -> Problem:
    return next(p for p in bank() if p.name == name)


def with_activation(form: Form, sigma: Activation) -> Form:
    return replace(form, activation=sigma)


#: Each solver, and on which problems of the bank it is at home.
SOLVERS: dict[str, Solver] = {
    "peaceman-rachford": PeacemanRachford(),
    "douglas-rachford": DouglasRachford(),
    "forward-backward": ForwardBackward(),
    "averaged": Averaged(),
    "jacobi": Jacobi(),
    "anderson": Anderson(),
    "anderson on averaged": Anderson(Averaged(), memory=3),
    "newton": Newton(),
    "refined": Refined(),
    "substitution": Substitution(),
    "auto": Auto(),
}


def at_home(name: str, own: Problem, dtype: torch.dtype) -> bool:
    if "averaged" in name or name == "jacobi":
        return own.contracting
    if name == "forward-backward":
        return own.gentle
    if name == "substitution":
        return own.acyclic
    return name != "refined" or dtype == torch.float64


# ---------------------------------------------------------------- the truth


def value_and_slope(sigma: Activation, s: Long) -> tuple[Long, Long]:
    one, zero = np.ones_like(s), np.zeros_like(s)
    match sigma:
        case ReLU():
            return np.maximum(s, 0), (s > 0) * one
        case LeakyReLU():
            a = np.longdouble(sigma.negative_slope)
            return np.where(s > 0, s, a * s), np.where(s > 0, one, a * one)
        case HardTanh():
            return np.clip(s, sigma.lower, sigma.upper), ((s > sigma.lower) & (s < sigma.upper)) * one
        case Tanh():
            value = np.tanh(s)
            return value, 1 - value * value
        case Sigmoid():
            value = np.where(s > 0, 1 / (1 + np.exp(-np.abs(s))), np.exp(-np.abs(s)) / (1 + np.exp(-np.abs(s))))
            return value, value * (1 - value)
        case Softplus():
            return np.logaddexp(s, zero), 1 / (1 + np.exp(-np.clip(s, -5000, None)))
        case ELU():
            a, low = np.longdouble(sigma.alpha), np.minimum(s, 0)
            return np.where(s > 0, s, a * np.expm1(low)), np.where(s > 0, one, a * np.exp(low))
        case Blockwise():
            done, start = [], 0
            for own, size in blocks(sigma, s.shape[-1]):
                done.append(value_and_slope(own, s[..., start : start + size]))
                start += size
            return np.concatenate([d[0] for d in done], -1), np.concatenate([d[1] for d in done], -1)
    return s, one


def newton(W: Long, bias: Long, sigma: Activation, z: Long, steps: int) -> tuple[Long, np.longdouble]:
    """Damped Newton steps on z = σ(W z + bias) for one sample; the point and its residual's norm."""

    def residual(point: Long) -> tuple[Long, Long]:
        value, slope = value_and_slope(sigma, W @ point + bias)
        return value - point, slope

    r, j = residual(z)
    size = np.sqrt(np.sum(r * r))
    for _ in range(steps):
        matrix = (np.eye(len(z)) - j[:, None] * W).astype(np.float64)
        delta = np.linalg.solve(matrix, (r / (size or 1)).astype(np.float64)) * size
        length = np.longdouble(1.0)
        for _ in range(12):
            after, slope = residual(z + length * delta)
            smaller = np.sqrt(np.sum(after * after))
            if smaller < size:
                z, r, j, size = z + length * delta, after, slope, smaller
                break
            length /= 2
        else:
            break
        if size == 0:
            break
    return z, size


def split(W: Long, bias: Long, sigma: Activation) -> Long:
    """Douglas-Rachford steps for activations of straight pieces, whose proximal maps are known; a start for Newton."""
    n = len(bias)
    size = np.linalg.norm((np.eye(n) - W).astype(np.float64), 2)
    alpha = 1 / float(size) if size else 1.0

    def prox(v: Long) -> Long:
        if isinstance(sigma, LeakyReLU):
            a = sigma.negative_slope
            return np.where(v > 0, v, v * (a / (a + alpha * (1 - a))))
        return value_and_slope(sigma, v)[0]

    inverse = np.linalg.inv(((1 + alpha) * np.eye(n) - alpha * W).astype(np.float64)).astype(np.longdouble)
    t = np.zeros_like(bias)
    for _ in range(400):
        z = prox(t)
        t = t + inverse @ (2 * z - t + alpha * bias) - z
    return prox(t)


def equilibria(form: Form, x: torch.Tensor) -> Long:
    """The equilibrium of every row of x, (batch, n), to about 18 digits: Newton along z = σ(τ W z + bias), τ -> 1.

    I - τ W keeps the multipliers of I - W, so the path exists and is the only one.
    """
    f, x = form.to(torch.float64), x.to(torch.float64)
    W = f.W.dense().numpy().astype(np.longdouble)
    U, b = f.U.dense().numpy().astype(np.longdouble), f.b.numpy().astype(np.longdouble)
    xi = x.numpy().astype(np.longdouble)
    if f.standardisation is not None:
        mean, std = (t.numpy().astype(np.longdouble) for t in (f.standardisation.mean, f.standardisation.std))
        xi = (xi - mean) / std
    bias = xi @ U.T + b
    found = np.zeros((len(xi), W.shape[0]), dtype=np.longdouble)
    if not W.shape[0]:
        return found
    for row, own in enumerate(bias):
        scale = float(np.abs(own).max()) + 1e-300
        for parts in (1, 10, 50, 250):
            straight = isinstance(f.activation, ReLU | LeakyReLU | HardTanh | Identity)
            z = split(W, own, f.activation) if straight else np.zeros_like(own)
            for share in np.geomspace(1 / (10 + np.linalg.norm(W.astype(np.float64))), 1, parts + 1)[
                -1 if straight else 0 :
            ]:
                z, size = newton(W * (share if share < 1 else 1), own, f.activation, z, 60)
            if size <= 1e-17 * max(float(np.abs(W).max()), 1.0) * (float(np.abs(z).max()) + 1e-3 * scale):
                break
        else:
            raise AssertionError(f"no reference solution: residual {size}")
        found[row] = z
    return found


@cache
def truth(name: str, sigma: Activation, dtype: torch.dtype) -> Long:
    own = problem(name)
    return equilibria(with_activation(own.form, sigma).to(dtype), own.x.to(dtype))


def distance(z: torch.Tensor, reference: Long) -> Array:
    """‖z - z*‖₂ of every sample, rounded once."""
    difference = z.detach().double().numpy().astype(np.longdouble) - reference
    return np.sqrt(np.sum(difference * difference, axis=-1)).astype(np.float64)


def condition(form: Form) -> float:
    """How many times the residual an error can be, with the form's own multipliers (or 1): from mathematics 10.3."""
    W = form.W.dense().double().numpy()
    n = W.shape[0]
    if not n:
        return 1.0
    lam = np.ones(n) if form.lam is None else form.lam.double().numpy()
    root = np.sqrt(lam)
    H = root[:, None] * (np.eye(n) - W) / root
    mu = float(np.linalg.eigvalsh(0.5 * (H + H.T))[0])
    shifted = root[:, None] * (W - 2 * np.eye(n)) / root
    return float(np.linalg.norm(shifted, 2)) / mu * float(root.max() / root.min()) if mu > 0 else np.inf
