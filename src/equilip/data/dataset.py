"""A data set in memory, and how each of the known ones becomes that."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equilip.data import idx
from equilip.data.catalogue import CHANNELS, IDX, SHAPES, IdxFile, IdxSource, check_name
from equilip.data.download import Downloader, cache, fetch
from equilip.errors import DataError, InputError
from equilip.form import Standardisation


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled vectors: x float32 in raw units (pixels in [0, 1]), labels int64 in [0, classes).

    train_x: (N, p), train_y: (N,), test_x: (M, p), test_y: (M,). ``shape`` is what one row is as an image
    (channels, height, width), with p numbers in all. ``standardisation`` is the input layer that a network
    for this data usually starts with; the data itself stays raw.

    Raises InputError when the parts do not fit together, when x is not finite, or when a label is out of range.
    """

    name: str
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    shape: tuple[int, int, int]
    standardisation: Standardisation | None = None

    def __post_init__(self) -> None:
        p = self.in_features
        for part, x, y in (
            ("training", self.train_x, self.train_y),
            ("test", self.test_x, self.test_y),
        ):
            if x.dim() != 2 or x.shape[1] != p or y.shape != x.shape[:1]:
                raise InputError(
                    f"the {part} data of {self.name} has shapes {tuple(x.shape)} and {tuple(y.shape)}; "
                    f"expected (N, {p}) and (N,)"
                )
            if x.dtype != torch.float32 or y.dtype != torch.int64:
                raise InputError(
                    f"the {part} data of {self.name} is {x.dtype} with labels {y.dtype}; expected float32 and int64"
                )
            if not bool(x.isfinite().all()):
                raise InputError(f"the {part} data of {self.name} holds NaN or infinity")
            if y.numel() and not 0 <= int(y.min()) <= int(y.max()) < self.classes:
                raise InputError(
                    f"the {part} labels of {self.name} run from {int(y.min())} to {int(y.max())}; "
                    f"expected 0 to {self.classes - 1}"
                )

    @property
    def in_features(self) -> int:
        """p, the length of one row."""
        channels, height, width = self.shape
        return channels * height * width

    def limit(self, count: int | None) -> Dataset:
        """The first ``count`` samples of each part; all of them for None. InputError below 1."""
        if count is None:
            return self
        if count < 1:
            raise InputError(f"a limit of {count} samples leaves nothing to work with; choose at least 1")
        return replace(
            self,
            train_x=self.train_x[:count],
            train_y=self.train_y[:count],
            test_x=self.test_x[:count],
            test_y=self.test_y[:count],
        )


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    limit: int | None = None,
    progress: bool = False,
    downloader: Downloader | None = None,
) -> Dataset:
    """The data set of that name: "digits" (bundled with scikit-learn), "mnist" or "fashion-mnist".

    ``data_dir`` is a folder that holds the files, or holds a folder of the data set's name that does; nothing
    is ever downloaded then. Without it missing files are downloaded once, into the user's cache (``progress``
    shows a bar on standard error). ``limit`` keeps the first samples of each part.

    Raises DataError when a file is missing, truncated or altered (every content is checked by md5), or when a
    download fails.
    """
    check_name(name)
    dataset = _digits() if name == "digits" else _idx(IDX[name], data_dir, progress, downloader)
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
    # RandomState, because numpy promises that its streams never change.
    draw = np.random.RandomState(0)
    order = draw.permutation(len(labels))
    test = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        own = order[labels[order] == label]
        test[own[: round(0.2 * len(own))]] = True
    x = torch.from_numpy((images / 16.0).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.int64))
    train_rows = torch.from_numpy(order[~test[order]])
    test_rows = torch.from_numpy(order[test[order]])
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


def _idx(
    source: IdxSource,
    data_dir: str | os.PathLike[str] | None,
    progress: bool,
    downloader: Downloader | None,
) -> Dataset:
    if data_dir is None:
        folder = cache() / source.name
        if not _complete(folder, source):
            fetch(source, folder, progress=progress, downloader=downloader)
    else:
        folder = _find(Path(data_dir), source)

    def images(file: IdxFile) -> Tensor:
        array = _read(folder, file, source)
        return torch.from_numpy(array.reshape(len(array), -1).astype(np.float32)).div_(255.0)

    def labels(file: IdxFile) -> Tensor:
        return torch.from_numpy(_read(folder, file, source).astype(np.int64))

    return Dataset(
        name=source.name,
        train_x=images(source.train_images),
        train_y=labels(source.train_labels),
        test_x=images(source.test_images),
        test_y=labels(source.test_labels),
        classes=10,
        shape=SHAPES[source.name],
        standardisation=standardisation(source.name),
    )


def _present(folder: Path, file: IdxFile) -> Path | None:
    candidates = (folder / file.name, folder / f"{file.name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _complete(folder: Path, source: IdxSource) -> bool:
    return all(_present(folder, file) is not None for file in source.files)


def _find(data_dir: Path, source: IdxSource) -> Path:
    if not data_dir.is_dir():
        raise DataError(f"the data directory {data_dir} does not exist; check --data-dir")
    folders = [data_dir / folder for folder in source.folders]
    for folder in folders:
        if _complete(folder, source):
            return folder
    started = max(folders, key=lambda folder: sum(_present(folder, file) is not None for file in source.files))
    missing = [file.name for file in source.files if _present(started, file) is None]
    place = started if len(missing) < len(source.files) else data_dir
    raise DataError(
        f"{place} lacks {', '.join(missing)} (or the same with .gz) of {source.title}; "
        f"put them there or in {data_dir / source.folders[0]}, or leave out --data-dir to download them"
    )


def _read(folder: Path, file: IdxFile, source: IdxSource) -> np.ndarray:
    path = _present(folder, file)
    if path is None:
        raise DataError(f"{folder / file.name} vanished while {source.title} was being read")
    return idx.read(path, md5=file.md5, title=source.title)
