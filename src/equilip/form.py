"""The equation itself, and the file that carries it.

    z = σ(W z + U ξ + b),    y = C z + D ξ + c,    ξ = (x - mean) / std

x is the raw input; ξ is x itself where there is no standardisation. Every network of this library is one
such form: parametrisations make forms, solvers solve them, certificates speak about them.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from equilip import activations
from equilip.activations import Activation, Blockwise
from equilip.errors import FormatError, InputError
from equilip.operators import Contraction, Dense, Operator, Recurrence, Tiers, Zero

FORMAT = "equilip.form/1"
CONVOLUTIONAL = "equilip.form/2"


@dataclass(frozen=True, eq=False)
class Standardisation:
    """The input layer ξ = (x - mean) / std; mean and std of shape (in_size,), std > 0."""

    mean: Tensor
    std: Tensor

    def __post_init__(self) -> None:
        if self.mean.dim() != 1 or self.mean.shape != self.std.shape:
            raise InputError(
                f"mean and std must be vectors of one length, got {tuple(self.mean.shape)} and {tuple(self.std.shape)}"
            )
        if not bool((self.std > 0).all()):
            raise InputError(f"std must be positive everywhere; its smallest entry is {float(self.std.min()):g}")

    def apply(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std

    def to(self, dtype: torch.dtype | None, device: torch.device | None) -> Standardisation:
        return Standardisation(self.mean.to(dtype=dtype, device=device), self.std.to(dtype=dtype, device=device))


@dataclass(frozen=True, eq=False)
class Form:
    """One network: n = ``hidden_size`` neurons, p = ``in_size`` inputs, q = ``out_size`` outputs.

    W: (n, n), U: (n, p), b: (n,), C: (q, n), D: (q, p), c: (q,). ``lam`` (n,), where known, are positive
    multipliers for which 2Λ - ΛW - WᵀΛ is positive definite, so that there is exactly one equilibrium for
    every input (mathematics 1.1); it is a hint to solvers, and certificates prove it afresh.

    Raises InputError when the shapes do not fit together.
    """

    W: Operator
    U: Operator
    b: Tensor
    C: Operator
    D: Operator
    c: Tensor
    activation: Activation
    lam: Tensor | None = None
    standardisation: Standardisation | None = None

    def __post_init__(self) -> None:
        n, p, q = self.hidden_size, self.in_size, self.out_size
        shapes = (
            ("W", (self.W.out_size, self.W.in_size), (n, n)),
            ("U", (self.U.out_size, self.U.in_size), (n, p)),
            ("b", self.b.shape, (n,)),
            ("C", (self.C.out_size, self.C.in_size), (q, n)),
            ("D", (self.D.out_size, self.D.in_size), (q, p)),
            ("c", self.c.shape, (q,)),
            ("lam", (n,) if self.lam is None else self.lam.shape, (n,)),
            ("mean", (p,) if self.standardisation is None else self.standardisation.mean.shape, (p,)),
        )
        for name, shape, expected in shapes:
            if shape != expected:
                raise InputError(f"{name} has shape {tuple(shape)} where b, U and c ask for {expected}")
        if isinstance(self.activation, Blockwise):
            activations.blocks(self.activation, n)

    @property
    def hidden_size(self) -> int:
        return self.b.shape[0]

    @property
    def in_size(self) -> int:
        return self.U.in_size

    @property
    def out_size(self) -> int:
        return self.c.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        return self.b.dtype

    @property
    def device(self) -> torch.device:
        return self.b.device

    def standardise(self, x: Tensor) -> Tensor:
        """ξ, the standardised input, (batch, p)."""
        return x if self.standardisation is None else self.standardisation.apply(x)

    def bias(self, xi: Tensor) -> Tensor:
        """U ξ + b, (batch, n): all that the equation for z needs to know of the input."""
        return self.U.plus(xi, self.b)

    def step(self, z: Tensor, bias: Tensor) -> Tensor:
        """σ(W z + bias), (batch, n): z itself at the equilibrium."""
        return self.activation.value(self.W.plus(z, bias))

    def output(self, z: Tensor, xi: Tensor) -> Tensor:
        """y = C z + D ξ + c, (batch, q)."""
        y = self.C.plus(z, self.c)
        return y if isinstance(self.D, Zero) else y + self.D.apply(xi)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | None = None) -> Form:
        """The same form in another number format or on another device."""
        return replace(
            self,
            **{name: getattr(self, name).to(dtype, device) for name in ("W", "U", "C", "D")},
            b=self.b.to(device=device, dtype=dtype),
            c=self.c.to(device=device, dtype=dtype),
            lam=None if self.lam is None else self.lam.to(device=device, dtype=dtype),
            standardisation=None if self.standardisation is None else self.standardisation.to(dtype, device),
        )

    def detach(self) -> Form:
        """The same numbers without their history."""
        return replace(
            self,
            **{
                name: (op := getattr(self, name)).rebuild(tuple(t.detach() for t in op.tensors))
                for name in ("W", "U", "C", "D")
            },
            b=self.b.detach(),
            c=self.c.detach(),
            lam=None if self.lam is None else self.lam.detach(),
        )

    def to_bytes(self) -> bytes:
        """The form as a safetensors file; the same numbers always give the same bytes.

        Raises InputError for numbers that are not finite, and for operators that files do not know.
        """
        tensors, version, operators = self._parts()
        if self.standardisation is not None:
            tensors |= {"mean": self.standardisation.mean, "std": self.standardisation.std}
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                raise InputError(f"{name} holds NaN or infinity: a form with such numbers cannot be saved")
        header = {
            "format": version,
            "activation": activations.describe(self.activation, self.hidden_size),
            "operators": operators,
        }
        # One metadata key only: with several, safetensors writes them in an order that varies.
        metadata = {"equilip": json.dumps(header, sort_keys=True, separators=(",", ":"))}
        # Cloned, because two of them may be one tensor, which safetensors refuses.
        own = {
            k: v.detach().to("cpu", self.dtype).clone(memory_format=torch.contiguous_format) for k, v in tensors.items()
        }
        return safetensors.torch.save(own, metadata=metadata)

    def _parts(self) -> tuple[dict[str, Tensor], str, dict[str, object]]:
        """The tensors that a file holds, its format, and what it says of the operators."""
        if isinstance(self.W, Recurrence):
            from equilip import wiring

            found = wiring.parts(self)
            return {**wiring.tensors(found), "b": self.b, "c": self.c}, CONVOLUTIONAL, wiring.describe(found)
        if isinstance(self.W, Contraction):
            from equilip import contracting

            kernels = contracting.parts(self)
            own = {**contracting.tensors(kernels), "b": self.b, "c": self.c}
            return own, CONVOLUTIONAL, contracting.describe(kernels)
        if isinstance(self.W, Tiers):
            from equilip import tiered

            tiers = tiered.parts(self)
            return {**tiered.tensors(tiers), "b": self.b, "c": self.c}, CONVOLUTIONAL, tiered.describe(tiers)
        tensors = {"W": self.W.dense(), "U": self.U.dense(), "b": self.b, "C": self.C.dense(), "c": self.c}
        if not isinstance(self.D, Zero):
            tensors["D"] = self.D.dense()
        if self.lam is not None:
            tensors["lam"] = self.lam
        return tensors, FORMAT, {name: getattr(self, name).kind for name in ("W", "U", "C", "D")}

    @property
    def sha256(self) -> str:
        """The digest of the file that :meth:`save` writes, which certificates name."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the form to a file (all of it or nothing) and return the file's sha256."""
        content = self.to_bytes()
        write_whole(Path(path), content)
        return hashlib.sha256(content).hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: the file is complete or absent, never half there.

    An OSError names ``path``, whatever it was that failed.
    """
    with naming(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            # mkstemp makes files that only their owner can read; a run is as readable as any other new file.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(temporary, 0o666 & ~mask)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError name this file: a full disk's names none, others a temporary one that nobody has heard of."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def dense(
    W: Tensor,
    U: Tensor,
    b: Tensor,
    C: Tensor,
    c: Tensor,
    *,
    D: Tensor | None = None,
    activation: Activation | None = None,
    lam: Tensor | None = None,
    standardisation: Standardisation | None = None,
) -> Form:
    """The form of these matrices; relu where no activation is named, D = 0 where none is given.

    Raises InputError where shapes or number formats do not fit together.
    """
    if b.dim() != 1 or c.dim() != 1:
        raise InputError(f"b and c must be vectors, got shapes {tuple(b.shape)} and {tuple(c.shape)}")
    same = W.dtype == U.dtype == b.dtype == C.dtype == c.dtype and (D is None or D.dtype == b.dtype)
    if not (same and (standardisation is None or standardisation.mean.dtype == standardisation.std.dtype == b.dtype)):
        units = () if standardisation is None else (standardisation.mean, standardisation.std)
        formats = {str(t.dtype) for t in (W, U, b, C, c, D, *units) if t is not None}
        raise InputError(f"a form has one number format, got {', '.join(sorted(formats))}")
    hidden, inputs, outputs = Dense(W), Dense(U), Dense(C)
    return Form(
        W=hidden,
        U=inputs,
        b=b,
        C=outputs,
        D=Zero((c.shape[0], inputs.in_size), b.dtype, b.device) if D is None else Dense(D),
        c=c,
        activation=activations.ReLU() if activation is None else activation,
        lam=lam,
        standardisation=standardisation,
    )


def load(path: str | os.PathLike[str]) -> Form:
    """Read a form that :meth:`Form.save` wrote. FormatError when the file is anything else."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata["equilip"])
        version = header["format"]
        described = header["activation"]
    except FileNotFoundError:
        raise FormatError(f"{path} does not exist") from None
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise FormatError(f"{path} is not a form of equilip, or it is damaged: {error}") from error
    if version not in (FORMAT, CONVOLUTIONAL):
        raise FormatError(f"{path} has format {version!r}; this version of equilip reads {FORMAT!r}")
    # Convolutional ones hold kernels: of W itself where it contracts, or of what it is made of.
    convolutional = version == CONVOLUTIONAL
    constructed = convolutional and "W" not in tensors
    own = {"A", "B", "K" if "K" in tensors else "lam"} if constructed else {"W"}
    missing = (own | {"U", "b", "C", "c"}) - tensors.keys()
    unknown = tensors.keys() - own - {"U", "b", "C", "c", "mean", "std"} - (set() if convolutional else {"lam", "D"})
    if missing or unknown or ("mean" in tensors) != ("std" in tensors):
        raise FormatError(f"{path}: missing tensors {sorted(missing)}, unknown tensors {sorted(unknown)}")
    for name, tensor in tensors.items():
        if tensor.dtype not in (torch.float32, torch.float64) or not bool(tensor.isfinite().all()):
            raise FormatError(f"{path}: tensor {name} is not all finite float32 or float64 numbers")
    if convolutional:
        return _load_convolutional(path, header, tensors)
    kinds = {"W": "dense", "U": "dense", "C": "dense", "D": "dense" if "D" in tensors else "zero"}
    if header.get("operators") != kinds:
        raise FormatError(f"{path}: this version of equilip does not know its operators {header.get('operators')!r}")
    if "lam" in tensors and not bool((tensors["lam"] > 0).all()):
        raise FormatError(f"{path}: the multipliers lam are not all positive")
    try:
        sigma = activations.restore(described)
        if sum(block["size"] for block in described) != len(tensors["b"]):
            raise FormatError(f"{path}: the activation is not for {len(tensors['b'])} neurons")
        return dense(
            tensors["W"],
            tensors["U"],
            tensors["b"],
            tensors["C"],
            tensors["c"],
            D=tensors.get("D"),
            activation=sigma,
            lam=tensors.get("lam"),
            standardisation=Standardisation(tensors["mean"], tensors["std"]) if "mean" in tensors else None,
        )
    except (InputError, IndexError, KeyError, TypeError) as error:
        raise FormatError(f"{path} does not hold a form: {error}") from error


def _load_convolutional(path: Path, header: dict[str, object], tensors: dict[str, Tensor]) -> Form:
    from equilip import contracting, tiered, wiring

    try:
        described = header["activation"]
        sigma = activations.restore(described)  # type: ignore[arg-type]
        standardisation = Standardisation(tensors["mean"], tensors["std"]) if "mean" in tensors else None
        rest = (tensors["b"], tensors["c"], sigma, standardisation)
        if "W" in tensors:
            form = contracting.form(contracting.restore(header["operators"], tensors), *rest)
        elif "K" in tensors:
            form = tiered.form(tiered.restore(header["operators"], tensors), *rest)
        else:
            form = wiring.form(wiring.restore(header["operators"], tensors), *rest)
        if tensors["b"].shape != (form.W.in_size,) or sum(block["size"] for block in described) != len(form.b):  # type: ignore[attr-defined]
            raise FormatError(f"b and the activation are not for {form.W.in_size} neurons")
        return form
    except (FormatError, InputError, IndexError, KeyError, TypeError) as error:
        raise FormatError(f"{path} does not hold a form: {error}") from error


def affine(weight: Tensor, bias: Tensor) -> Form:
    """y = D x + c as a form without neurons."""
    q, p = weight.shape
    none = weight.new_zeros
    return dense(none(0, 0), none(0, p), none(0), none(q, 0), bias, D=weight)


def pointwise(sigma: Activation, size: int, *, like: Tensor) -> Form:
    """y = σ(x) on ``size`` numbers, in the dtype and on the device of ``like``."""
    eye = torch.eye(size, dtype=like.dtype, device=like.device)
    return dense(like.new_zeros(size, size), eye, like.new_zeros(size), eye, like.new_zeros(size), activation=sigma)


def residual(f: Form) -> Form:
    """x + f(x) as a form: the identity becomes feed-through (mathematics 1.5)."""
    if f.in_size != f.out_size:
        raise InputError(f"a residual block needs as many outputs as inputs, not {f.out_size} and {f.in_size}")
    if f.standardisation is not None:
        raise InputError("a residual block adds its input: put the standardisation before the block")
    eye = torch.eye(f.in_size, dtype=f.dtype, device=f.device)
    return replace(f, D=Dense(f.D.dense() + eye))


def compose(f: Form, g: Form) -> Form:
    """x -> g(f(x)) as one form whose neurons are f's, then g's (mathematics 1.5).

    The products of matrices are rounded, so the numbers of the result are a network of their own: a
    certificate for it speaks of these numbers. A standardisation of g is folded into its matrices.
    """
    if f.out_size != g.in_size:
        raise InputError(f"cannot compose: the first form gives {f.out_size} numbers, the second takes {g.in_size}")
    Ug, Dg, bg, cg = g.U.dense(), g.D.dense(), g.b, g.c
    if g.standardisation is not None:
        mean, std = g.standardisation.mean, g.standardisation.std
        Ug, Dg = Ug / std, Dg / std
        bg, cg = bg - Ug @ mean, cg - Dg @ mean
    Cf, Df = f.C.dense(), f.D.dense()
    corner = Ug.new_zeros(f.hidden_size, g.hidden_size)
    feed = Dg @ Df
    return dense(
        torch.cat([torch.cat([f.W.dense(), corner], 1), torch.cat([Ug @ Cf, g.W.dense()], 1)]),
        torch.cat([f.U.dense(), Ug @ Df]),
        torch.cat([f.b, bg + Ug @ f.c]),
        torch.cat([Dg @ Cf, g.C.dense()], 1),
        cg + Dg @ f.c,
        D=None if isinstance(f.D, Zero) or isinstance(g.D, Zero) else feed,
        activation=activations.join([(f.activation, f.hidden_size), (g.activation, g.hidden_size)]),
        standardisation=f.standardisation,
    )
