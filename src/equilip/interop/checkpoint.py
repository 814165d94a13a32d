"""Reading the tensors of a checkpoint that somebody else wrote, believing nothing about it."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equilip.errors import FormatError
from equilip.interop.kinds import KINDS, Kind


def read(path: Path, kind: Kind, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors that ``kind`` asks for, by its names, in ``dtype``.

    FormatError, naming the file, when it is missing or damaged, when it holds code rather than tensors, when
    it is of another kind, or when a tensor is missing, of the wrong shape, or not finite.
    """
    if not path.is_file():
        what = "is a folder; name the checkpoint in it" if path.exists() else "does not exist; check the path"
        raise FormatError(f"{path} {what}")
    found = _matlab(path) if kind.matlab else _pytorch(path)
    tensors = _select(found, kind, path)
    sizes: dict[str, tuple[int, str]] = {}
    for name, shape in kind.tensors.items():
        tensor = tensors[name]
        if kind.matlab and len(shape) == 1:
            tensor = tensor.reshape(-1) if tensor.shape[:1] == (1,) and tensor.dim() == 2 else tensor
        if tensor.dim() != len(shape):
            raise FormatError(f"{path}: {name} has shape {tuple(tensor.shape)}; expected {len(shape)} dimension(s)")
        for letter, size in zip(shape, tensor.shape, strict=True):
            expected, where = sizes.setdefault(letter, (size, name))
            if size != expected or size == 0:
                raise FormatError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, which does not fit {where} "
                    f"({letter} = {expected})"
                )
        if not bool(tensor.isfinite().all()):
            raise FormatError(f"{path}: {name} holds NaN or infinity; the checkpoint is unusable")
        tensors[name] = tensor.to(dtype)
    return tensors


def _pytorch(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FormatError(
            f"{path} holds more than tensors, or is no PyTorch checkpoint: it is refused, because reading it "
            "could run code; save its state_dict() instead"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FormatError(f"{path} is not a PyTorch checkpoint, or it is damaged: {reason}") from error
    except Exception as error:
        # The unpickler meets arbitrary bytes; whatever it stumbles over, the file is at fault.
        raise FormatError(f"{path} is not a PyTorch checkpoint ({type(error).__name__})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    return _numbers(content, path)


def _matlab(path: Path) -> dict[str, Tensor]:
    from scipy.io import loadmat

    try:
        content = loadmat(path)
    except Exception as error:
        # scipy raises whatever its parser stumbles over, from TypeError to zlib.error.
        raise FormatError(f"{path} is not a MATLAB file, or it is damaged ({type(error).__name__})") from error
    arrays = {}
    for name, array in content.items():
        if not name.startswith("__"):
            if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
                raise FormatError(f"{path}: {name} is not an array of real numbers")
            arrays[name] = torch.from_numpy(array.astype("float64"))
    return arrays


def _numbers(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FormatError(f"{path} holds a {type(content).__name__}, not a state_dict of named tensors")
    for name, tensor in content.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.is_sparse:
            raise FormatError(f"{path}: {name} is not a tensor of real numbers")
    return content


def _match(found: dict[str, Tensor], kind: Kind) -> dict[str, str]:
    """Which key of the file is which tensor of the kind: the same name, behind any prefix."""
    return {name: key for name in kind.tensors for key in found if key == name or key.endswith(f".{name}")}


def _select(found: dict[str, Tensor], kind: Kind, path: Path) -> dict[str, Tensor]:
    matched = _match(found, kind)
    missing = [name for name in kind.tensors if name not in matched]
    extra = [key for key in found if key not in matched.values()]
    if not missing and not extra:
        return {name: found[key] for name, key in matched.items()}
    fitting = [
        other.name
        for other in KINDS.values()
        if len(own := _match(found, other)) == len(other.tensors) == len(found) == len(set(own.values()))
    ]
    hint = f"; it has the tensors of --kind {fitting[0]}" if fitting else ""
    parts = []
    if missing:
        parts.append(f"lacks {', '.join(missing)}")
    if extra:
        parts.append(f"has {', '.join(extra[:8])}{' ...' if len(extra) > 8 else ''} besides")
    raise FormatError(f"{path} is not of kind {kind.name}: it {' and '.join(parts)}{hint}")
