"""Pictures in folders: one folder a class, the folder's name its label.

Either ``train/`` and ``val/`` (or ``test/``) lie inside, or the class folders themselves, of which
one fifth is then kept for the test. Pictures are decoded when they are needed, by a few threads.
For training each is a random piece of the picture, mirrored half the time; for the test it is the
middle. Files without a picture's ending are passed over. Left out: rotation by EXIF, which
torchvision's folders leave out too, so that a teacher trained on those sees the same here.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from compressor.data.scaling import IMAGENET, Scaling, chosen_scaling
from compressor.data.split import Batch, Data, batch_indices
from compressor.errors import CompressError

if TYPE_CHECKING:
    from compressor.recipe import DataRecipe

SIZE = 224
TEST_SHARE = 0.2
_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_MIDDLE = 224 / 256  # the share of the shorter side that is looked at, as published networks are tested

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FolderSplit:
    """Files and labels; ``augmented`` halves show another piece of each picture at each shuffle."""

    files: tuple[Path, ...]
    labels: Tensor
    size: int
    scaling: Scaling
    workers: int
    augmented: bool

    @property
    def fixed(self) -> bool:
        """Whether a sample shows the same pixels every time."""
        return not self.augmented

    def __len__(self) -> int:
        return len(self.files)

    def batches(self, size: int, *, shuffle: int | None = None) -> Iterator[Batch]:
        """Batches of ``size``; the rules are those of ``Split``."""
        read = partial(self._read, shuffle=shuffle if self.augmented else None)
        pool = ThreadPoolExecutor(max(1, self.workers))
        try:
            # While one batch is used, the next is already being decoded.
            coming: deque[tuple[Tensor, Iterator[Tensor]]] = deque()
            for index in batch_indices(len(self), size, shuffle):
                coming.append((index, pool.map(read, index.tolist())))
                if len(coming) > 1:
                    yield self._batch(*coming.popleft())
            while coming:
                yield self._batch(*coming.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch(self, index: Tensor, pixels: Iterator[Tensor]) -> Batch:
        images = torch.stack(list(pixels)).permute(0, 3, 1, 2).contiguous()
        return Batch(self.scaling(images), self.labels[index], index)

    def _read(self, number: int, shuffle: int | None) -> Tensor:
        """The pixels (H, W, 3) of one sample."""
        random = None if shuffle is None else Random(f"{shuffle}/{number}")
        file = self.files[number]
        try:
            with Image.open(file) as opened:
                box = _middle(opened.size) if random is None else _random_piece(opened.size, random)
                image = opened.convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        except (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
            raise CompressError(
                f"cannot read picture `{file}`: {error}", "repair the file or take it away"
            ) from error
        if random is not None and random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
        return pixels.view(self.size, self.size, 3)


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

    def half(pictures: dict[str, list[Path]], augmented: bool) -> FolderSplit:
        files = tuple(file for name in pictures for file in pictures[name])
        labels = [label for label, name in enumerate(pictures) for _ in pictures[name]]
        return FolderSplit(files, torch.tensor(labels), size, scaling, wanted.workers, augmented)

    return Data(folder.resolve().name, tuple(train), (3, size, size), half(train, True), half(test, False))


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
        files = sorted(f for f in place.rglob("*") if f.suffix.lower() in _ENDINGS and f.is_file())
        if not files:
            raise CompressError(
                f"class folder `{place}` has no pictures", "looked for " + " ".join(sorted(_ENDINGS))
            )
        found[place.name] = files
    return found


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


def _middle(size: tuple[int, int]) -> Box:
    """Left, top, right and bottom of the square in the middle."""
    width, height = size
    side = min(width, height) * _MIDDLE
    left, top = (width - side) / 2, (height - side) / 2
    return (left, top, left + side, top + side)


def _random_piece(size: tuple[int, int], random: Random) -> Box:
    """A piece of 8 to 100 % of the area, between 3:4 and 4:3, as ImageNet's networks are trained."""
    width, height = size
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        across, down = math.sqrt(area * aspect), math.sqrt(area / aspect)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return (left, top, left + across, top + down)
    return _middle(size)
