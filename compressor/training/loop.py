"""The training loop, read from top to bottom: one network and its teachers, or many networks at once.

A training is a function of its arguments. The same lesson, data, schedule and seed give the
same weights to the last bit on the same machine and number of threads, in one go or killed at any
step and continued. (On CUDA that holds for deterministic kernels; cuDNN's are chosen so, but torch has a
few others, such as the backward pass of overlapping max pooling.) Several processes that train together (`parallel`)
are one more thing that may change the last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from compressor.data.split import Data
from compressor.recipe.loss_terms import terms_of
from compressor.recipe.schedule import Schedule
from compressor.training.checkpoint import Checkpoints, Moving, Place, identity_of, spread
from compressor.training.course import Course
from compressor.training.distributed.exchange import Exchange
from compressor.training.distributed.world import here
from compressor.training.evaluate import accuracy
from compressor.training.guides import Guide
from compressor.training.history import Progress, Trained
from compressor.training.lesson import Lesson, Taught, digest
from compressor.training.optimizers import optimizer_for
from compressor.training.precision import Arithmetic
from compressor.training.refusals import check_enough, check_sense
from compressor.training.restart import Beginning
from compressor.training.seeds import repeatable

CPU = torch.device("cpu")


def train(
    network: nn.Module,
    data: Data,
    schedule: Schedule,
    *,
    teacher: nn.Module | None = None,
    guides: Sequence[Guide] = (),
    losses: Sequence[str] = (),
    at_once: bool = False,
    seed: int = 0,
    device: torch.device = CPU,
    guarded: bool = False,
    checkpoints: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a copy of ``network`` and return it in eval mode, float32, contiguous, on ``device``.

    Nothing given is changed. With a ``teacher`` the loss is w · teacher_loss + (1 − w) ·
    cross_entropy, w the schedule's ``teacher_weight``; ``guides`` are several, weakest first, or ``at_once`` (see
    `Taught`); ``losses`` are added to that, as `terms_of` reads them. ``guarded``: it must not end worse than it begins
    (`follow`). With ``checkpoints``, a folder, the training is saved there, and one found there goes on. Every accuracy
    is measured in float32, as the exported network will be.
    """
    arithmetic = Arithmetic.on(device, schedule.precision)
    guides = guides or ([Guide("teacher", teacher)] if teacher is not None else [])
    check_sense(data, schedule, taught=bool(guides), losses=losses)
    lesson = Taught(
        network,
        guides,
        data,
        schedule,
        arithmetic,
        terms_of(losses),
        seed,
        at_once,
    )
    return follow(
        lesson,
        data,
        schedule,
        arithmetic,
        seed=seed,
        guarded=guarded,
        checkpoints=checkpoints,
        progress=progress,
    )


def follow(
    lesson: Lesson,
    data: Data,
    schedule: Schedule,
    arithmetic: Arithmetic,
    *,
    seed: int = 0,
    guarded: bool = False,
    checkpoints: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train what the lesson trains, and hand out its network; every process hands out the same.

    ``guarded``: the network knows something already, and is not to be worse at the end (`beginning`).
    """
    world, device = here(), arithmetic.device
    check_enough(data, schedule, world.size)
    steps = max(1, len(data.train) // schedule.batch)  # the rule of `Split.batches`
    place = Place(schedule.batch, torch.zeros(steps, device=device))
    moving = Moving(
        lesson,
        optimizer_for(lesson.decayed, lesson.kept, schedule),
        torch.amp.GradScaler(device.type, enabled=arithmetic.precision.name == "fp16"),
        place,
    )
    beginning = Beginning(lesson, data, schedule, arithmetic, seed) if guarded else None
    warnings: list[str] = []
    store = None
    if checkpoints is not None:
        store = Checkpoints(checkpoints, identity_of(lesson, data, schedule, seed), warnings.append)
        if world.first and not store.load(moving):
            store.save(moving)
    spread(moving, world)
    resumed_from = place.epoch * steps + place.step or None

    exchange = Exchange(world, lesson.networks.values(), device)
    course = Course(
        data, schedule, arithmetic, seed, steps, moving, exchange, store, progress, warnings, guarded
    )
    with repeatable(device):
        course.run()
        while beginning is not None and beginning.was_better_than(lesson.network):
            again = beginning.take_up_again(moving)
            if store is not None and world.first:
                store.save(moving)
            if not again:
                break
            course.run()

    return _handed_out(course, resumed_from=resumed_from)


def _handed_out(course: Course, resumed_from: int | None) -> Trained:
    """The trained network, the same in every process, with its history and warnings."""
    moving, place, world = course.moving, course.moving.place, course.exchange.world
    if place.back:
        course.warnings.append(place.back)
    course.warnings.extend((*place.again, *moving.lesson.notes))
    moving.optimizer.zero_grad(set_to_none=True)
    network = _contiguous(moving.lesson.network.eval())
    world.agree("weights after a training", "" if world.size == 1 else digest(network))
    device = course.arithmetic.device
    return Trained(
        network,
        tuple(place.history),
        resumed_from,
        course.arithmetic.precision,
        tuple(dict.fromkeys(course.warnings)),
        before=None if place.history else accuracy(network, course.data.test, device=device),
    )


def _contiguous(network: nn.Module) -> nn.Module:
    # By clone: `.to(contiguous_format)` keeps the channels-last strides of a 1×1 convolution.
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return network
