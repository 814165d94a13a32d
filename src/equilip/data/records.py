"""Reading CIFAR-10's binary version: records of one byte for the label and 3072 for the pixels."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equilip.errors import DataError


def read(path: Path, *, records: int, pixels: int, classes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (records, pixels) and labels (records,) of a file, plain or gzipped.

    DataError, naming the file, when it is missing, truncated, longer than that, or holds a label that is none.
    """
    size = records * (1 + pixels)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as stream:
            content = stream.read(size + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged ({error}); delete it and fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) != size:
        more = "more" if len(content) > size else f"only {len(content)}"
        raise DataError(
            f"{path} is not whole: {records} records of {1 + pixels} bytes are {size} bytes, it holds {more}"
        )
    table = np.frombuffer(content, dtype=np.uint8).reshape(records, 1 + pixels)
    labels = table[:, 0]
    if int(labels.max(initial=0)) >= classes:
        row = int((labels >= classes).argmax())
        raise DataError(
            f"{path} is damaged or no such file: the label of record {row + 1} is {labels[row]}, above {classes - 1}"
        )
    return table[:, 1:], labels


def check_balance(labels: NDArray[np.uint8], per_class: int, classes: int, title: str) -> None:
    """DataError unless every class has ``per_class`` samples: no checksum is known for every copy in use."""
    counts = np.bincount(labels, minlength=classes)
    for label, count in enumerate(counts):
        if count != per_class:
            raise DataError(f"{title} are altered: class {label} has {count} samples, not {per_class}")
