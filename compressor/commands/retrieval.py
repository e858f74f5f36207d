"""How well a network's embeddings find what belongs together: images of the test half ask, the training half answers.

For each query all images of the database are ranked by their distance, and those of its class are relevant. Images at
the same distance have no order, so every measure is what one expects of them in random order: an embedding that is
the same for all images is as good as chance, however the database is sorted. Memory is that of some queries at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.data.split import Data, Split
from compressor.errors import CompressError, UsageError
from compressor.training.evaluate import in_eval_mode
from compressor.training.layer_outputs import EMBEDDING, Places, watching

METRICS = ("euclidean", "cosine")
BEST = 100
"""Over how many of the nearest images precision is taken; of a smaller database all."""
LEVELS = 11
"""Recall 0, 0.1 … 1."""
AT_ONCE = 400_000
"""Distances that are held at once: more are no faster, because they leave the cache."""


@dataclass(frozen=True)
class Ranking:
    """How good the rankings of one metric are, means over all queries, in [0, 1].

    ``map``: average precision, the mean over the relevant images of the precision down to each. ``map_11``: the mean
    over recall 0, 0.1 … 1 of the best precision at that recall or a higher one, as papers on retrieval report it.
    ``precision_100``: the relevant share of the 100 nearest.
    """

    map: float
    map_11: float
    precision_100: float

    def to_dict(self) -> dict[str, float]:
        """Plain JSON values."""
        return {"map": self.map, "map_11": self.map_11, "precision_100": self.precision_100}


@dataclass(frozen=True)
class Embeddings:
    """One row of numbers for each image, and the image's class."""

    rows: Tensor
    labels: Tensor


def evaluate_retrieval(network: nn.Module, data: Data, *, layer: str = EMBEDDING) -> Mapping[str, Ranking]:
    """The rankings by each metric, of what ``layer`` gives out; the embedding is what the last linear layer is given.

    The network is asked in evaluation mode, where it is.
    """
    if not data.train.labelled:
        raise UsageError(f"retrieval needs labels, and the pictures of `{data.name}` have none")
    device = next(network.parameters()).device
    places = Places(network, torch.zeros(1, *data.shape, device=device), "network")
    places.check(layer, "retrieval")
    database, queries = (embedded(network, half, layer, places) for half in (data.train, data.test))
    return {metric: rankings(queries, database, metric) for metric in METRICS}


@torch.no_grad()
def embedded(network: nn.Module, split: Split, layer: str, places: Places, batch: int = 256) -> Embeddings:
    """What the layer gives out for every image of a split, as it is shown in a test: nothing is augmented."""
    device = next(network.parameters()).device
    rows, labels = [], []
    with in_eval_mode(network), watching(network, [layer], places.classifier) as seen:
        for each in split.batches(batch):
            network(each.images.to(device))
            rows.append(seen[layer].flatten(1).float())
            labels.append(each.labels.to(device))
    return Embeddings(torch.cat(rows), torch.cat(labels))


@torch.no_grad()
def rankings(queries: Embeddings, database: Embeddings, metric: str) -> Ranking:
    """The measures of all queries; one whose class the database does not have is an error."""
    classes = int(max(queries.labels.max(), database.labels.max())) + 1
    there = torch.bincount(database.labels, minlength=classes)
    missing = [label for label in queries.labels.unique().tolist() if not there[label]]
    if missing:
        raise CompressError(f"no image of class {missing[0]} is in the database, and one is asked for")
    # float64: between near neighbours ‖a‖² + ‖b‖² − 2ab loses what float32 has.
    asked, stored = (_prepared(each.rows.double(), metric) for each in (queries, database))
    step = max(1, AT_ONCE // len(database.labels))
    sums = torch.zeros(3, dtype=torch.float64, device=stored.device)
    for first in range(0, len(asked), step):
        few = asked[first : first + step]
        distances = few.square().sum(1, keepdim=True) + stored.square().sum(1) - 2 * few @ stored.t()
        ordered, order = distances.sort(dim=1)
        relevant = database.labels[order] == queries.labels[first : first + step, None]
        sums += torch.stack([each.sum() for each in measures(ordered, relevant)])
    return Ranking(*(sums / len(asked)).tolist())


def measures(ordered: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Average precision, the one at 11 points of recall, and precision of the first 100, for each row.

    ``ordered``: distances from the nearest on; ``relevant``: whether the image there is of the query's class.
    """
    size = ordered.shape[1]
    rank = torch.arange(1, size + 1, device=ordered.device, dtype=torch.float64)
    found = relevant.double().cumsum(1)
    new = torch.ones_like(relevant)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    exactly, expected = (relevant * found, found) if bool(new.all()) else _in_random_order(new, found)
    precision, whole = expected / rank, found[:, -1:]
    best = precision.flip(1).cummax(1).values.flip(1)
    levels = torch.arange(LEVELS, device=ordered.device, dtype=torch.float64) / (LEVELS - 1)
    # The first rank that reaches a recall; a trifle less, because sums of shares are rounded.
    first = torch.searchsorted(expected.contiguous(), (levels * whole - 1e-9).contiguous()).clamp_max(
        size - 1
    )
    return (
        (exactly / rank).sum(1) / whole[:, 0],
        best.gather(1, first).mean(1),
        precision[:, min(BEST, size) - 1],
    )


def _in_random_order(new: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
    """What to expect where some images are at one distance, of which ``new`` marks the first, and have no order.

    With r of n images relevant each is so with r/n, and given that one is, each other one with (r − 1)/(n − 1)
    (McSherry and Najork 2008). Returned for every rank: the relevant images down to it if the one there is relevant,
    times how probable that is; and the relevant images down to it.
    """
    size = found.shape[1]
    place = torch.arange(size, device=found.device)
    last = torch.ones_like(new)
    last[:, :-1] = new[:, 1:]
    begin = torch.where(new, place, 0).cummax(1).values
    end = torch.where(last, place, size - 1).flip(1).cummin(1).values.flip(1)
    before = torch.where(begin > 0, found.gather(1, (begin - 1).clamp_min(0)), 0.0)
    alike, hits = (end - begin + 1).double(), found.gather(1, end) - before
    inside, chance = (place - begin).double(), hits / alike
    exactly = chance * (before + 1 + inside * (hits - 1) / (alike - 1).clamp_min(1))
    return exactly, before + chance * (inside + 1)


def _prepared(rows: Tensor, metric: str) -> Tensor:
    """For cosine of length 1: then 1 − cos is half of the squared distance, and ranks alike."""
    return F.normalize(rows, dim=1) if metric == "cosine" else rows


def to_dict(found: Mapping[str, Ranking]) -> dict[str, Any]:
    """Plain JSON values."""
    return {metric: ranking.to_dict() for metric, ranking in found.items()}
