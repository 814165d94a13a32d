"""What there is to load: names, files, checksums, mirrors and the usual standardisations. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from equilip.errors import DataError

#: The data sets that :func:`equilip.data.load` knows by name.
NAMES = ("digits", "mnist", "fashion-mnist", "cifar10", "svhn")

#: What a user's own file is called: ``npz:PATH``.
OWN = "npz:"

#: Mean and standard deviation of each channel over the training images, pixels in [0, 1]. MNIST's,
#: Fashion-MNIST's and CIFAR-10's are the figures that published networks were trained with.
CHANNELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3058,), (0.3764,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}

#: Numbers that one input has, channel by channel.
SHAPES: dict[str, tuple[int, int, int]] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "svhn": (3, 32, 32),
}


@dataclass(frozen=True)
class Download:
    """One file as the mirrors serve it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Source(ABC):
    """A published data set; ``folders`` are where its files may lie below a data directory."""

    name: str
    title: str
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]

    @property
    @abstractmethod
    def files(self) -> tuple[str, ...]:
        """The files it is read from; each may also be there gzipped, with .gz behind its name."""

    @property
    @abstractmethod
    def downloads(self) -> tuple[Download, ...]:
        """What to fetch."""


@dataclass(frozen=True)
class IdxFile:
    """One file as it is published (gzipped) and as its content must be."""

    name: str
    shape: tuple[int, ...]
    sha256: str  # of NAME.gz as the mirrors serve it
    md5: str  # of what it holds, so that a copy compressed anew is recognised too


@dataclass(frozen=True)
class IdxSource(Source):
    """A data set in four IDX files."""

    train_images: IdxFile
    train_labels: IdxFile
    test_images: IdxFile
    test_labels: IdxFile

    @property
    def parts(self) -> tuple[IdxFile, ...]:
        return (self.train_images, self.train_labels, self.test_images, self.test_labels)

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(part.name for part in self.parts)

    @property
    def downloads(self) -> tuple[Download, ...]:
        return tuple(Download(f"{part.name}.gz", part.sha256) for part in self.parts)


@dataclass(frozen=True)
class RecordSource(Source):
    """A data set in files of records, a byte for the label and the pixels behind it, published as one archive.

    per_class: how many samples of each class each file of ``train`` together, and ``test``, must hold.
    """

    archive: Download
    train: tuple[str, ...]
    test: str
    records: int
    per_class: tuple[int, int]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test)

    @property
    def downloads(self) -> tuple[Download, ...]:
        return (self.archive,)


@dataclass(frozen=True)
class MatFile:
    """A MATLAB file as it is published."""

    name: str
    sha256: str
    md5: str


@dataclass(frozen=True)
class MatSource(Source):
    """A data set in two MATLAB files of images X and labels y."""

    train: MatFile
    test: MatFile

    @property
    def files(self) -> tuple[str, ...]:
        return (self.train.name, self.test.name)

    @property
    def downloads(self) -> tuple[Download, ...]:
        return tuple(Download(file.name, file.sha256) for file in (self.train, self.test))


IDX: dict[str, IdxSource] = {
    source.name: source
    for source in (
        IdxSource(
            name="mnist",
            title="MNIST",
            folders=("mnist", ".", "MNIST/raw"),
            mirrors=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            train_images=IdxFile(
                "train-images-idx3-ubyte",
                (60000, 28, 28),
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "6bbc9ace898e44ae57da46a324031adb",
            ),
            train_labels=IdxFile(
                "train-labels-idx1-ubyte",
                (60000,),
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "a25bea736e30d166cdddb491f175f624",
            ),
            test_images=IdxFile(
                "t10k-images-idx3-ubyte",
                (10000, 28, 28),
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "2646ac647ad5339dbf082846283269ea",
            ),
            test_labels=IdxFile(
                "t10k-labels-idx1-ubyte",
                (10000,),
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
                "27ae3e4e09519cfbb04c329615203637",
            ),
        ),
        IdxSource(
            name="fashion-mnist",
            title="Fashion-MNIST",
            folders=("fashion-mnist", ".", "FashionMNIST/raw"),
            mirrors=(
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            train_images=IdxFile(
                "train-images-idx3-ubyte",
                (60000, 28, 28),
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
            ),
            train_labels=IdxFile(
                "train-labels-idx1-ubyte",
                (60000,),
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "9018921c3c673c538a1fc5bad174d6f9",
            ),
            test_images=IdxFile(
                "t10k-images-idx3-ubyte",
                (10000, 28, 28),
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "8181f5470baa50b63fa0f6fddb340f0a",
            ),
            test_labels=IdxFile(
                "t10k-labels-idx1-ubyte",
                (10000,),
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
        ),
    )
}


CIFAR10 = RecordSource(
    name="cifar10",
    title="CIFAR-10",
    folders=("cifar-10-batches-bin", "cifar10/cifar-10-batches-bin", "cifar10", "."),
    mirrors=(
        "https://www.cs.toronto.edu/~kriz/",
        "https://storage.googleapis.com/s4tf-hosted-binaries/datasets/CIFAR10/",
    ),
    archive=Download("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    test="test_batch.bin",
    records=10000,
    per_class=(5000, 1000),
)

SVHN = MatSource(
    name="svhn",
    title="SVHN",
    folders=("svhn", "."),
    mirrors=("http://ufldl.stanford.edu/housenumbers/",),
    train=MatFile(
        "train_32x32.mat",
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "e26dedcc434d2e4c54c9b2d4a06d8373",
    ),
    test=MatFile(
        "test_32x32.mat",
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
        "eb5a983be6a315427106f1b164d9cef3",
    ),
)


def check_name(name: str) -> str:
    """The name itself; DataError when there is no such data set."""
    if name not in NAMES and not name.startswith(OWN):
        raise DataError(f"unknown data set {name!r}; choose one of {', '.join(NAMES)}, or {OWN}PATH for your own")
    return name
