"""Networks to certify: random ones of every kind, and the published ones; and the largest slope they can have."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from equilip import activations
from equilip.activations import Activation
from equilip.form import Form, Standardisation, dense

SHARED = Path(__file__).resolve().parents[3] / "shared"
LBEN = SHARED / "reference" / "lben"

KINDS = ("lben", "monotone", "contraction", "layers", "skips", "loops")


def tensor(a: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(a, dtype=np.float64, order="C"))


def make(
    W: np.ndarray, U: np.ndarray, C: np.ndarray, D: np.ndarray | None = None, lam: np.ndarray | None = None
) -> Form:
    return dense(
        tensor(W),
        tensor(U),
        torch.zeros(W.shape[0], dtype=torch.float64),
        tensor(C),
        torch.zeros(C.shape[0], dtype=torch.float64),
        D=None if D is None else tensor(D),
        lam=None if lam is None else tensor(lam),
    )


def lben(
    rng: np.random.Generator, n: int, p: int, q: int, gamma: float = 1.0, *, spread: float = 0.5, epsilon: float = 0.1
) -> Form:
    """A Lipschitz-bounded equilibrium network with its declared bound (mathematics 1.3)."""
    V, S = (rng.uniform(-1, 1, (n, n)) / np.sqrt(n) for _ in range(2))
    U, C = rng.uniform(-1, 1, (n, p)) / np.sqrt(p), rng.uniform(-1, 1, (q, n)) / np.sqrt(n)
    psi = np.exp(spread * rng.standard_normal(n))
    head = (C.T @ C + U @ U.T / psi[:, None] / psi) / (2 * gamma)
    W = np.eye(n) - psi[:, None] * (V.T @ V + epsilon * np.eye(n) + S.T - S + head)
    return make(W, U, C, lam=1 / psi)


def random_form(rng: np.random.Generator, kind: str, n: int, p: int, q: int, scale: float = 1.0) -> Form:
    """A well-posed network of that kind; ``scale`` multiplies U and divides C, as a change of units would."""
    U, C = rng.standard_normal((n, p)) * scale, rng.standard_normal((q, n)) / scale
    D = rng.standard_normal((q, p)) if rng.random() < 0.4 else None
    lam = None
    if kind == "lben":
        form = lben(rng, n, p, q, float(np.exp(rng.uniform(-2, 2))))
        return replace(form, U=make(form.W.dense().numpy(), form.U.dense().numpy(), C).U)
    if kind == "monotone":
        A, B = rng.standard_normal((2, n, n))
        W = 0.5 * np.eye(n) - A.T @ A + B - B.T
    elif kind == "contraction":
        T, d = rng.standard_normal((n, n)), rng.standard_normal(n)
        W = np.exp(-d)[:, None] * T * np.exp(d) + np.diag(0.3 - np.abs(T).sum(axis=1))
    elif kind == "layers":
        W = np.tril(rng.standard_normal((n, n)), -1) * (np.arange(n)[:, None] - np.arange(n) <= 2)
    elif kind == "skips":
        W = np.tril(rng.standard_normal((n, n)), -1)
    else:
        lam = np.exp(2 * rng.standard_normal(n))
        V, S = rng.standard_normal((2, n, n)) / np.sqrt(n)
        W = np.eye(n) - (V.T @ V + 0.05 * np.eye(n) + S - S.T) / lam[:, None]
        lam = None  # nobody knows them
    return make(W, U, C, D, lam)


def numbers(form: Form, *, raw: bool = False) -> tuple[np.ndarray, ...]:
    """W, U, C, D and the slope bounds as float64 arrays; for raw inputs, columns divided by std."""
    W, U, C, D = (getattr(form, name).dense().double().numpy() for name in ("W", "U", "C", "D"))
    if raw and form.standardisation is not None:
        std = form.standardisation.std.double().numpy()
        U, D = U / std, D / std
    lower, upper = (t.numpy() for t in activations.slope_bounds(form.activation, form.hidden_size))
    return W, U, C, D, lower, upper


def worst_slope(form: Form, *, raw: bool = False, row: np.ndarray | None = None, limit: int = 1024) -> float:
    """The largest norm of C S (I - W S)^-1 U + D over the corners S of the slopes' box (up to ``limit`` of them).

    Any corner may be the network's slope at some bias, and a certificate covers them all.
    """
    W, U, C, D, lower, upper = numbers(form, raw=raw)
    if row is not None:
        C, D = row @ C, row @ D
    n = W.shape[0]
    if 2**n <= limit:
        corners = np.array(list(product((0.0, 1.0), repeat=n))).reshape(-1, n)
    else:
        corners = (np.random.default_rng(n).random((limit, n)) < 0.5).astype(float)
    slopes = lower + (upper - lower) * corners
    inner = np.linalg.solve(np.eye(n) - W * slopes[:, None, :], np.broadcast_to(U, (len(slopes), *U.shape)))
    jacobians = np.atleast_2d(C) @ (slopes[:, :, None] * inner) + np.atleast_2d(D)
    return float(np.linalg.norm(jacobians, 2, axis=(1, 2)).max())


def lmi(form: Form, lam: np.ndarray, gamma: float, *, raw: bool = False) -> np.ndarray:
    """The matrix of mathematics 9.3 as it stands there, rho = gamma²; ``raw``: its input block is rho diag(std²)."""
    W, U, C, D, lower, upper = numbers(form)
    n, p = U.shape
    std = form.standardisation.std.double().numpy() if raw and form.standardisation is not None else np.ones(p)
    N, E, Y = np.hstack([W, U]), np.hstack([np.eye(n), np.zeros((n, p))]), np.hstack([C, D])
    cross = E.T @ ((lam * (lower + upper))[:, None] * N)
    corner = np.diag(np.concatenate([np.zeros(n), gamma**2 * std**2]))
    return (
        corner
        - Y.T @ Y
        + 2 * E.T @ (lam[:, None] * E)
        + 2 * N.T @ ((lam * lower * upper)[:, None] * N)
        - (cross + cross.T)
    )


def smallest_eigenvalue(matrix: np.ndarray) -> float:
    """Of the matrix scaled to a unit diagonal."""
    scale = 1 / np.sqrt(np.diagonal(matrix))
    return float(np.linalg.eigvalsh(matrix * scale[:, None] * scale)[0])


def some_activation(index: int) -> Activation:
    return (
        activations.ReLU(),
        activations.Tanh(),
        activations.LeakyReLU(0.2),
        activations.Sigmoid(),
        activations.LeakyReLU(0.9),
        activations.Identity(),
    )[index]


def published(name: str) -> Form:
    """A dense network of shared/reference, in float64; skips the test where it is not there."""
    path = LBEN / f"{name}.{'mat' if 'lmt' in name else 'params'}"
    if not path.exists():
        pytest.skip(f"the published weights {path} are not here")
    if "lmt" in name:
        import scipy.io

        mat = scipy.io.loadmat(path)
        first, second = mat["W1"], mat["W2"]
        return make(np.zeros((80, 80)), first, second)
    state = torch.load(path, weights_only=True, map_location="cpu")
    d = {key.removeprefix("mon.linear_module.").removesuffix(".weight"): v.double() for key, v in state.items()}
    mnist = name.startswith("mnist")
    mean, std = (0.1307, 0.3081) if mnist else (None, None)
    if mnist:
        standardisation = Standardisation(torch.full((784,), mean).double(), torch.full((784,), std).double())
    else:
        per_channel = torch.tensor([[0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]]).double()
        standardisation = Standardisation(*per_channel.repeat_interleave(1024, dim=1))
    n = next(d[key].shape[0] for key in ("V", "A", "Wp") if key in d)
    eye = torch.eye(n).double()
    if "_lip" in name:
        gamma = float(name.split("_lip")[1].split("_")[0])
        Psi, U, C = d["psi"].exp(), d["B"], d["G"]
        head = (C.T @ C + U @ U.T / Psi[:, None] / Psi) / (2 * gamma)
        W = eye - Psi[:, None] * (d["V"].T @ d["V"] + eye + d["S"].T - d["S"] + head)
        lam = 1 / Psi
        b, c = d["B.bias"], d["G.bias"]
    else:
        U, C, b, c = d["U"], d["Wout"], d["U.bias"], d["Wout.bias"]
        if "ode" in name:
            W, lam = eye - d["Lambda"][:, None] * (d["V"].T @ d["V"] + eye + d["S"].T - d["S"]), None
        elif "uncon" in name:
            W, lam = d["Wp"], None
        else:
            W, lam = d["B"] - d["A"].T @ d["A"] - d["B"].T, None
    return dense(W, U, b, C, c, lam=lam, standardisation=standardisation)
