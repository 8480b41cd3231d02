"""The section `data`: which samples there are, and how they are loaded."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dist_train.own_code.reference import FORMS
from dist_train.settings.schema.section import (
    NO_ARGUMENTS,
    Arguments,
    Auto,
    ByName,
    FileName,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    Reference,
    Section,
    SideLength,
    Words,
)

Deviation = Annotated[float, Field(ge=0, le=10**3)]
_OWN_AUGMENT = Words(f"a reference to code of your own, {FORMS}, or a mapping of name, args")


class Noise(Section):
    """Random changes of the training inputs, each a function of seed, epoch and sample."""

    noise: Deviation = 0.0
    """Standard deviation of the normal noise that is added to each number of a scaled row. 0: off."""


class Augment(Noise):
    """Random changes of the training images, each a function of seed, epoch and sample index."""

    crop_padding: Annotated[int, Field(ge=0, le=256)] = 0
    """Pad each side with this many black pixels and crop a random window of the original size. 0: off."""
    flip: bool = False
    """Flip horizontally with probability 1/2."""
    cutout: Annotated[int, Field(ge=0, le=10**4)] = 0
    """Side in pixels of a random square that is set to the mean (DeVries and Taylor, arXiv:1708.04552). 0: off."""
    noise: Deviation = 0.0
    """Standard deviation of the normal noise that is added to each number of a normalised image. 0: off."""


class OwnAugment(Section):
    """Random changes of training samples by code of your own."""

    name: Reference
    """A function that is called with a sample and a generator, or a class."""
    args: Arguments = NO_ARGUMENTS
    """Arguments of the class; a function gets them beside the sample."""


class Normalize(Section):
    """Statistics of images scaled to 0..1, one number per channel."""

    mean: Annotated[tuple[float, ...], Field(min_length=1)]
    """Subtracted from each channel."""
    std: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
    """Each channel is divided by it after that."""


class Data(Section):
    """Data set, batch size, and how samples are loaded."""

    name: str
    """The data set: `mnist`, `fashion_mnist`, `kmnist`, `cifar10`, `cifar100`, `digits` (part of scikit-learn, no
    download), `image_folder` (reads `<root>/{train,val,test}/<class>/*`, where one of `val` and `test` is enough; or
    `<root>/<class>/*`, `data.test` and `data.validation` of it are held out),
    `synthetic` (generated from the seed, for tests), `table` (the rows of a CSV file), `line` (points of a line with
    noise), or a `torch.utils.data.Dataset` of your own by its reference."""
    global_batch: PositiveInt = 64
    """Samples per optimizer step, over all ranks."""
    validation: Fraction | Literal["split"] = 0.0
    """Fraction of the training split, chosen by the seed, that is held out and evaluated during training. `split`: a
    data set of your own has a split of that name. The evaluation at the end of a run always uses the test split."""
    loader: Literal["auto", "in_memory", "workers"] = "auto"
    """`in_memory`: read all samples once and keep them in memory, of the GPU if there is one. `workers`: read samples
    in worker processes when they are needed. `auto`: in_memory if the samples are images or tensors that fit; a data
    set of your own is read in each epoch. Batches are the same, but for random transforms of a data set of your own:
    with `in_memory` those of the first epoch are used in each epoch."""
    workers: Annotated[int, Field(ge=0, le=256)] = 2
    """Worker processes per rank with the loader `workers`; 0: the rank itself reads."""
    shuffle: bool = True
    """Draw a new order of the training samples for each epoch. `false`: the order of the data set."""
    drop_last: bool = False
    """Leave out the smaller batch at the end of an epoch."""
    sampling: Literal["uniform", "balanced", "weighted"] | Reference = "uniform"
    """Which samples an epoch has. `uniform`: each one once. `balanced`: as many draws, with replacement, each class
    equally likely. `weighted`: likewise, by the data set's attribute `weights`. A reference: your own function `f(seed,
    epoch, length)` that returns the indices of an epoch."""
    limit_train: PositiveInt | None = None
    """Use only this many training samples."""
    limit_test: PositiveInt | None = None
    """Use only this many test samples."""
    limit: Literal["spaced", "first"] = "spaced"
    """Which samples `limit_train` and `limit_test` keep: `spaced` evenly over the split, or its `first`."""
    accept_changes: bool = False
    """Resume although the data are not those that the run began with. The default refuses, and names what differs."""


class ImageData(Data):
    """A data set of images with the numbers of their classes."""

    root: FileName
    """Directory with the data set's files. Default: `$DIST_TRAIN_DATA`, else `data`. Written only to download
    files, or to unpack their archives if those lie there."""
    download: bool = True
    """Download missing files to `root`, if the address of the data set is known."""
    normalize: Auto | Normalize = "auto"
    """`auto`: the known mean and std of the data set, or else those of the training split, computed once. Or `{mean:
    [...], std: [...]}`."""
    cache: FileName
    """Directory for decoded images and computed statistics, found again by the content of the files, wherever those
    are. Default: `${XDG_CACHE_HOME:-~/.cache}/dist-train`, or one for temporary files if that can't be written. Where
    others can write, each user has a folder."""
    augment: Augment | Annotated[OwnAugment, _OWN_AUGMENT] = Augment()
    """Random changes of the training images; none by default. Or a function of your own, or a transform, by its
    reference, that is called with an image, uint8 [C, H, W], and a `torch.Generator` that is a function of seed, epoch
    and sample."""
    resize: Annotated[int, Field(ge=1, le=10**4)] | None = None
    """Cut the central square and scale it to this many pixels a side."""


class StoredData(ImageData):
    """A data set stored in files."""

    name: Literal["mnist", "fashion_mnist", "kmnist", "cifar10", "cifar100", "digits"]


class ImageFolderData(ImageData):
    """Image files in a folder for each class."""

    name: Literal["image_folder"]
    test: Fraction = 0.0
    """Fraction of each class, chosen by the seed, that is the test split where `root` holds folders of classes and none
    of a split. `data.validation` is one of each class then, too."""
    orientation: Literal["exif", "stored"] = "exif"
    """`exif`: turn an image as its EXIF orientation says, as viewers do. `stored`: leave the pixels in the order of
    the file, as other libraries do; TIFF is turned by Pillow all the same."""


class SyntheticData(ImageData):
    """Images generated from the seed: one pattern per class, and noise."""

    name: Literal["synthetic"]
    shape: tuple[SideLength, SideLength, SideLength] = (1, 28, 28)
    """Channels, height and width."""
    num_classes: Annotated[int, Field(ge=2, le=10**5)] = 10
    """Number of classes."""
    num_train: Annotated[int, Field(ge=1, le=10**8)] = 1024
    """Samples in the training split."""
    num_test: Annotated[int, Field(ge=1, le=10**8)] = 256
    """Samples in the test split."""


class RowData(Data):
    """Rows of numbers, and a number for each that the network predicts."""

    collate: ClassVar[None] = None
    augment: Noise = Noise()
    """Random changes of the training rows; none by default."""


class LineData(RowData):
    """Points of a line: y = slope x + intercept + noise U(0, 1). In training x goes from -1 to 1 in equal steps, and
    `torch.rand` draws the noise after `torch.manual_seed(run.seed)`. In the test split both are drawn apart from it."""

    name: Literal["line"]
    slope: float = 3.0
    """The factor of x."""
    intercept: float = 2.0
    """The value at x = 0, before the noise."""
    noise: NonNegativeFloat = 0.2
    """The noise is uniform between 0 and this; it raises the line by half of it."""
    num_train: Annotated[int, Field(ge=1, le=10**8)] = 100
    """Points in the training split."""
    num_test: Annotated[int, Field(ge=1, le=10**8)] = 100
    """Points in the test split."""


class TableData(RowData):
    """The rows of a table: numbers, and a line with the names of the columns."""

    name: Literal["table"]
    file: FileName | None = None
    """A CSV file in UTF-8 whose first line names the columns."""
    sklearn: Literal["diabetes"] | None = None
    """A table that comes with scikit-learn, in place of `file`."""
    target: Annotated[str, Field(min_length=1)] | None = None
    """The column to predict; all others are inputs. Default: the last one."""
    scale: Literal["none", "minmax", "standard"] = "standard"
    """How inputs are scaled, by the rows of the training split alone. `minmax`: each column from 0 to 1. `standard`: to
    mean 0 and standard deviation 1. A run keeps the numbers, and evaluations of other tables use them."""
    test: Fraction = 0.2
    """Fraction of the rows, chosen by the seed, that is the test split."""


class OwnData(Data):
    """A data set of your own: a class with `__len__` and `__getitem__`, which is called with `split="train"` and
    `"test"`, or a function that returns a dict of them. An item is `(input, target)`, of tensors, numbers, arrays and
    pictures in tuples, dicts and dataclasses. `random`, `numpy.random` and `torch` are seeded by seed, epoch and item
    before each is read."""

    name: Reference
    args: Arguments = NO_ARGUMENTS
    """Arguments of the class, which is called with `split="train"` and `"test"` besides; or of a function that returns
    a dict of the splits. An item is `(input, target)`, of tensors, numbers, arrays and pictures in tuples, dicts and
    dataclasses. `random`, `numpy.random` and `torch` are seeded by seed, epoch and item before each is read."""
    collate: Reference | None = None
    """Function that makes `(inputs, targets)` of a list of items, which may be of any form and size then. Default: the
    items are stacked; a picture becomes floats from 0 to 1, [C, H, W]."""
    augment: Annotated[OwnAugment, _OWN_AUGMENT] | None = None
    """Function of your own, or a transform, that changes an item of the training at random: it is called with the item
    and a `torch.Generator` that is a function of seed, epoch and sample. Default: none."""


AnyData = Annotated[StoredData | ImageFolderData | SyntheticData | LineData | TableData | OwnData, ByName()]
KNOWN_CLASSES = {"mnist": 10, "fashion_mnist": 10, "kmnist": 10, "cifar10": 10, "cifar100": 100, "digits": 10}
