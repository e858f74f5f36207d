"""Pictures in folders: one folder per class, with the folder's name as the label.

The data folder contains either ``train/`` and ``val/`` (or ``test/``), or the class folders themselves;
then one fifth of each class is held out for the test. Files without the suffix of a picture are ignored.
A folder of pictures without classes can replace the training half: then a teacher provides the targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch

from compressor.data.pictures import SIZE, TEST_SHARE, Look, PictureSplit, training_look
from compressor.data.scaling import IMAGENET, Scaling, chosen_scaling
from compressor.data.split import Data
from compressor.data.unreadable import Damage, limit_of
from compressor.errors import CompressError, UsageError

if TYPE_CHECKING:
    from compressor.recipe import DataRecipe

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Files:
    """Pictures stored one per file."""

    paths: tuple[Path, ...]

    def name(self, number: int) -> str:
        """Path of the picture, as text."""
        return str(self.paths[number])

    def file(self, number: int) -> Path:
        """Path of the picture."""
        return self.paths[number]


def load_folder(wanted: DataRecipe, seed: int) -> Data:
    """Load the data set in a folder."""
    folder = Path(wanted.name).expanduser()
    train, test = _halves(folder, seed)
    if len(train) < 2:
        raise CompressError(
            f"`{folder}` has {len(train)} class folders, expected at least 2",
            "use one folder per class, or train/ and val/ with one folder per class in each",
        )
    size = wanted.size or SIZE
    scaling = chosen_scaling(IMAGENET, wanted.normalise)

    def half(pictures: dict[str, list[Path]], look: Look, replacing: bool) -> PictureSplit:
        files = [file for name in pictures for file in pictures[name]]
        labels = [label for label, name in enumerate(pictures) for _ in pictures[name]]
        return _split(files, labels, look, replacing)

    return Data(
        folder.resolve().name,
        tuple(train),
        (3, size, size),
        half(train, training_look(size, scaling, wanted.augment), True),
        half(test, Look(size, scaling), False),
    )


def with_unlabelled(data: Data, wanted: DataRecipe) -> Data:
    """The same data, with the unlabelled pictures of a folder as the training half."""
    scaling = getattr(data.test, "scaling", None)
    if not isinstance(scaling, Scaling):
        raise UsageError(
            f"`unlabelled` does not work with `{wanted.name}`: the scaling of its images is unknown",
            "return the images without labels, each with label -1, from the factory itself",
        )
    folder = Path(wanted.unlabelled).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"no folder `{wanted.unlabelled}`", "use --unlabelled FOLDER, with pictures without classes"
        )
    files = _files(folder)
    if not files:
        raise CompressError(f"`{folder}` has no pictures", "known suffixes: " + " ".join(sorted(_ENDINGS)))
    look = training_look(data.shape[-1], scaling, wanted.augment)
    train = _split(files, [-1] * len(files), look, True)
    return replace(data, train=replace(train, labelled=False))


def _split(files: Sequence[Path], labels: Sequence[int], look: Look, replacing: bool) -> PictureSplit:
    damage = Damage(limit_of(len(files)))
    return PictureSplit(Files(tuple(files)), torch.tensor(labels), look, damage, replacing)


def _halves(folder: Path, seed: int) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The files of the training half and of the test half, by class."""
    # A folder `train` that contains pictures and no folders is the class of trains.
    if not any(_folders(folder / "train")):
        return _divided(_pictures(folder), seed)
    held_out = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
    if held_out is None:
        raise CompressError(
            f"`{folder}` has train/ but neither val/ nor test/",
            "name the folder train/ itself: one fifth of it is then held out for the test",
        )
    train, test = _pictures(folder / "train"), _pictures(held_out)
    if set(train) != set(test):
        raise CompressError(
            f"train/ and {held_out.name}/ in `{folder}` have different classes; only in one of them: "
            + ", ".join(f"`{name}`" for name in sorted(set(train) ^ set(test))),
            "each class needs a folder in both",
        )
    return train, test


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class, by the names of the classes in alphabetical order."""
    pictures = {}
    for place in _folders(folder):
        files = _files(place)
        if not files:
            raise CompressError(
                f"class folder `{place}` has no pictures", "known suffixes: " + " ".join(sorted(_ENDINGS))
            )
        pictures[place.name] = files
    return pictures


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file())


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _divided(
    pictures: dict[str, list[Path]], seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Hold out one fifth of each class for the test, at least one picture, chosen by the seed."""
    train, test = {}, {}
    for name, files in pictures.items():
        if len(files) < 2:
            raise CompressError(
                f"class `{name}` has 1 picture, expected at least 2: one to train on, one for the test"
            )
        mixed = Random(f"{seed}/{name}").sample(files, len(files))
        kept = max(1, round(len(files) * TEST_SHARE))
        test[name], train[name] = sorted(mixed[:kept]), sorted(mixed[kept:])
    return train, test
