"""Pairs of student and teacher layers to compare: by name, by position, or by their information about the labels.

The information flow of a network is each layer's information about the labels; a layer of the student is paired with
the teacher's layer of the most similar information (Passalis et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods.task import Task
from compressor.recipe.loss_terms import pairs_from
from compressor.training.evaluate import in_eval_mode
from compressor.training.layer_outputs import Places, pairs_of, watching
from compressor.training.losses.features import pooled

Pairs = list[tuple[str, str]]

ASKED_IMAGES = 512
"""Images to estimate a layer's information; at least ``ASKED_OF_EACH`` times the classes."""
ASKED_OF_EACH = 10


def compared_layers(task: Task, student: nn.Module, teacher: nn.Module) -> Pairs:
    """The pairs of ``distil.layerwise.layers``."""
    method, layers = f"method `{task.distilling.method}`", task.distilling.layerwise.layers
    mine, theirs = (
        Places(network, torch.zeros(1, *task.data.shape, device=next(network.parameters()).device), whose)
        for network, whose in ((student, "student"), (teacher, "teacher"))
    )
    if layers == "auto":
        pairs = pairs_of(mine, theirs)
    elif layers == "information":
        known = [
            label_information(network, places.stages, task.data, task.seed)
            for network, places in ((student, mine), (teacher, theirs))
        ]
        places = nearest_in_order(*known)
        pairs = [(layer, theirs.stages[place]) for layer, place in zip(mine.stages, places, strict=True)]
    else:
        pairs = list(pairs_from(layers, "distil.layerwise.layers"))
        for one, other in pairs:
            mine.check(one, method)
            theirs.check(other, method)
    if not pairs:
        raise UsageError(
            f"{method} finds no stages in student and teacher to compare",
            "name layers in distil.layerwise.layers, as in A/B",
        )
    return pairs


def label_information(network: nn.Module, layers: Sequence[str], data: Data, seed: int) -> list[float]:
    """Each layer's information about the labels: the accuracy of a nearest-class-mean classifier on its features.

    On some hundred training images, each channel averaged over the image and standardised; an image is left out of
    the mean that it is compared with, so that a layer without information is as good as chance.
    """
    if not data.train.labelled:
        raise UsageError(
            f"distil.layerwise.layers = information needs labels, and the pictures of `{data.name}` have none"
        )
    wanted, device = max(ASKED_IMAGES, ASKED_OF_EACH * len(data.classes)), next(network.parameters()).device
    batch = min(128, len(data.train))
    features: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    labels: list[Tensor] = []
    with torch.no_grad(), in_eval_mode(network), watching(network, layers, None) as seen:
        for each in islice(data.train.batches(batch, shuffle=seed), -(-wanted // batch)):
            network(each.images.to(device))
            labels.append(each.labels)
            for layer in layers:
                features[layer].append(pooled(seen[layer]).double().cpu())
    told = torch.cat(labels)
    return [nearest_mean_accuracy(torch.cat(found), told, len(data.classes)) for found in features.values()]


def nearest_mean_accuracy(features: Tensor, labels: Tensor, classes: int) -> float:
    """The share of rows whose nearest class mean, computed without the row itself, is that of its own class."""
    features = (features - features.mean(0)) / features.std(0).clamp_min(1e-9)
    own = F.one_hot(labels, classes).to(features.dtype)
    counts, sums = own.sum(0), own.t() @ features
    distances = torch.cdist(features, sums / counts.clamp_min(1)[:, None])
    distances[:, counts == 0] = float("inf")
    others = (counts[labels] - 1).clamp_min(1)[:, None]
    without = (sums[labels] - features) / others
    alone = counts[labels] == 1  # without this row its class has no mean
    mine = (features - without).norm(dim=1).masked_fill(alone, float("inf"))
    distances.scatter_(1, labels[:, None], mine[:, None])
    return float((distances.argmin(1) == labels).double().mean())


def nearest_in_order(mine: Sequence[float], theirs: Sequence[float]) -> list[int]:
    """Pair each number of ``mine`` with an index of ``theirs``, in rising order, the last with the last.

    Dynamic programming: the sum of the differences is minimal; of equal solutions the one with the smallest indices.
    """
    best: list[list[tuple[float, list[int]]]] = []
    for number, value in enumerate(mine):
        row: list[tuple[float, list[int]]] = []
        for place, other in enumerate(theirs):
            before = min(best[-1][: place + 1], key=lambda way: way[0]) if best else (0.0, [])
            row.append((before[0] + abs(value - other), [*before[1], place]))
        if number == len(mine) - 1:
            return row[-1][1] if row else []
        best.append(row)
    return []
