"""The training loop, read from top to bottom: labels alone, or a teacher's answers as well.

A training is a function of its arguments. The same network, data, schedule and seed give the
same weights to the last bit on the same machine and number of threads, in one go or killed and
continued. (On CUDA that holds for deterministic kernels; cuDNN's are chosen so, but torch has a
few others, such as the backward pass of overlapping max pooling.)
Left out: several devices, several teachers, losses on features.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from compressor.data.split import Batch, Data
from compressor.distill.checkpoint import Moving, fingerprint, load_checkpoint, save_checkpoint
from compressor.distill.evaluate import accuracy
from compressor.distill.losses import LOSSES, cross_entropy
from compressor.distill.precision import (
    autocasting,
    choose_precision,
    memory_layout,
)
from compressor.distill.record import Epoch, Progress, Trained
from compressor.distill.repeat import repeatable, seed_of
from compressor.distill.schedule import Schedule
from compressor.distill.teacher import Answers, answers_of
from compressor.errors import CompressError, unknown_name

CPU = torch.device("cpu")


def train(
    network: nn.Module,
    data: Data,
    schedule: Schedule,
    *,
    teacher: nn.Module | None = None,
    seed: int = 0,
    device: torch.device = CPU,
    checkpoints: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Trained:
    """Train a copy of ``network`` and return it in eval mode, float32, contiguous, on ``device``.

    Nothing given is changed. With a ``teacher`` the loss is w · soft_targets + (1 − w) ·
    cross_entropy, w the schedule's ``teacher_weight``. With ``checkpoints``, a folder, every
    epoch is saved there and a training found there goes on. Every accuracy is measured in
    float32, as the exported network will be.
    """
    if schedule.teacher_loss not in LOSSES:
        raise unknown_name("teacher_loss", schedule.teacher_loss, LOSSES)
    if len(data.train) == 0:
        raise CompressError(f"nothing to learn from: the training half of `{data.name}` is empty")
    precision = choose_precision(schedule.precision, device)
    layout = memory_layout(device)
    student = _copied(network, device, layout)
    optimizer = _optimizer(student, schedule)
    scaler = torch.amp.GradScaler(device.type, enabled=precision.name == "fp16")
    moving = Moving(student, optimizer, scaler)
    history: tuple[Epoch, ...] = ()
    if checkpoints is not None:
        identity = fingerprint(network, teacher, data, schedule, seed)
        history = load_checkpoint(checkpoints, moving, identity)
    resumed_from = len(history) or None

    answers: Answers | None = None
    if teacher is not None and len(history) < schedule.epochs:
        teacher = _copied(teacher, device, layout).eval().requires_grad_(False)
        answers = answers_of(teacher, data.train, schedule.batch, precision, device)

    steps = max(1, len(data.train) // schedule.batch)  # the rule of `Split.batches`
    images_per_step = min(schedule.batch, len(data.train))
    # Reading a loss waits for the device: nothing on a CPU, on a GPU a stalled queue each time.
    look_every = 1 if device.type == "cpu" else 16

    for epoch in range(len(history), schedule.epochs):
        with repeatable(seed_of(seed, epoch, "layers"), device):
            losses = torch.zeros(steps, device=device)
            looked = 0
            student.train()
            start = time.perf_counter()
            for step, batch in enumerate(_counted(data, schedule, seed, epoch, steps)):
                rate = schedule.learning_rate_at(epoch * steps + step, schedule.epochs * steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                images = batch.images.to(device, non_blocking=True, memory_format=layout)
                labels = batch.labels.to(device, non_blocking=True)
                told = None if answers is None else answers(images, batch.index)
                with autocasting(precision, device):
                    said = student(images)
                loss = _loss(said, labels, told, schedule)
                losses[step] = loss.detach()

                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if schedule.clip_norm is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(student.parameters(), schedule.clip_norm)
                scaler.step(optimizer)
                scaler.update()

                if (step + 1) % look_every == 0 or step + 1 == steps:
                    now = _last_finite(losses, looked, step + 1, epoch, schedule)
                    looked = step + 1
                    speed = looked * images_per_step / (time.perf_counter() - start)
                    if progress is not None:
                        progress(Progress(epoch + 1, schedule.epochs, looked, steps, now, speed))
            seconds = time.perf_counter() - start

        right = accuracy(student, data.test, device=device) if schedule.tests_after(epoch + 1) else None
        speed = steps * images_per_step / seconds
        history += (Epoch(losses.mean().item(), right, speed, seconds),)
        if checkpoints is not None:
            save_checkpoint(checkpoints, moving, history, identity)
        if progress is not None:
            progress(Progress(epoch + 1, schedule.epochs, steps, steps, now, speed, right))

    optimizer.zero_grad(set_to_none=True)
    return Trained(_contiguous(student.eval()), history, resumed_from, precision)


def _loss(said: Tensor, labels: Tensor, told: Tensor | None, schedule: Schedule) -> Tensor:
    if told is None:
        return cross_entropy(said, labels, label_smoothing=schedule.label_smoothing)
    share = schedule.teacher_weight
    followed = LOSSES[schedule.teacher_loss](said, told, temperature=schedule.temperature)
    if share == 1:
        return followed
    labelled = cross_entropy(said, labels, label_smoothing=schedule.label_smoothing)
    return share * followed + (1 - share) * labelled


def _optimizer(network: nn.Module, schedule: Schedule) -> torch.optim.SGD:
    """SGD that decays weights only.

    Decay keeps a function from growing steep. Biases do not make it steeper, and the scale of a
    norm, pulled to zero, would silence a channel that has just been chosen to stay.
    """
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not learned:
        raise CompressError("nothing to train: every parameter of the network is frozen")
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": schedule.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups,
        lr=schedule.learning_rate,
        momentum=schedule.momentum,
        nesterov=schedule.momentum > 0,
    )


def _counted(data: Data, schedule: Schedule, seed: int, epoch: int, steps: int) -> Iterator[Batch]:
    """The batches of one epoch, held to the number that the learning rate was planned for."""
    number = 0
    for batch in data.train.batches(schedule.batch, shuffle=seed_of(seed, epoch, "order")):
        number += 1
        if number <= steps:
            yield batch
    if number != steps:
        raise CompressError(
            f"`{data.name}` gave {number} batches of {schedule.batch}, "
            f"its length {len(data.train)} promises {steps}"
        )


def _last_finite(losses: Tensor, start: int, stop: int, epoch: int, schedule: Schedule) -> float:
    fresh: list[float] = losses[start:stop].tolist()
    for step, loss in enumerate(fresh, start + 1):
        if not math.isfinite(loss):
            raise CompressError(
                f"the loss is {loss} in epoch {epoch + 1}, step {step}",
                f"use a lower learning rate than {schedule.learning_rate:g}, or set `clip_norm`",
            )
    return fresh[-1]


def _copied(network: nn.Module, device: torch.device, layout: torch.memory_format) -> nn.Module:
    return copy.deepcopy(network).to(device, torch.float32).to(memory_format=layout)


def _contiguous(network: nn.Module) -> nn.Module:
    # By clone: `.to(contiguous_format)` keeps the channels-last strides of a 1×1 convolution.
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return network
