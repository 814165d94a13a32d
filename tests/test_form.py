"""The form: what fits together, composition as functions, and a file that is exact, whole or refused."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from equilip import activations, form
from equilip.activations import ELU, Activation, Blockwise, HardTanh, LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from equilip.errors import EquilipError, FormatError, InputError
from equilip.form import Form, Standardisation, affine, compose, dense, load, pointwise, residual
from equilip.nn import Residual, Standardise, sequential_form
from equilip.operators import Dense, Zero

checked = settings(deadline=None, derandomize=True, max_examples=25)
F64 = torch.float64


def random(seed: int, *shape: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def standardisation(seed: int, p: int) -> Standardisation:
    return Standardisation(random(seed, p), random(seed + 1, p).abs() + 0.2)


def acyclic(
    seed: int,
    n: int,
    p: int,
    q: int,
    *,
    activation: Activation | None = None,
    feed: bool = False,
    units: bool = False,
    lam: bool = False,
) -> Form:
    """A form whose neurons depend only on earlier ones, so that n steps solve it exactly."""
    return dense(
        random(seed, n, n).tril(-1),
        random(seed + 1, n, p),
        random(seed + 2, n),
        random(seed + 3, q, n),
        random(seed + 4, q),
        D=random(seed + 5, q, p) if feed else None,
        activation=activation,
        lam=random(seed + 6, n).exp() if lam else None,
        standardisation=standardisation(seed + 7, p) if units else None,
    )


def run(f: Form, x: torch.Tensor) -> torch.Tensor:
    """y of an acyclic form, by its equation alone."""
    xi = f.standardise(x)
    bias = f.bias(xi)
    z = torch.zeros_like(bias)
    for _ in range(f.hidden_size):
        z = f.step(z, bias)
    return f.output(z, xi)


def numbers(f: Form) -> dict[str, torch.Tensor | None]:
    return {
        "W": f.W.dense(),
        "U": f.U.dense(),
        "b": f.b,
        "C": f.C.dense(),
        "D": None if isinstance(f.D, Zero) else f.D.dense(),
        "c": f.c,
        "lam": f.lam,
        "mean": None if f.standardisation is None else f.standardisation.mean,
        "std": None if f.standardisation is None else f.standardisation.std,
    }


def same_bits(f: Form, g: Form) -> bool:
    ours, theirs = numbers(f), numbers(g)
    return f.activation == g.activation and all(
        (a is None and b is None)
        or (
            a is not None
            and b is not None
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
        )
        for a, b in zip(ours.values(), theirs.values(), strict=True)
    )


# ---------------------------------------------------------------- what fits together


def parts(n: int = 3, p: int = 2, q: int = 4) -> dict[str, torch.Tensor]:
    return {
        "W": random(0, n, n),
        "U": random(1, n, p),
        "b": random(2, n),
        "C": random(3, q, n),
        "c": random(4, q),
        "D": random(5, q, p),
        "lam": torch.ones(n, dtype=F64),
    }


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("W", (3, 4)),
        ("W", (4, 3)),
        ("W", (2, 2)),
        ("W", (3,)),
        ("W", (3, 3, 1)),
        ("U", (2, 2)),
        ("U", (3,)),
        ("U", ()),
        ("b", (4,)),
        ("b", (3, 1)),
        ("b", (3, 2)),
        ("b", ()),
        ("C", (4, 2)),
        ("C", (3, 3)),
        ("C", (4,)),
        ("c", (3,)),
        ("c", (4, 1)),
        ("c", (4, 5)),
        ("c", ()),
        ("D", (4, 3)),
        ("D", (3, 2)),
        ("D", (4,)),
        ("lam", (2,)),
        ("lam", (3, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...]) -> None:
    assert dense(**parts()).hidden_size == 3
    with pytest.raises(InputError):
        dense(**{**parts(), name: torch.ones(shape, dtype=F64)})


def test_the_refusal_names_the_part_and_its_shape() -> None:
    with pytest.raises(InputError, match=r"C has shape \(4, 2\) where .* ask for \(4, 3\)"):
        dense(**{**parts(), "C": torch.ones(4, 2, dtype=F64)})


@pytest.mark.parametrize("name", ["W", "U", "b", "C", "c", "D"])
def test_a_form_has_one_number_format(name: str) -> None:
    with pytest.raises(InputError, match=r"float32.*float64"):
        dense(**{**parts(), name: parts()[name].float()})


def test_a_standardisation_of_another_format_or_size_is_refused() -> None:
    with pytest.raises(InputError, match="mean"):
        dense(**parts(), standardisation=standardisation(0, 3))
    with pytest.raises(InputError, match="float32"):
        dense(**parts(), standardisation=standardisation(0, 2).to(torch.float32, None))


@pytest.mark.parametrize("std", [[1.0, 0.0], [1.0, -2.0], [1.0, float("nan")]])
def test_a_standard_deviation_is_positive(std: list[float]) -> None:
    with pytest.raises(InputError, match="std must be positive"):
        Standardisation(torch.zeros(2), torch.tensor(std))


def test_mean_and_std_are_vectors_of_one_length() -> None:
    with pytest.raises(InputError, match="one length"):
        Standardisation(torch.zeros(2), torch.ones(3))
    with pytest.raises(InputError, match="vectors"):
        Standardisation(torch.zeros(()), torch.ones(()))


def test_blocks_of_activations_cover_the_neurons() -> None:
    sigma = Blockwise(((ReLU(), 2), (Tanh(), 2)))
    with pytest.raises(InputError, match="4 neurons, not 3"):
        dense(**parts(), activation=sigma)


def test_the_parts_of_the_equation() -> None:
    f = acyclic(3, 5, 4, 3, feed=True, units=True, activation=Tanh())
    x, z = random(50, 6, 4), random(51, 6, 5)
    m = numbers(f)
    xi = (x - m["mean"]) / m["std"]
    assert torch.equal(f.standardise(x), xi)
    assert torch.allclose(f.bias(xi), xi @ m["U"].mT + m["b"], rtol=1e-13)
    assert torch.allclose(f.step(z, f.bias(xi)), torch.tanh(z @ m["W"].mT + xi @ m["U"].mT + m["b"]), rtol=1e-12)
    assert torch.allclose(f.output(z, xi), z @ m["C"].mT + xi @ m["D"].mT + m["c"], rtol=1e-12)
    assert (f.hidden_size, f.in_size, f.out_size, f.dtype) == (5, 4, 3, F64)


def test_formats_and_history() -> None:
    f = acyclic(3, 5, 4, 3, feed=True, units=True, lam=True)
    assert all(t is None or t.dtype == torch.float32 for t in numbers(f.to(torch.float32)).values())
    assert same_bits(f.to(), f)
    tracked = replace(f, W=Dense(f.W.dense().clone().requires_grad_()), b=f.b.clone().requires_grad_())
    assert same_bits(tracked.detach(), f)
    assert not any(t is not None and t.requires_grad for t in numbers(tracked.detach()).values())


# ---------------------------------------------------------------- composition

SIGMAS: list[Activation] = [ReLU(), Tanh(), LeakyReLU(0.3), Softplus(), ELU(0.5), HardTanh(-0.5, 2.0), Sigmoid()]
some = st.sampled_from(SIGMAS)


@checked
@given(
    n=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    sigmas=st.tuples(some, some),
    feeds=st.tuples(st.booleans(), st.booleans()),
    units=st.tuples(st.booleans(), st.booleans()),
    seed=st.integers(0, 10_000),
)
def test_composing_forms_composes_functions(
    n: tuple[int, int],
    sizes: tuple[int, int, int],
    sigmas: tuple[Activation, Activation],
    feeds: tuple[bool, bool],
    units: tuple[bool, bool],
    seed: int,
) -> None:
    p, between, q = sizes
    f = acyclic(seed, n[0], p, between, activation=sigmas[0], feed=feeds[0], units=units[0])
    g = acyclic(seed + 20, n[1], between, q, activation=sigmas[1], feed=feeds[1], units=units[1])
    both, x = compose(f, g), random(seed + 40, 7, p)
    expected = run(g, run(f, x))
    assert both.hidden_size == sum(n)
    assert torch.allclose(run(both, x), expected, rtol=1e-12, atol=1e-12 * float(1 + expected.abs().max()))
    assert isinstance(both.D, Zero) == (not (feeds[0] and feeds[1]))


def test_composition_is_associative_as_a_function() -> None:
    f, g, h = (acyclic(30 * i, 3, 3, 3, activation=SIGMAS[i], feed=True) for i in range(3))
    x = random(99, 5, 3)
    assert torch.allclose(run(compose(compose(f, g), h), x), run(compose(f, compose(g, h)), x), rtol=1e-12)


def test_forms_that_do_not_meet_are_refused() -> None:
    with pytest.raises(InputError, match="gives 3 numbers, the second takes 2"):
        compose(acyclic(0, 2, 2, 3), acyclic(0, 2, 2, 3))


@pytest.mark.parametrize("feed", [False, True])
def test_a_residual_block_adds_its_input(feed: bool) -> None:
    f, x = acyclic(4, 6, 3, 3, feed=feed, activation=Tanh(), lam=True), random(9, 5, 3)
    block = residual(f)
    assert torch.allclose(run(block, x), x + run(f, x), rtol=1e-13, atol=1e-14)
    assert block.lam is f.lam
    with pytest.raises(InputError, match="as many outputs as inputs"):
        residual(acyclic(4, 6, 3, 2))
    with pytest.raises(InputError, match="standardisation"):
        residual(acyclic(4, 6, 3, 3, units=True))


def test_affine_and_pointwise_forms() -> None:
    weight, bias, x = random(0, 3, 4), random(1, 3), random(2, 5, 4)
    assert torch.allclose(run(affine(weight, bias), x), x @ weight.mT + bias, rtol=1e-13)
    assert torch.allclose(run(pointwise(Tanh(), 4, like=x), x), x.tanh(), rtol=1e-15)


# ---------------------------------------------------------------- networks of torch


class Sum(torch.nn.Sequential):
    """A Sequential that is none: its parts are summed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(module(x) for module in self)  # type: ignore[return-value]


class Doubled(torch.nn.Linear):
    """A Linear with a forward of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def network(name: str) -> torch.nn.Sequential:
    nn = torch.nn
    torch.manual_seed(7)
    networks: dict[str, Callable[[], torch.nn.Sequential]] = {
        "linear": lambda: nn.Sequential(nn.Linear(5, 3)),
        "two linear": lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)),
        "without bias": lambda: nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)),
        "mlp": lambda: nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3)),
        "ends in an activation": lambda: nn.Sequential(nn.Linear(5, 8), nn.Sigmoid()),
        "activations in a row": lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Softplus(), nn.Linear(4, 2)),
        "every activation": lambda: nn.Sequential(*(m for a in EVERY for m in (nn.Linear(5, 5), a)), nn.Linear(5, 3)),
        "nested": lambda: nn.Sequential(
            nn.Sequential(nn.Linear(5, 4), nn.ReLU()), nn.Sequential(nn.Sequential(nn.Linear(4, 3)), nn.ELU())
        ),
        "nested activation": lambda: nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.ReLU(), nn.Linear(4, 3))),
        "empty parts": lambda: nn.Sequential(nn.Linear(5, 4), nn.Sequential(), nn.ReLU(), nn.Linear(4, 3)),
        "standardised inside": lambda: nn.Sequential(nn.Sequential(Standardise([0.1] * 5, [0.3] * 5), nn.Linear(5, 3))),
        "residual": lambda: nn.Sequential(
            nn.Linear(5, 4), Residual(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 4)), nn.Tanh(), nn.Linear(4, 2)
        ),
        "nothing but a residual": lambda: Residual(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 5)),
        "residual of residual": lambda: nn.Sequential(
            nn.Linear(5, 4), Residual(nn.Linear(4, 4), Residual(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4)), nn.ELU())
        ),
        "preactivated residual": lambda: nn.Sequential(
            nn.Linear(5, 4), Residual(nn.ReLU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)), nn.Linear(4, 2)
        ),
        "residual of an activation": lambda: nn.Sequential(nn.Linear(5, 4), Residual(nn.Tanh())),
        "residual first": lambda: nn.Sequential(Residual(nn.Linear(5, 5), nn.ReLU()), nn.Linear(5, 2)),
        "flatten and dropout": lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(5, 6), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(), nn.Linear(6, 3), nn.Flatten()
        ),
        "standardised": lambda: nn.Sequential(
            Standardise([0.1, 0.2, 0.3, 0.4, 0.5], [1.0, 2.0, 0.3, 0.4, 5.0]), nn.Linear(5, 3), nn.ReLU()
        ),
        "flattened and standardised": lambda: nn.Sequential(
            nn.Flatten(), Standardise([0.1] * 5, [0.3] * 5), nn.Flatten(), nn.Linear(5, 3), nn.ReLU()
        ),
    }
    return networks[name]().double()


EVERY = [
    torch.nn.ReLU(),
    torch.nn.LeakyReLU(0.2),
    torch.nn.ReLU6(),
    torch.nn.Hardtanh(-0.5, 0.7),
    torch.nn.ELU(0.5),
    torch.nn.Tanh(),
    torch.nn.Sigmoid(),
    torch.nn.Softplus(),
    torch.nn.Identity(),
]
NETWORKS = [
    "linear",
    "two linear",
    "without bias",
    "mlp",
    "ends in an activation",
    "activations in a row",
    "every activation",
    "nested",
    "nested activation",
    "empty parts",
    "standardised inside",
    "residual",
    "nothing but a residual",
    "residual of residual",
    "preactivated residual",
    "residual of an activation",
    "residual first",
    "flatten and dropout",
    "standardised",
    "flattened and standardised",
]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_form_of_a_sequential_is_the_network(name: str) -> None:
    net, x = network(name), random(3, 9, 5)
    with torch.no_grad():
        f, expected = sequential_form(net.eval()), net(x)
    assert torch.allclose(run(f, x), expected, rtol=1e-12, atol=1e-12)
    # Dropout counts as in eval, whatever the mode.
    assert torch.equal(run(sequential_form(net.train()), x), run(f, x))


def test_the_form_of_a_sequential_carries_gradients() -> None:
    net, x = network("residual of residual"), random(3, 9, 5)
    ours = torch.autograd.grad(run(sequential_form(net), x).square().sum(), tuple(net.parameters()))
    theirs = torch.autograd.grad(net(x).square().sum(), tuple(net.parameters()))
    assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (lambda: torch.nn.Sequential(), "no layers"),
        (lambda: torch.nn.Sequential(torch.nn.Flatten()), "no layers"),
        (lambda: torch.nn.Sequential(torch.nn.ReLU()), "must begin with"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.GELU()), r"\[-0.128905, 1.1289"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)), "BatchNorm1d"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)), "cannot compose"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(2, 3), Residual(torch.nn.Linear(3, 2))), "as many outputs"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), Standardise([0.0] * 2, [1.0] * 2)), "must be the first"),
        (lambda: Sum(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), "forward of its own"),
        (lambda: torch.nn.Sequential(Sum(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))), "forward of its own"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(2, 2), Residual(Doubled(2, 2))), "forward of its own"),
        (lambda: torch.nn.Sequential(Standardise([0.0] * 3, [1.0] * 3), torch.nn.Linear(2, 2)), "3 inputs, not 2"),
    ],
)
def test_networks_that_are_no_form(net: Callable[[], torch.nn.Sequential], match: str) -> None:
    with pytest.raises(InputError, match=match):
        sequential_form(net())


# ---------------------------------------------------------------- the file


@checked
@given(
    n=st.integers(0, 5),
    p=st.integers(1, 4),
    q=st.integers(1, 4),
    feed=st.booleans(),
    units=st.booleans(),
    lam=st.booleans(),
    sigma=some,
    single=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_a_saved_form_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory,
    n: int,
    p: int,
    q: int,
    feed: bool,
    units: bool,
    lam: bool,
    sigma: Activation,
    single: bool,
    seed: int,
) -> None:
    f = acyclic(seed, n, p, q, feed=feed, units=units, lam=lam, activation=sigma)
    f = f.to(torch.float32) if single else f
    path = tmp_path_factory.mktemp("form") / "form.safetensors"
    digest = f.save(path)
    back = load(path)
    assert same_bits(f, back)
    assert digest == f.sha256 == back.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_extreme_numbers_come_back() -> None:
    extreme = torch.tensor([0.0, -0.0, 5e-324, -2.2e-308, 1.7976931348623157e308, 1 / 3], dtype=F64)
    f = dense(torch.diag(extreme), torch.eye(6, dtype=F64), extreme, torch.eye(6, dtype=F64), extreme)
    assert same_bits(f, _through_bytes(f))


def _through_bytes(f: Form) -> Form:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        f.save(Path(folder) / "f")
        return load(Path(folder) / "f")


def test_activations_of_many_kinds_come_back() -> None:
    sigma = Blockwise(((LeakyReLU(1 / 3), 2), (HardTanh(-0.1, 0.3), 1), (ELU(0.7), 1), (Sigmoid(), 1)))
    f = acyclic(0, 5, 2, 2, activation=sigma)
    assert _through_bytes(f).activation == sigma


def test_transposed_and_shared_tensors_can_be_saved() -> None:
    square = random(0, 3, 3)
    f = dense(square.mT, square, square[0], square.mT, square[:, 0], D=square)
    assert same_bits(f, _through_bytes(f))
    assert same_bits(pointwise(Tanh(), 3, like=square), _through_bytes(pointwise(Tanh(), 3, like=square)))


def test_the_digest_is_stable() -> None:
    """Fixed numbers, made without any random generator: this digest must not change between versions."""
    n = torch.arange(4, dtype=F64).reshape(2, 2) / 8
    f = dense(n, n, n[0], n, n[1], D=n, lam=n[1] + 1, activation=Tanh(), standardisation=Standardisation(n[0], n[1]))
    assert f.sha256 == f.sha256 == replace(f).sha256
    assert f.detach().sha256 == f.sha256
    assert f.sha256 == "6f5d50600c6e5b473783acc6a1bbcd0d03e88b856397262c13ce0b4cb0e100bb"


def test_the_digest_changes_with_every_number() -> None:
    f = acyclic(0, 3, 2, 2, feed=True, units=True, lam=True, activation=LeakyReLU(0.25))
    seen = {f.sha256}
    stored = {name: t for name, t in numbers(f).items() if t is not None}
    changes = 0
    for name, tensor in stored.items():
        for index in range(tensor.numel()):
            other = tensor.clone()
            other.view(-1)[index] = torch.nextafter(other.view(-1)[index], torch.tensor(torch.inf, dtype=F64))
            own = {**stored, name: other}
            units = Standardisation(own.pop("mean"), own.pop("std"))
            seen.add(dense(**own, standardisation=units, activation=f.activation).sha256)
            changes += 1
    for variant in (
        replace(f, activation=LeakyReLU(0.25 + 2**-52)),
        replace(f, activation=ReLU()),
        replace(f, lam=None),
        replace(f, standardisation=None),
        replace(f, D=Zero((2, 2), F64, torch.device("cpu"))),
        replace(f, D=Dense(torch.zeros(2, 2, dtype=F64))),
        f.to(torch.float32),
    ):
        seen.add(variant.sha256)
        changes += 1
    assert len(seen) == changes + 1


@pytest.mark.parametrize("name", ["W", "U", "b", "C", "c", "D", "lam"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_not_saved(tmp_path: Path, name: str, value: float) -> None:
    broken = parts()
    broken[name] = broken[name].clone()
    broken[name].view(-1)[-1] = value
    with pytest.raises(InputError, match=f"{name} holds NaN or infinity"):
        dense(**broken).save(tmp_path / "form")
    assert list(tmp_path.iterdir()) == []


def rewritten(
    path: Path,
    *,
    tensors: dict[str, torch.Tensor | None] | None = None,
    header: Callable[[dict[str, object]], object] | None = None,
    metadata: dict[str, str] | None = None,
) -> None:
    """Change parts of a saved form."""
    with safetensors.safe_open(path, framework="pt") as file:
        own = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        meta = json.loads(file.metadata()["equilip"])
    own |= tensors or {}
    if header is not None:
        meta = header(meta)
    own = {name: t.contiguous() for name, t in own.items() if t is not None}
    safetensors.torch.save_file(own, path, metadata={"equilip": json.dumps(meta)} if metadata is None else metadata)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "form.safetensors"
    acyclic(0, 3, 2, 2, feed=True, units=True, lam=True, activation=LeakyReLU(0.25)).save(path)
    return path


def test_every_truncation_is_refused(saved: Path) -> None:
    content = saved.read_bytes()
    for length in [*range(40), *range(40, len(content), 37), len(content) - 1]:
        saved.write_bytes(content[:length])
        with pytest.raises(FormatError):
            load(saved)
    saved.write_bytes(content + b"\0")
    with pytest.raises(FormatError):
        load(saved)


def test_flipped_bits_are_refused_or_are_another_form(saved: Path) -> None:
    """Never an error without a name, and never the old digest."""
    content, digest = bytearray(saved.read_bytes()), load(saved).sha256
    refused = 0
    for position in range(0, len(content), 5):
        for bit in (0, 6):
            altered = content.copy()
            altered[position] ^= 1 << bit
            saved.write_bytes(altered)
            try:
                back = load(saved)
            except FormatError:
                refused += 1
            else:
                assert back.sha256 != digest
    assert refused > 100


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x04\x95" + b"\0" * 100,
        b"\xff" * 64,
        (8).to_bytes(8, "little") + b"{}      ",
    ],
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="foreign"):
        load(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="does not exist"):
        load(tmp_path / "nothing")
    with pytest.raises(FormatError):
        load(tmp_path)


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"W": torch.ones(2, 2)}, tmp_path / "a")
    safetensors.torch.save_file({"W": torch.ones(2, 2)}, tmp_path / "b", metadata={"format": "pt"})
    for name in ("a", "b"):
        with pytest.raises(FormatError):
            load(tmp_path / name)


NAN, ONES = torch.tensor([1.0, float("nan")], dtype=F64), torch.ones(2, dtype=F64)


@pytest.mark.parametrize(
    "tensors",
    [
        {"W": None},
        {"c": None},
        {"extra": ONES},
        {"b": ONES},
        {"b": torch.ones(3, 1, dtype=F64)},
        {"b": torch.ones((), dtype=F64)},
        {"c": torch.ones(2, 1, dtype=F64)},
        {"c": NAN},
        {"c": ONES.float()},
        {"c": ONES.half()},
        {"c": ONES.long()},
        {"D": torch.ones(3, 2, dtype=F64)},
        {"U": torch.ones(3, dtype=F64)},
        {"lam": torch.zeros(3, dtype=F64)},
        {"lam": -torch.ones(3, dtype=F64)},
        {"lam": torch.ones(2, dtype=F64)},
        {"mean": None},
        {"std": None},
        {"std": torch.tensor([1.0, -1.0], dtype=F64)},
        {"mean": torch.ones(3, dtype=F64), "std": torch.ones(3, dtype=F64)},
    ],
    ids=lambda d: ",".join(f"{k}={None if v is None else tuple(v.shape)}" for k, v in d.items()),
)
def test_altered_tensors_are_refused(saved: Path, tensors: dict[str, torch.Tensor | None]) -> None:
    rewritten(saved, tensors=tensors)
    with pytest.raises(FormatError):
        load(saved)


@pytest.mark.parametrize(
    "header",
    [
        lambda h: {**h, "format": "equilip.form/2"},
        lambda h: {**h, "format": None},
        lambda h: {k: v for k, v in h.items() if k != "format"},
        lambda h: {k: v for k, v in h.items() if k != "activation"},
        lambda h: {**h, "activation": []},
        lambda h: {**h, "activation": "relu"},
        lambda h: {**h, "activation": [{"kind": "relu", "size": 4}]},
        lambda h: {**h, "activation": [{"kind": "relu", "size": 2}]},
        lambda h: {**h, "activation": [{"kind": "relu", "size": 4}, {"kind": "tanh", "size": -1}]},
        lambda h: {**h, "activation": [{"kind": "gelu", "size": 3}]},
        lambda h: {**h, "activation": [{"kind": "leaky_relu", "size": 3, "negative_slope": "0x1p99999"}]},
        lambda h: {**h, "operators": {**h["operators"], "W": "convolution"}},  # type: ignore[dict-item]
        lambda h: {**h, "operators": {**h["operators"], "D": "zero"}},  # type: ignore[dict-item]
        lambda h: {**h, "operators": 3},
        lambda h: {k: v for k, v in h.items() if k != "operators"},
        lambda h: [h],
        lambda h: 7,
        lambda h: None,
    ],
)
def test_altered_headers_are_refused(saved: Path, header: Callable[[dict[str, object]], object]) -> None:
    rewritten(saved, header=header)
    with pytest.raises(FormatError):
        load(saved)


@pytest.mark.parametrize("text", ["", "{", "[" * 200_000, "\ud7ff", "NaN"])
def test_headers_that_are_no_json_are_refused(saved: Path, text: str) -> None:
    rewritten(saved, metadata={"equilip": text})
    with pytest.raises(FormatError):
        load(saved)


def test_the_rewriting_of_these_tests_is_faithful(saved: Path) -> None:
    """Unchanged parts load, so what is refused above is refused for what was changed."""
    rewritten(saved)
    assert load(saved).hidden_size == 3


def test_the_newest_whole_file_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "form.safetensors"
    old = acyclic(0, 3, 2, 2)
    old.save(path)

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    for name in ("fdopen", "replace", "chmod"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="the disk is full"):
                acyclic(1, 3, 2, 2).save(path)
        assert [p.name for p in tmp_path.iterdir()] == ["form.safetensors"]
        assert same_bits(load(path), old)
    acyclic(1, 3, 2, 2).save(path)
    assert same_bits(load(path), acyclic(1, 3, 2, 2))
    assert [p.name for p in tmp_path.iterdir()] == ["form.safetensors"]


def test_nothing_is_left_behind_by_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        acyclic(1, 3, 2, 2).save(tmp_path / "form")
    assert list(tmp_path.iterdir()) == []


def test_saved_files_are_as_readable_as_any_other(tmp_path: Path) -> None:
    acyclic(1, 3, 2, 2).save(tmp_path / "form")
    (tmp_path / "other").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("form", "other")]
    assert modes[0] == modes[1]


def test_every_error_is_the_librarys_own() -> None:
    assert issubclass(FormatError, EquilipError)
    assert issubclass(FormatError, ValueError)
    assert form.FORMAT == "equilip.form/1"
    assert activations.describe(ReLU(), 3) == [{"kind": "relu", "size": 3}]
