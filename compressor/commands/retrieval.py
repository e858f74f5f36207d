"""Retrieval by a network's embeddings: images of the test half are the queries, the training half is the database.

For each query all images of the database are ranked by their distance, and those of its class are relevant. Images at
the same distance have no order, so every measure is its expected value in random order: an embedding that is the same
for all images is as good as chance, however the database is sorted. Only some queries are in memory at once.
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
"""Number of nearest images for the precision; all images of a smaller database."""
LEVELS = 11
"""Number of levels of recall: 0, 0.1 … 1."""
AT_ONCE = 400_000
"""Number of distances in memory at once; more are no faster, because they do not fit into the cache."""


@dataclass(frozen=True)
class Ranking:
    """Quality of the rankings by one metric, means over all queries, in [0, 1].

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
    """One row of numbers for each image, and the class of each image."""

    rows: Tensor
    labels: Tensor


def evaluate_retrieval(network: nn.Module, data: Data, *, layer: str = EMBEDDING) -> Mapping[str, Ranking]:
    """Measure the rankings by each metric, of the outputs of ``layer``; the embedding is the last linear layer's input.

    The network runs in evaluation mode, on its own device.
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
    """Compute the layer's output for every image of a split, without augmentation."""
    device = next(network.parameters()).device
    rows, labels = [], []
    with in_eval_mode(network), watching(network, [layer], places.classifier) as outputs:
        for samples in split.batches(batch):
            network(samples.images.to(device))
            rows.append(outputs[layer].flatten(1).float())
            labels.append(samples.labels.to(device))
    return Embeddings(torch.cat(rows), torch.cat(labels))


@torch.no_grad()
def rankings(queries: Embeddings, database: Embeddings, metric: str) -> Ranking:
    """Compute the measures over all queries; a class that is missing from the database is an error."""
    classes = int(max(queries.labels.max(), database.labels.max())) + 1
    counts = torch.bincount(database.labels, minlength=classes)
    missing = [label for label in queries.labels.unique().tolist() if not counts[label]]
    if missing:
        raise CompressError(f"the queries have images of class {missing[0]}, the database has none")
    # float64: for near neighbours ‖a‖² + ‖b‖² − 2ab cancels all digits of float32.
    query_rows, database_rows = (_prepared(side.rows.double(), metric) for side in (queries, database))
    step = max(1, AT_ONCE // len(database.labels))
    sums = torch.zeros(3, dtype=torch.float64, device=database_rows.device)
    for first in range(0, len(query_rows), step):
        chunk = query_rows[first : first + step]
        distances = (
            chunk.square().sum(1, keepdim=True)
            + database_rows.square().sum(1)
            - 2 * chunk @ database_rows.t()
        )
        ordered, order = distances.sort(dim=1)
        relevant = database.labels[order] == queries.labels[first : first + step, None]
        sums += torch.stack([values.sum() for values in measures(ordered, relevant)])
    return Ranking(*(sums / len(query_rows)).tolist())


def measures(ordered: Tensor, relevant: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute average precision, that at 11 points of recall, and precision of the first 100, for each row.

    ``ordered``: distances, the nearest first; ``relevant``: True if the image there has the query's class.
    """
    size = ordered.shape[1]
    rank = torch.arange(1, size + 1, device=ordered.device, dtype=torch.float64)
    found_so_far = relevant.double().cumsum(1)
    new = torch.ones_like(relevant)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    exactly, expected = (
        (relevant * found_so_far, found_so_far) if bool(new.all()) else _in_random_order(new, found_so_far)
    )
    precision, total = expected / rank, found_so_far[:, -1:]
    best = precision.flip(1).cummax(1).values.flip(1)
    levels = torch.arange(LEVELS, device=ordered.device, dtype=torch.float64) / (LEVELS - 1)
    # The first rank that reaches a recall; minus 1e-9, because sums of shares are rounded.
    first = torch.searchsorted(expected.contiguous(), (levels * total - 1e-9).contiguous()).clamp_max(
        size - 1
    )
    return (
        (exactly / rank).sum(1) / total[:, 0],
        best.gather(1, first).mean(1),
        precision[:, min(BEST, size) - 1],
    )


def _in_random_order(new: Tensor, found_so_far: Tensor) -> tuple[Tensor, Tensor]:
    """Compute expected values over random orders of images at the same distance; ``new`` marks the first of each group.

    With r of n images relevant each is so with probability r/n, and if one is, each other one with (r − 1)/(n − 1)
    (McSherry and Najork 2008). Returned for every rank: the number of relevant images down to it if the one there is
    relevant, times the probability of that; and the number of relevant images down to it.
    """
    size = found_so_far.shape[1]
    index = torch.arange(size, device=found_so_far.device)
    last = torch.ones_like(new)
    last[:, :-1] = new[:, 1:]
    begin = torch.where(new, index, 0).cummax(1).values
    end = torch.where(last, index, size - 1).flip(1).cummin(1).values.flip(1)
    before = torch.where(begin > 0, found_so_far.gather(1, (begin - 1).clamp_min(0)), 0.0)
    tied, hits = (end - begin + 1).double(), found_so_far.gather(1, end) - before
    offset, chance = (index - begin).double(), hits / tied
    exactly = chance * (before + 1 + offset * (hits - 1) / (tied - 1).clamp_min(1))
    return exactly, before + chance * (offset + 1)


def _prepared(rows: Tensor, metric: str) -> Tensor:
    """Normalise rows for cosine: then 1 − cos is half of the squared distance, and gives the same ranks."""
    return F.normalize(rows, dim=1) if metric == "cosine" else rows


def to_dict(rankings_by_metric: Mapping[str, Ranking]) -> dict[str, Any]:
    """Plain JSON values."""
    return {metric: ranking.to_dict() for metric, ranking in rankings_by_metric.items()}
