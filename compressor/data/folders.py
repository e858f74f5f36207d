"""Pictures in folders: one folder a class, the folder's name its label.

Either ``train/`` and ``val/`` (or ``test/``) lie inside, or the class folders themselves, of which
one fifth is then kept for the test. Files without a picture's ending are passed over. A folder of
pictures without classes can take the place of the training half: a teacher tells what is on them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch

from compressor.data.pictures import SIZE, TEST_SHARE, Look, PictureSplit, Reading, training_look
from compressor.data.scaling import IMAGENET, Scaling, chosen_scaling
from compressor.data.split import Data
from compressor.data.unreadable import Damage
from compressor.errors import CompressError, UsageError

if TYPE_CHECKING:
    from compressor.recipe import DataRecipe

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


@dataclass(frozen=True)
class Files:
    """Pictures that are files of their own."""

    paths: tuple[Path, ...]

    def name(self, number: int) -> str:
        """The path of the file."""
        return str(self.paths[number])

    def file(self, number: int) -> Path:
        """The file itself."""
        return self.paths[number]


def load_folder(wanted: DataRecipe, seed: int) -> Data:
    """The data set in a folder."""
    folder = Path(wanted.name).expanduser()
    train, test = _halves(folder, seed)
    if len(train) < 2:
        raise CompressError(
            f"`{folder}` has {len(train)} class folders, expected at least 2",
            "one folder a class, or train/ and val/ with one folder a class in each",
        )
    size = wanted.size or SIZE
    scaling = chosen_scaling(IMAGENET, wanted.mean, wanted.std)

    def half(pictures: dict[str, list[Path]], look: Look, replacing: bool) -> PictureSplit:
        files = [file for name in pictures for file in pictures[name]]
        labels = [label for label, name in enumerate(pictures) for _ in pictures[name]]
        return _split(files, labels, look, replacing, wanted)

    return Data(
        folder.resolve().name,
        tuple(train),
        (3, size, size),
        half(train, training_look(size, scaling, wanted.augment), True),
        half(test, Look(size, scaling), False),
    )


def with_unlabelled(data: Data, wanted: DataRecipe) -> Data:
    """The same data, but trained on the pictures in a folder, whose classes nobody knows."""
    scaling = getattr(data.test, "scaling", None)
    if not isinstance(scaling, Scaling):
        raise UsageError(
            f"`unlabelled` does not go with `{wanted.name}`: how its images were scaled is not known",
            "give images without labels, each labelled -1, in the factory itself",
        )
    folder = Path(wanted.unlabelled).expanduser()
    if not folder.is_dir():
        raise UsageError(
            f"no folder `{wanted.unlabelled}`", "--unlabelled FOLDER of pictures without classes"
        )
    files = _found(folder)
    if not files:
        raise CompressError(f"`{folder}` has no pictures", "looked for " + " ".join(sorted(_ENDINGS)))
    look = training_look(data.shape[-1], scaling, wanted.augment)
    train = _split(files, [-1] * len(files), look, True, wanted)
    return replace(data, train=replace(train, labelled=False))


def _split(
    files: Sequence[Path], labels: Sequence[int], look: Look, replacing: bool, wanted: DataRecipe
) -> PictureSplit:
    reading = Reading(wanted.workers, wanted.prefetch)
    damage = Damage(wanted.max_bad)
    return PictureSplit(Files(tuple(files)), torch.tensor(labels), look, damage, replacing, reading)


def _halves(folder: Path, seed: int) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    # A folder `train` that holds pictures and no folders is the class of trains.
    if not any(_folders(folder / "train")):
        return _divided(_pictures(folder), seed)
    held_out = next((folder / name for name in ("val", "test") if (folder / name).is_dir()), None)
    if held_out is None:
        raise CompressError(
            f"`{folder}` has train/ but neither val/ nor test/",
            "give the folder train/ itself, and one fifth of it is kept for the test",
        )
    train, test = _pictures(folder / "train"), _pictures(held_out)
    if set(train) != set(test):
        raise CompressError(
            f"train/ and {held_out.name}/ in `{folder}` differ in their classes: "
            + ", ".join(f"`{name}`" for name in sorted(set(train) ^ set(test))),
            "each class needs a folder in both",
        )
    return train, test


def _pictures(folder: Path) -> dict[str, list[Path]]:
    """The picture files of each class, by the names of the classes in alphabetical order."""
    found = {}
    for place in _folders(folder):
        files = _found(place)
        if not files:
            raise CompressError(
                f"class folder `{place}` has no pictures", "looked for " + " ".join(sorted(_ENDINGS))
            )
        found[place.name] = files
    return found


def _found(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix.lower() in _ENDINGS and file.is_file())


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _divided(
    pictures: dict[str, list[Path]], seed: int
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """One fifth of each class for the test, at least one picture; which ones, the seed decides."""
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
