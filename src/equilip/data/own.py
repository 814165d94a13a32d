"""The user's own data: arrays, or a .npz file of them, with each usual mistake said in a sentence."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from equilip.data.dataset import Dataset
from equilip.errors import DataError, InputError
from equilip.form import Standardisation

#: What a .npz file may hold: samples and labels, divided by us, or both parts as the user divided them.
TOGETHER = ("X", "y")
DIVIDED = ("train_x", "train_y", "test_x", "test_y")


def read_npz(path: str | os.PathLike[str]) -> Dataset:
    """The data set in a file that ``numpy.savez`` wrote: X and y, or train_x, train_y, test_x and test_y.

    What the arrays may be, and how X and y are divided, says :func:`from_arrays`. Raises DataError, naming the
    file, where it is no such file, and where its arrays cannot be used.
    """
    path = Path(path)
    foreign = f"{path} is not a file of numpy.savez, or it is damaged"
    write = "write one with numpy.savez(path, X=X, y=y)"
    try:
        with path.open("rb") as stream:
            if stream.read(2) not in (b"PK", b"\x93N"):
                raise DataError(f"{foreign}; {write}")
            stream.seek(0)
            arrays = _read(np.load(stream, allow_pickle=False), path)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check the path behind npz:") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; name the file in it behind npz:") from None
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise DataError(
                f"{path} holds Python objects (labels as text, rows of unequal length); encode labels as whole numbers "
                "from 0 and samples as an array of numbers"
            ) from None
        raise DataError(f"{foreign} ({error}); {write}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise DataError(f"{foreign} ({error}); {write}") from None
    try:
        return from_arrays(*arrays, name=f"npz:{path}")
    except InputError as error:
        raise DataError(f"{path}: {error}") from None


def _read(file: Any, path: Path) -> list[NDArray[Any]]:
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f"{path} holds one array; write X and y with numpy.savez(path, X=X, y=y)")
    names = set(file.files)
    wanted = DIVIDED if names & set(DIVIDED) else TOGETHER
    missing = [name for name in wanted if name not in names]
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(names)) or 'nothing'}. "
            "Write X and y, or train_x, train_y, test_x and test_y"
        )
    return [file[name] for name in wanted]


def from_arrays(X: Any, y: Any, test_X: Any = None, test_y: Any = None, *, name: str = "arrays") -> Dataset:
    """A data set of arrays. X: a table (N, p), or images (N, height, width), (N, channels, height, width) or
    (N, height, width, channels); y: (N,) whole numbers from 0 to classes - 1.

    Bytes (uint8) of images become pixels in [0, 1]; all other numbers stay as they are, and are the raw units of
    every radius. Without a test part a fifth of each class is held out for it, always the same. The
    standardisation is measured on the training part: per channel for images, per column for a table.

    Raises InputError that names what is wrong: shapes, NaN, text, labels.
    """
    x, shape = _samples(X, "X")
    labels = _labels(y, "y", len(x))
    if (test_X is None) != (test_y is None):
        raise InputError("a test part needs both its samples and its labels")
    if test_X is None:
        held = held_out(labels).held
        if not held.any() or held.all():
            raise InputError(f"{len(x)} samples are too few to hold out a fifth of each class; give a test part")
        x, labels, test_x, test_labels = x[~held], labels[~held], x[held], labels[held]
    else:
        test_x, test_shape = _samples(test_X, "the test part of X")
        test_labels = _labels(test_y, "the test part of y", len(test_x))
        if test_shape != shape:
            raise InputError(
                f"samples have {_columns(shape)} in the training part and {_columns(test_shape)} in the test part"
            )
    classes = _classes(labels)
    if len(test_labels) and int(test_labels.max()) >= classes:
        raise InputError(f"the test part has the label {test_labels.max()}, the training part none above {classes - 1}")
    return Dataset(
        name=name,
        train_x=torch.from_numpy(x),
        train_y=torch.from_numpy(labels),
        test_x=torch.from_numpy(test_x),
        test_y=torch.from_numpy(test_labels),
        classes=classes,
        shape=shape,
        standardisation=_standardisation(x, shape),
    )


@dataclass(frozen=True, eq=False)
class HeldOut:
    """A division of samples: ``held`` (N,) is whether each is for testing; ``order`` (N,) a shuffle of them all."""

    held: NDArray[np.bool_]
    order: NDArray[np.int64]


def held_out(labels: NDArray[np.int64]) -> HeldOut:
    """A fifth of each class for testing; it depends on the labels alone."""
    # RandomState, because numpy promises that its streams never change.
    order = np.random.RandomState(0).permutation(len(labels))
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        held[members[: round(0.2 * len(members))]] = True
    return HeldOut(held, order)


def _samples(values: Any, what: str) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    """Rows (N, p) in float32 and the shape (channels, height, width) of each."""
    array = _array(values, what)
    if array.dtype.kind not in "fiub":
        raise InputError(f"{what} holds {_kind(array)}; every column must be a number: encode or drop the others")
    if array.ndim == 1:
        raise InputError(f"{what} is one row of {len(array)} numbers; expected a table (N, p): reshape it with X[None]")
    if not 2 <= array.ndim <= 4 or 0 in array.shape:
        raise InputError(f"{what} has shape {array.shape}; expected (N, p) or images, with at least one sample")
    if array.ndim == 4 and array.shape[-1] in (1, 3) and array.shape[1] not in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    finite = np.isfinite(array).reshape(len(array), -1)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        count = int((~finite).sum())
        raise InputError(
            f"{what} holds {count} NaN or infinite {'number' if count == 1 else 'numbers'}, the first in row {row}, "
            f"column {column}; fill them in or drop those rows"
        )
    shape = (1, 1, array.shape[1]) if array.ndim == 2 else (1, *array.shape)[-3:]
    if array.ndim == 3:
        shape = (1, *array.shape[1:])
    if np.abs(array.astype(np.float64)).max() > np.finfo(np.float32).max:
        raise InputError(f"{what} holds numbers beyond the range of float32; scale them first")
    rows = array.reshape(len(array), -1).astype(np.float32)
    if array.ndim > 2 and array.dtype == np.uint8:
        rows /= 255.0
    return np.ascontiguousarray(rows), shape


def _labels(values: Any, what: str, count: int) -> NDArray[np.int64]:
    array = _array(values, what)
    if array.ndim == 2 and 1 in array.shape:
        array = array.reshape(-1)
    if array.dtype.kind in "USO":
        raise InputError(
            f"{what} holds {_kind(array)}; labels are whole numbers from 0: encode them, "
            "for example with sklearn.preprocessing.LabelEncoder"
        )
    if array.dtype.kind not in "iub":
        raise InputError(f"{what} holds {_kind(array)}; labels are whole numbers from 0: convert with y.astype(int)")
    if array.shape != (count,):
        raise InputError(f"{what} has shape {array.shape}; expected one label for each of the {count} samples")
    return np.ascontiguousarray(array.astype(np.int64))


def _classes(labels: NDArray[np.int64]) -> int:
    """How many classes there are; InputError unless every label from 0 to the largest occurs."""
    found = np.unique(labels)
    if len(found) < 2:
        raise InputError(f"y holds the one label {found[0]}; a classifier needs two classes at least")
    if found[0] != 0 or found[-1] != len(found) - 1:
        raise InputError(
            f"labels run from {found[0]} to {found[-1]} with {len(found)} different ones; number the classes from 0 to "
            f"{len(found) - 1}, for example with sklearn.preprocessing.LabelEncoder"
        )
    return len(found)


def _standardisation(x: NDArray[np.float32], shape: tuple[int, int, int]) -> Standardisation:
    channels, height, width = shape
    pixels = height * width if height > 1 else 1
    values = x.astype(np.float64).reshape(len(x), channels, -1)
    axes = (0, 2) if height > 1 else (0, 1)
    mean, std = values.mean(axis=axes), values.std(axis=axes)
    # A column that never changes tells nothing; dividing by its deviation would.
    std = np.where(std > 1e-6 * (1.0 + np.abs(mean)), std, 1.0)

    def spread(vector: NDArray[np.float64]) -> torch.Tensor:
        return torch.from_numpy(vector.astype(np.float32)).repeat_interleave(pixels)

    return Standardisation(spread(mean), spread(std))


def _array(values: Any, what: str) -> NDArray[Any]:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().numpy()
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{what} is no array: {error}") from None


def _kind(array: NDArray[Any]) -> str:
    """What an array holds, with its first entry where that helps."""
    if array.dtype.kind in "USO" and array.size:
        return f"text ({array.flat[0]!s:.30})"
    return f"numbers of type {array.dtype}"


def _columns(shape: tuple[int, int, int]) -> str:
    channels, height, width = shape
    return f"{width} columns" if height == 1 and channels == 1 else f"{channels} x {height} x {width} pixels"
