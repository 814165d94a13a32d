"""What there is to load: names, files, checksums, mirrors and the usual standardisations. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from equilip.errors import DataError

#: The data sets that :func:`equilip.data.load` knows.
NAMES = ("digits", "mnist", "fashion-mnist")

#: Mean and standard deviation of each channel over the training images, pixels in [0, 1]. MNIST's,
#: Fashion-MNIST's and CIFAR-10's are the figures that published networks were trained with.
CHANNELS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "digits": ((0.3058,), (0.3764,)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion-mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}

#: Numbers that one input has, channel by channel.
SHAPES: dict[str, tuple[int, int, int]] = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "fashion-mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
}


@dataclass(frozen=True)
class IdxFile:
    """One file as it is published (gzipped) and as its content must be."""

    name: str
    shape: tuple[int, ...]
    sha256: str  # of NAME.gz as the mirrors serve it
    md5: str  # of what it holds, so that a copy compressed anew is recognised too


@dataclass(frozen=True)
class IdxSource:
    """A data set in four IDX files; ``folders`` are where they may lie below a data directory."""

    name: str
    title: str
    folders: tuple[str, ...]
    mirrors: tuple[str, ...]
    train_images: IdxFile
    train_labels: IdxFile
    test_images: IdxFile
    test_labels: IdxFile

    @property
    def files(self) -> tuple[IdxFile, ...]:
        return (self.train_images, self.train_labels, self.test_images, self.test_labels)


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


def check_name(name: str) -> str:
    """The name itself; DataError when there is no such data set."""
    if name not in NAMES:
        raise DataError(f"unknown data set {name!r}; choose one of {', '.join(NAMES)}")
    return name
