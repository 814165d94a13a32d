"""Reading SVHN's MATLAB files: X (height, width, channels, N) bytes and y (N, 1) with 10 for the digit 0."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from equilip.errors import DataError


def read(path: Path, *, md5: str, title: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (N, channels, height, width) and labels (N,) from 0 to 9.

    DataError, naming the file, when its content is not what ``md5`` names. Nothing of a file is looked at before.
    """
    import scipy.io

    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != md5:
        raise DataError(
            f"{path} is not {title}'s, or it is truncated: it has md5 {found}, not {md5}; "
            "delete it and fetch the original"
        )
    content = scipy.io.loadmat(path, variable_names=("X", "y"))
    images, labels = content["X"].transpose(3, 2, 0, 1), content["y"].reshape(-1)
    return np.ascontiguousarray(images), np.where(labels == 10, 0, labels).astype(np.uint8)
