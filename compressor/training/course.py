"""One training under way: its epochs and steps, tests and checkpoints, and what to do when memory or numbers fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from compressor.data.split import Batch, Data
from compressor.errors import CompressError
from compressor.recipe.schedule import Schedule
from compressor.training.batchnorm_statistics import has_statistics, measure_statistics
from compressor.training.checkpoint import Checkpoints, Moving, spread
from compressor.training.distributed.exchange import Exchange
from compressor.training.distributed.sync_batchnorm import synchronised
from compressor.training.evaluate import accuracy, in_eval_mode
from compressor.training.failures import DivergedError, check_finite, first_not_finite, is_out_of_memory
from compressor.training.history import Epoch, Progress
from compressor.training.mixup import Mixing, mixing_for
from compressor.training.precision import Arithmetic
from compressor.training.restart import LOWER
from compressor.training.seeds import reseed, seed_of

STATISTICS_BATCHES, STATISTICS_BATCH = 8, 128
"""On how many training images, without augmentation, statistics are measured before a network is tested."""

CHECKPOINT_S = 60.0
"""Seconds between checkpoints within an epoch: what a killed training loses at most, beside an epoch's own."""


@dataclass
class Course:
    """One training under way. The rule between calls: ``moving.place`` is always where the weights are."""

    data: Data
    schedule: Schedule
    arithmetic: Arithmetic
    seed: int
    steps: int
    moving: Moving
    exchange: Exchange
    store: Checkpoints | None
    progress: Callable[[Progress], None] | None
    warnings: list[str]
    guarded: bool = False

    def run(self) -> None:
        """The rest of the training; a loss that is not finite goes back once."""
        while self.moving.place.epoch < self.schedule.epochs:
            try:
                self.epoch()
            except DivergedError as trouble:
                self.back_off(trouble)

    def epoch(self) -> None:
        """The rest of the epoch that the place is in, its test and its checkpoint."""
        data, schedule, place, lesson = self.data, self.schedule, self.moving.place, self.moving.lesson
        device, number, steps = self.arithmetic.device, place.epoch, self.steps
        # Reading a loss waits for the device: nothing on a CPU, on a GPU a stalled queue each time.
        look_every = 1 if device.type == "cpu" else 16
        mixing = mixing_for(schedule, len(data.classes))
        lesson.begin_epoch(number)
        for network in lesson.networks.values():
            network.train()
        reseed(seed_of(self.seed, number, "layers"), device)
        first = looked = place.step
        start = saved = time.perf_counter()
        now = 0.0

        for step, batch in enumerate(self._batches(number, first), start=first):
            reseed(seed_of(self.seed, number, step, "layers"), device)
            rate = place.rate * schedule.learning_rate_at(number * steps + step, schedule.epochs * steps)
            for group in self.moving.optimizer.param_groups:
                group["lr"] = rate
            place.losses[step] = self._gradients(batch, mixing)
            if look_every == 1:  # before the weights move, so that the layer can still be found
                now = self._look(looked, step + 1, batch)
            self._step(number * steps + step + 1)

            place.step = step + 1
            if place.step % look_every == 0 or place.step == steps:
                if look_every > 1:
                    now = self._look(looked, step + 1, batch)
                looked = step + 1
                self._tell(now, (looked - first) * schedule.batch, time.perf_counter() - start)
                if (
                    self.store is not None
                    and self.exchange.world.first
                    and looked < steps
                    and time.perf_counter() - saved > CHECKPOINT_S
                ):
                    place.seconds += time.perf_counter() - start
                    self.store.save(self.moving)
                    first, start = looked, time.perf_counter()
                    saved = start
        place.seconds += time.perf_counter() - start

        teacher = lesson.teacher
        right = None
        if schedule.tests_after(number + 1):
            self._measure_statistics(all_networks=number + 1 == schedule.epochs)
            right = accuracy(lesson.network, data.test, device=device)
            lesson.tested(right)
        images = min(schedule.batch, len(data.train)) * steps
        speed = images / place.seconds
        place.history.append(Epoch(place.losses.mean().item(), right, speed, place.seconds, teacher))
        place.epoch, place.step, place.seconds = number + 1, 0, 0.0
        if self.store is not None and self.exchange.world.first:
            self.store.save(self.moving)
        if self.progress is not None:
            left = (schedule.epochs - place.epoch) * images / speed
            self.progress(
                Progress(number + 1, schedule.epochs, steps, steps, now, speed, right, left, over=True)
            )

    def _measure_statistics(self, *, all_networks: bool) -> None:
        """Running statistics lag behind the weights by as much as their momentum says; these are of the weights."""
        lesson = self.moving.lesson
        shown = {"": lesson.network, **(lesson.networks if all_networks else {})}
        for network in {id(each): each for each in shown.values()}.values():
            if not has_statistics(network):
                continue
            images = self.data.train.plain.batches(STATISTICS_BATCH, shuffle=seed_of(self.seed, "statistics"))
            with in_eval_mode(network):
                few = islice(images, STATISTICS_BATCHES)
                measure_statistics(network, (each.images.to(self.arithmetic.device) for each in few))

    def back_off(self, trouble: DivergedError) -> None:
        """To the last checkpoint and half the rate; the second time it is an error.

        A network that knew something when it began (``guarded``) goes back until the rate is a hundredth.
        """
        hint = f"use a lower learning rate than {self.schedule.learning_rate:g}, or set `clip_norm`"
        place, world = self.moving.place, self.exchange.world
        # Each process looked at its own piece; the one with images that are not finite found where it began.
        found = world.gathered((trouble.place, trouble.in_images))
        where = next((text for text, in_images in found if in_images), found[0][0])
        if self.store is None or (place.back and (not self.guarded or place.rate < 0.01)):
            raise CompressError(where, hint) from None
        # Before the checkpoint is read, which has the rate of then.
        again, rate = bool(place.back), place.rate / LOWER
        if world.first:
            self.store.load(self.moving)
        spread(self.moving, world)
        if again:
            place.rate = rate
            place.back = f"{where}: went back again, and on at {rate:.3g} times the learning rate"
        else:
            place.rate, place.back = 0.5, f"{where}: went back once, and on at half the learning rate"

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of one epoch from the first on, held to the number that the learning rate was planned for."""
        order = seed_of(self.seed, epoch, "order")
        number = first
        part = self.exchange.world.part
        batches = self.data.train.batches(self.schedule.batch, shuffle=order, start=first, part=part)
        for number, batch in enumerate(batches, first + 1):
            if number <= self.steps:
                yield batch
        if number != self.steps:
            raise CompressError(
                f"`{self.data.name}` gave {number} batches of {self.schedule.batch}, "
                f"its length {len(self.data.train)} promises {self.steps}"
            )

    def _gradients(self, batch: Batch, mixing: Mixing | None) -> Tensor:
        """The gradients of one batch, and its loss; in smaller pieces where memory does not hold it.

        Of several processes each has the gradients of its own piece; the loss is that of the batch.
        """
        place, world = self.moving.place, self.exchange.world
        while True:
            self.moving.optimizer.zero_grad(set_to_none=True)
            self.moving.lesson.begin()
            own: Tensor | None = None
            try:
                with synchronised(self.exchange):
                    own = self._in_pieces(batch, mixing)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if place.micro == 1:
                    raise CompressError(
                        f"out of memory with {_images(place.micro)}: {str(error).splitlines()[0]}",
                        "free memory, or use a smaller network or smaller images",
                    ) from error
            # Not in the handler, which still holds the frames and what they computed.
            loss = self.exchange.settle(own)
            if loss is not None:
                return loss
            for (
                network
            ) in self.moving.lesson.networks.values():  # some have seen more of the batch than others
                world.same(network.buffers())
            place.micro = (min(place.micro, self._pieces()[0]) + 1) // 2
            if self.arithmetic.device.type == "cuda":
                torch.cuda.empty_cache()
            self.warnings.append(
                f"out of memory: {place.micro} images at once from here on, in the same batches of "
                f"{self.schedule.batch}; batch norms see the smaller number"
            )

    def _in_pieces(self, batch: Batch, mixing: Mixing | None) -> Tensor:
        images = self.arithmetic.images(batch.images)
        labels = batch.labels.to(self.arithmetic.device, non_blocking=True)
        theirs = images if batch.theirs is None else self.arithmetic.images(batch.theirs)
        if mixing is not None:  # in every process by the same draw, each within its own piece
            both, labels = mixing(images if theirs is images else torch.cat([images, theirs], dim=1), labels)
            images, theirs = both[:, : images.shape[1]], both[:, -images.shape[1] :]
        place, world = self.moving.place, self.exchange.world
        loss = torch.zeros((), device=self.arithmetic.device)
        whole = len(images)
        sizes: int | list[int] = place.micro
        if world.size > 1:
            whole = self._whole
            sizes = self._sizes(len(images))
            # From here on by draws of its own: dropout that is the same in all pieces would be another one.
            drawn = seed_of(self.seed, place.epoch, place.step, "layers", world.rank)
            reseed(drawn, self.arithmetic.device)
        whole_batch = (images, labels, batch.index, theirs)
        for few, told, index, shown in zip(*(each.split(sizes) for each in whole_batch), strict=True):
            share = len(few) / whole

            def backward(part: Tensor, share: float = share) -> None:
                self.moving.scaler.scale(part * share).backward()

            loss += share * self.moving.lesson.learn(few, told, index, backward, shown)
        return loss

    @property
    def _whole(self) -> int:
        """The images of a batch, all processes together."""
        return min(self.schedule.batch, len(self.data.train))

    def _pieces(self) -> tuple[int, int]:
        """The images of a batch that the process with the most has, and the one with the fewest."""
        size = self.exchange.world.size
        return -(-self._whole // size), self._whole // size

    def _sizes(self, images: int) -> list[int]:
        """The parts in which a process computes its piece: as many as every other process has, none of them empty."""
        most, fewest = self._pieces()
        part = self.exchange.world.part
        expected = len(part.piece(torch.arange(self._whole)))
        if images != expected:
            raise CompressError(
                f"`{self.data.name}` gave process {part.number} {images} images of a batch of {self._whole}, "
                f"expected {expected}"
            )
        count = min(-(-most // self.moving.place.micro), fewest)
        return [len(each) for each in torch.arange(images).tensor_split(count)]

    def _step(self, step: int) -> None:
        """Step ``step``, from 1, of the whole training."""
        lesson, optimizer, scaler = self.moving.lesson, self.moving.optimizer, self.moving.scaler
        lesson.before_step()
        self.exchange.world.total_gradients([p for _, p in (*lesson.decayed, *lesson.kept)])
        if self.schedule.clip_norm is not None:
            scaler.unscale_(optimizer)
            moved = [parameter for _, parameter in (*lesson.decayed, *lesson.kept)]
            nn.utils.clip_grad_norm_(moved, self.schedule.clip_norm)
        scaler.step(optimizer)
        scaler.update()
        lesson.after_step(step, self.schedule.epochs * self.steps)

    def _look(self, start: int, stop: int, batch: Batch) -> float:
        place, networks = self.moving.place, self.moving.lesson.networks
        images = self.arithmetic.images(batch.images)
        return check_finite(
            place.losses,
            start,
            stop,
            f"epoch {place.epoch + 1}",
            batch.index,
            lambda: first_not_finite(networks, images),
        )

    def _tell(self, loss: float, images: int, seconds: float) -> None:
        if self.progress is None:
            return
        place, schedule = self.moving.place, self.schedule
        images = min(images, len(self.data.train))
        speed = images / seconds if seconds else 0.0
        todo = (schedule.epochs - place.epoch) * self.steps - place.step
        left = todo * min(schedule.batch, len(self.data.train)) / speed if speed else 0.0
        self.progress(
            Progress(place.epoch + 1, schedule.epochs, place.step, self.steps, loss, speed, None, left)
        )


def _images(count: int) -> str:
    return "a single image" if count == 1 else f"{count} images at once"
