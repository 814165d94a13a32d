"""Reading the two files, which may be hostile. docs/formats.md specifies them; what departs from it is refused.

Sizes are bounded before anything is allocated; a file is read once, and its digest and its content are
taken from the same bytes. ``Form`` holds what claims are about: b, c, mean and lam are checked to be
finite vectors of the right length and then dropped, because no bound depends on them.
"""

from __future__ import annotations

import json
import math
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equilip.checker.exact import Floats
from equilip.checker.verdict import Refused, Unreadable

MAX_CERTIFICATE = 2**24  #: bytes
MAX_FORM = 2**30  #: bytes
MAX_HEADER = 2**20  #: bytes
MAX_ROWS = 2048  #: neurons and outputs together
MAX_INPUTS = 2**20
MAX_CLAIMS = 64
LAYERED = r"[0-9]{1,3}\.[a-z]{1,16}"

Record = dict[str, object]
#: Of an activation: how many neurons, and between which slopes.
Blocks = tuple[tuple[int, float, float], ...]


@dataclass(frozen=True, eq=False)
class Form:
    """z = σ(W z + U ξ + b), y = C z + D ξ + c, ξ = (x - mean) / std, as stored; D is zeros where absent."""

    W: Floats
    U: Floats
    C: Floats
    D: Floats
    std: Floats | None
    blocks: tuple[tuple[int, float, float], ...]  #: number of neurons, smallest and largest slope


@dataclass(frozen=True)
class Certificate:
    """What a certificate says, its claims not yet looked into."""

    file: str
    sha256: str
    claims: list[object]


def read(path: Path, limit: int) -> bytes:
    """The content of a regular file of at most ``limit`` bytes."""
    try:
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # opening a pipe could block for ever
            raise Unreadable(f"{str(path)!a} is not a regular file")
        if info.st_size > limit:
            raise Refused(f"{path.name!a} has {info.st_size} bytes, more than the {limit} allowed")
        with path.open("rb") as stream:
            content = stream.read(info.st_size + 1)
    except OSError as error:
        raise Unreadable(f"cannot read {str(path)!a}: {error.strerror}") from None
    except ValueError:  # a path that no file can have
        raise Unreadable(f"cannot read {str(path)!a}") from None
    if len(content) != info.st_size:
        raise Refused(f"{path.name!a} changed while it was read")
    return content


def parse_json(content: bytes, malformed: type[Exception]) -> object:
    """JSON in UTF-8 without duplicate keys, NaN, infinities and huge integers; ``malformed`` if not JSON."""

    def unique(pairs: list[tuple[str, object]]) -> Record:
        if len(dict(pairs)) != len(pairs):
            raise Refused("a JSON object names a key twice")
        return dict(pairs)

    def number(text: str) -> float:
        if len(text) > 400 or not math.isfinite(float(text)):
            raise Refused("a JSON number is too large, too long, or not a number")
        return float(text) if not re.fullmatch("-?[0-9]+", text) else int(text)

    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=unique,
            parse_int=number,
            parse_float=number,
            parse_constant=number,
        )
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise malformed(f"not JSON: {error}") from None
    except RecursionError:
        raise Refused("JSON that is nested too deeply") from None


def record(value: object, what: str, required: set[str], optional: frozenset[str] = frozenset()) -> Record:
    """A JSON object with these keys and no others."""
    if not isinstance(value, dict):
        raise Refused(f"{what} is not an object")
    if required - value.keys() or value.keys() - required - optional:
        wrong = sorted(required - value.keys()), sorted(value.keys() - required - optional)
        raise Refused(f"{what} lacks the keys {wrong[0]!a:.200} or has the unknown keys {wrong[1]!a:.200}")
    return value


def sequence(value: object, what: str, smallest: int, largest: int) -> list[object]:
    """A JSON array of bounded length."""
    if not isinstance(value, list) or not smallest <= len(value) <= largest:
        raise Refused(f"{what} is not an array of {smallest} to {largest} entries")
    return value


def natural(value: object, what: str, largest: int) -> int:
    """An integer from 0 to ``largest`` (true and false are none)."""
    if type(value) is not int or not 0 <= value <= largest:
        raise Refused(f"{what} is not an integer from 0 to {largest}")
    return value


def hexadecimal(value: object, what: str) -> float:
    """A finite float, written as Python's ``float.hex`` writes it: one number has one spelling."""
    if isinstance(value, str) and re.fullmatch(r"-?0x[01]\.[0-9a-f]{1,13}p[+-][0-9]{1,4}", value):
        try:
            number = float.fromhex(value)
        except OverflowError:
            number = math.inf
        if number.hex() == value:
            return number
    raise Refused(f"{what} is not a finite float in canonical hexadecimal")


def parse_certificate(content: bytes) -> Certificate:
    """The certificate in ``content``; ``Unreadable`` where that is not JSON at all."""
    notes = frozenset({"note", "readable", "version", "method", "seconds", "inflation"})
    fields = record(parse_json(content, Unreadable), "the certificate", {"format", "form", "claims"}, notes)
    if fields["format"] != "equilip.certificate/1":
        raise Refused(f"the certificate's format is {fields['format']!a:.80}, not equilip.certificate/1")
    form = record(fields["form"], "the certificate's form", {"file", "sha256"})
    file, sha256 = form["file"], form["sha256"]
    if not isinstance(file, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}", file):
        raise Refused("the form's file is not a plain name in the certificate's directory")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise Refused("the form's sha256 is not 64 lower-case hexadecimal digits")
    return Certificate(file, sha256, sequence(fields["claims"], "claims", 1, MAX_CLAIMS))


def parse_tensors(content: bytes) -> tuple[str, dict[str, Floats]]:
    """The metadata and tensors of a safetensors file: an 8-byte header length, a JSON header, the data."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > min(MAX_HEADER, len(content) - 8):
        raise Refused("the form is cut off, or its header is too long")
    header = parse_json(content[8 : 8 + length], Refused)
    # The tensors of a chain are called after its layers, as 3.weight; all other forms have the same ones.
    layered = frozenset(name for name in header if re.fullmatch(LAYERED, name)) if isinstance(header, dict) else None
    names = {"__metadata__"} if layered else {"__metadata__", "U", "b", "C", "c"}
    others = {"mean", "std"} if layered else {"W", "D", "A", "B", "K", "mean", "std", "lam"}
    entries = record(header, "the form", names, frozenset(others) | (layered or frozenset()))
    text = record(entries.pop("__metadata__"), "the form's metadata", {"equilip"})["equilip"]
    if not isinstance(text, str):
        raise Refused("the form's metadata is not text")
    tensors: dict[str, Floats] = {}
    ranges: list[tuple[int, int]] = []
    for name, entry in entries.items():
        fields = record(entry, f"tensor {name}", {"dtype", "shape", "data_offsets"})
        if fields["dtype"] not in ("F32", "F64"):
            raise Refused(f"tensor {name} is neither F32 nor F64")
        dtype = np.dtype("<f4" if fields["dtype"] == "F32" else "<f8")
        shape = [natural(d, f"a size of {name}", MAX_INPUTS) for d in sequence(fields["shape"], name, 1, 4)]
        offsets = sequence(fields["data_offsets"], f"the offsets of {name}", 2, 2)
        start, end = (natural(offset, f"an offset of {name}", MAX_FORM) for offset in offsets)
        if end - start != math.prod(shape) * dtype.itemsize or 8 + length + end > len(content):
            raise Refused(f"tensor {name} does not have the place that its shape needs")
        flat: Floats = np.frombuffer(content, dtype, math.prod(shape), 8 + length + start)
        if not np.isfinite(flat).all():
            raise Refused(f"tensor {name} holds NaN or infinity")
        tensors[name] = flat.reshape(shape)
        ranges.append((start, end))
    if len({tensor.dtype for tensor in tensors.values()}) > 1:
        raise Refused("the tensors are not all of one number format")
    ranges.sort()
    edges = [0, *(end for _, end in ranges)]  # each tensor starts where the one before it ends
    if [start for start, _ in ranges] != edges[:-1] or edges[-1] != len(content) - 8 - length:
        raise Refused("the tensors overlap, leave gaps, or do not end with the file")
    return text, tensors


PARAMETERS: dict[str, set[str]] = {
    **{kind: set() for kind in ("relu", "tanh", "softplus", "sigmoid", "identity")},
    "leaky_relu": {"negative_slope"},
    "elu": {"alpha"},
    "hardtanh": {"lower", "upper"},
}


def parse_block(entry: object, n: int) -> tuple[int, float, float]:
    """Size and slopes of a block of neurons: the smallest interval with every secant slope (mathematics 0)."""
    kind = entry.get("kind") if isinstance(entry, dict) else None
    if not isinstance(kind, str) or kind not in PARAMETERS:
        raise Refused(f"a block of neurons is of unknown kind {kind!a:.80}")
    block = record(entry, f"a block of {kind}", {"kind", "size"} | PARAMETERS[kind])
    size = natural(block["size"], "the size of a block", n)
    numbers = {name: hexadecimal(block[name], name) for name in PARAMETERS[kind]}
    match kind, numbers:
        case "leaky_relu", {"negative_slope": a} if 0.0 <= a <= 1.0:
            return size, a, 1.0
        case "elu", {"alpha": a} if 0.0 < a <= 1.0:
            return size, 0.0, 1.0
        case "hardtanh", {"lower": lower, "upper": upper} if lower < upper:
            return size, 0.0, 1.0
        case "sigmoid", _:
            return size, 0.0, 0.25
        case "identity", _:
            return size, 1.0, 1.0
        case "relu" | "tanh" | "softplus", _:
            return size, 0.0, 1.0
    raise Refused(f"the parameters {numbers} make no {kind} with slopes in [0, 1]")


def parse_metadata(content: bytes) -> tuple[Record, dict[str, Floats]]:
    """What the form in ``content`` says of itself (its ``format`` among it), and its tensors."""
    text, tensors = parse_tensors(content)
    what = "the form's metadata"
    described = parse_json(text.encode("utf-8", "surrogatepass"), Refused)
    chain = any(re.fullmatch(LAYERED, name) for name in tensors)
    fields = record(described, what, {"format", "layers"} if chain else {"format", "activation", "operators"})
    if chain and fields["format"] != "equilip.form/3":
        raise Refused(f"the form's format is {fields['format']!a:.80}, and its tensors are those of equilip.form/3")
    if json.dumps(fields, sort_keys=True, separators=(",", ":")) != text:
        raise Refused(f"{what} is not compact JSON with sorted keys")
    return fields, tensors


def parse_form(content: bytes) -> Form:
    """The form in ``content``, with the shapes that the equation asks for."""
    fields, tensors = parse_metadata(content)
    if fields["format"] != "equilip.form/1":
        raise Refused(f"the form's format is {fields['format']!a:.80}, neither equilip.form/1 nor equilip.form/2")
    if "W" not in tensors or tensors.keys() & {"A", "B", "K"}:
        raise Refused("the form lacks the tensor W, or has the unknown tensors A, B or K")
    kinds = {"W": "dense", "U": "dense", "C": "dense", "D": "dense" if "D" in tensors else "zero"}
    if fields["operators"] != kinds:
        raise Refused("the form's operators are not those of its tensors")
    (n,), (q,) = (tensors[name].shape if tensors[name].ndim == 1 else (0,) for name in "bc")
    p = tensors["U"].shape[-1]
    if not 1 <= q <= n + q <= MAX_ROWS or not 1 <= p <= MAX_INPUTS:
        raise Refused(f"{n} neurons, {p} inputs and {q} outputs: more than this program checks, or none")
    shapes = {"W": (n, n), "U": (n, p), "b": (n,), "C": (q, n), "c": (q,)}
    shapes |= {"D": (q, p), "mean": (p,), "std": (p,), "lam": (n,)}
    for name, tensor in tensors.items():
        if tensor.shape != shapes[name]:
            raise Refused(f"{name} has shape {tensor.shape}, which does not fit b, c and U")
    std = tensors.get("std")
    if (std is None) != ("mean" not in tensors) or (std is not None and not (std > 0).all()):
        raise Refused("mean and std must come together, and std must be positive")
    blocks = parse_blocks(fields, n)
    D: NDArray[np.floating] = np.zeros((q, p), tensors["W"].dtype)
    return Form(tensors["W"], tensors["U"], tensors["C"], tensors.get("D", D), std, blocks)


def parse_blocks(fields: Record, n: int) -> Blocks:
    """The activation's blocks, which have to cover n neurons: how many, and between which slopes."""
    blocks = [parse_block(entry, n) for entry in sequence(fields["activation"], "activation", 0, MAX_ROWS)]
    if sum(size for size, _, _ in blocks) != n:
        raise Refused(f"the activation's blocks do not cover the {n} neurons")
    return tuple(blocks)


def parse_ends(fields: Record, tensors: dict[str, Floats], n: int, p: int, pooled: int) -> tuple[Floats | None, Blocks]:
    """std, and the activation's blocks, of a network of images with n neurons, p inputs and ``pooled`` means to read.

    Refused unless C, b, c, mean, std and the activation fit these.
    """
    head = tensors["C"]
    if head.ndim != 2 or head.shape[1] != pooled or not 1 <= head.shape[0] <= MAX_ROWS:
        raise Refused(f"C has shape {head.shape}, which does not fit {pooled} pooled numbers")
    if p > MAX_INPUTS:
        raise Refused(f"{p} inputs: more than this program checks")
    shapes = {"b": (n,), "c": head.shape[:1], "mean": (p,), "std": (p,)}
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            raise Refused(f"{name} has shape {tensors[name].shape}, not {shape}")
    std = tensors.get("std")
    if std is not None and not (std > 0).all():
        raise Refused("std must be positive")
    return std, parse_blocks(fields, n)
