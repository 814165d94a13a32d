"""Forms and certificates as bytes, written here by hand so that the tests share no code with the library."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equilip.checker import Verdict, check

Array = NDArray[np.floating]
RELU: dict[str, Any] = {"kind": "relu"}


def safetensors_bytes(header: Mapping[str, Any] | bytes, data: bytes) -> bytes:
    """A safetensors file with this header, whatever it says."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def form_header(tensors: Mapping[str, Array], blocks: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], bytes]:
    """Header and data of a form; each block is {"kind", "size", parameters as hexadecimal floats}."""
    metadata = {
        "format": "equilip.form/1",
        "activation": list(blocks),
        "operators": {"W": "dense", "U": "dense", "C": "dense", "D": "dense" if "D" in tensors else "zero"},
    }
    header: dict[str, Any] = {"__metadata__": {"equilip": json.dumps(metadata, sort_keys=True, separators=(",", ":"))}}
    data = b""
    for name, tensor in tensors.items():
        raw = np.ascontiguousarray(tensor).tobytes()
        kind = {"float32": "F32", "float64": "F64"}[str(tensor.dtype)]
        header[name] = {
            "dtype": kind,
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return header, data


def form_bytes(tensors: Mapping[str, Array], blocks: Sequence[Mapping[str, Any]]) -> bytes:
    return safetensors_bytes(*form_header(tensors, blocks))


def lipschitz_claim(
    bound: float,
    multipliers: Array,
    lower: Sequence[float] = (0.0,),
    upper: Sequence[float] = (1.0,),
    units: str = "standardised",
) -> dict[str, Any]:
    return {
        "kind": "lipschitz",
        "norm": "l2",
        "units": units,
        "bound": float(bound).hex(),
        "slopes": {"lower": [float(s).hex() for s in lower], "upper": [float(s).hex() for s in upper]},
        "multipliers": [float(m).hex() for m in multipliers],
        "well_posed": True,
    }


def certificate(form: bytes, *claims: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    digest = hashlib.sha256(form).hexdigest()
    return {
        "format": "equilip.certificate/1",
        "form": {"file": "form.safetensors", "sha256": digest},
        "claims": list(claims),
        **more,
    }


def verdict_on(directory: Path, stated: Mapping[str, Any] | bytes, form: bytes) -> Verdict:
    """Write both files and check them."""
    content = stated if isinstance(stated, bytes) else json.dumps(stated).encode()
    (directory / "form.safetensors").write_bytes(form)
    (directory / "certificate.json").write_bytes(content)
    return check(directory / "certificate.json")


def lben(
    rng: np.random.Generator, n: int, p: int, q: int, gamma: float, epsilon: float = 0.1, scale: float = 0.3
) -> tuple[dict[str, Array], Array]:
    """A network whose bound is gamma by construction, and its multipliers (mathematics 1.3)."""
    V, S = rng.normal(0, scale, (2, n, n))
    U, C = rng.normal(0, scale, (n, p)), rng.normal(0, scale, (q, n))
    lam = np.exp(rng.normal(0, scale, n))
    inner = V.T @ V + epsilon * np.eye(n) + S.T - S + C.T @ C / (2 * gamma)
    W = np.eye(n) - (inner + lam[:, None] * (U @ U.T) * lam / (2 * gamma)) / lam[:, None]
    tensors = {"W": W, "U": U, "b": rng.normal(0, 1, n), "C": C, "c": rng.normal(0, 1, q)}
    # Mathematics 1.3 is for P - (CᵀC + ΛUUᵀΛ)/γ; a certificate's C enters as CᵀC: its multipliers are γ times.
    return tensors, lam * gamma
