"""Each of the known data sets, and the user's own, by name."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from equilip.data import idx, mat, own, records
from equilip.data.catalogue import (
    CHANNELS,
    CIFAR10,
    IDX,
    OWN,
    SHAPES,
    SVHN,
    IdxFile,
    IdxSource,
    MatFile,
    MatSource,
    RecordSource,
    check_name,
)
from equilip.data.dataset import Dataset
from equilip.data.download import Downloader
from equilip.data.places import locate, present
from equilip.errors import DataError
from equilip.form import Standardisation


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    progress: bool = False,
    downloader: Downloader | None = None,
) -> Dataset:
    """The data set of that name: "digits" (bundled with scikit-learn), "mnist", "fashion-mnist", "cifar10",
    "svhn", or "npz:PATH" for a file of your own (see :func:`equilip.data.read_npz`).

    ``data_dir`` is a folder that holds the files, or holds a folder of the data set's name that does; nothing
    is ever downloaded then. Without it missing files are downloaded once, into the user's cache (``progress``
    shows a bar on standard error). ``limit`` keeps the first samples of each part.

    Raises DataError when a file is missing, truncated or altered, or when a download fails. Contents are checked
    by md5, those of CIFAR-10 in a ``data_dir`` by their size and by the number of samples of each class.
    """
    check_name(name)
    if name.startswith(OWN):
        path = Path(name.removeprefix(OWN))
        return own.read_npz(path if data_dir is None else Path(data_dir) / path).limit(limit)
    if name == "digits":
        return _digits().limit(limit)
    source = {**IDX, CIFAR10.name: CIFAR10, SVHN.name: SVHN}[name]
    folder = locate(source, data_dir, progress, downloader)
    match source:
        case IdxSource():
            dataset = _idx(source, folder)
        case RecordSource():
            dataset = _records(source, folder)
        case MatSource():
            dataset = _mat(source, folder)
    return dataset.limit(limit)


def standardisation(name: str) -> Standardisation:
    """The usual input layer for that data set, one mean and one deviation per channel (float32)."""
    mean, std = CHANNELS[name]
    _, height, width = SHAPES[name]
    return Standardisation(
        torch.tensor(mean).repeat_interleave(height * width), torch.tensor(std).repeat_interleave(height * width)
    )


def _digits() -> Dataset:
    """The 1,797 digits of scikit-learn, a fifth of each class (359 in all) for testing, always the same."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    test = own.held_out(labels)
    train_rows, test_rows = test.order[~test.held[test.order]], test.order[test.held[test.order]]
    x = torch.from_numpy((images / 16.0).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    return Dataset(
        name="digits",
        train_x=x[train_rows],
        train_y=y[train_rows],
        test_x=x[test_rows],
        test_y=y[test_rows],
        classes=10,
        shape=SHAPES["digits"],
        standardisation=standardisation("digits"),
    )


def _published(source: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Dataset:
    return Dataset(
        name=source,
        train_x=train[0],
        train_y=train[1],
        test_x=test[0],
        test_y=test[1],
        classes=10,
        shape=SHAPES[source],
        standardisation=standardisation(source),
    )


def _tensors(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Bytes as pixels in [0, 1], (N, p), and their labels, (N,)."""
    pixels = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32)).div_(255.0)
    return pixels, torch.from_numpy(labels.astype(np.int64))


def _idx(source: IdxSource, folder: Path) -> Dataset:
    def read(file: IdxFile) -> NDArray[np.uint8]:
        return idx.read(_path(folder, file.name), md5=file.md5, title=source.title)

    return _published(
        source.name,
        _tensors(read(source.train_images), read(source.train_labels)),
        _tensors(read(source.test_images), read(source.test_labels)),
    )


def _records(source: RecordSource, folder: Path) -> Dataset:
    pixels = SHAPES[source.name][0] * SHAPES[source.name][1] * SHAPES[source.name][2]

    def read(names: tuple[str, ...], per_class: int) -> tuple[Tensor, Tensor]:
        found = [records.read(_path(folder, name), records=source.records, pixels=pixels, classes=10) for name in names]
        labels = np.concatenate([part[1] for part in found])
        records.check_balance(labels, per_class, 10, f"{', '.join(names)} in {folder}")
        return _tensors(np.concatenate([part[0] for part in found]), labels)

    return _published(source.name, read(source.train, source.per_class[0]), read((source.test,), source.per_class[1]))


def _mat(source: MatSource, folder: Path) -> Dataset:
    def read(file: MatFile) -> tuple[Tensor, Tensor]:
        return _tensors(*mat.read(_path(folder, file.name), md5=file.md5, title=source.title))

    return _published(source.name, read(source.train), read(source.test))


def _path(folder: Path, name: str) -> Path:
    path = present(folder, name)
    if path is None:
        raise DataError(f"{folder / name} vanished while it was about to be read")
    return path
