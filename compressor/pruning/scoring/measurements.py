"""Measure the inputs of criteria, batch by batch: sums over weights and gradients, gates and ranks of outputs.

The recording of the network runs again on new leaf tensors that share the network's memory, so that the network's own
gradients do not change. A recording is for one input shape; the last batch of a data set may have another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data.split import Batch
from compressor.errors import CompressError, UsageError
from compressor.models.copying import named_tensors
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.graph.labelled import Walk, walk
from compressor.pruning.graph.recording.example import from_description, inputs_of
from compressor.pruning.graph.recording.operation import Recording
from compressor.pruning.graph.recording.replay import plainly, replay
from compressor.pruning.scoring.channel_outputs import Gates, InPlace, Key, Ranks, made_by, shown_by
from compressor.pruning.scoring.criteria import BATCH_NORM_SCALE, MEASURES, OTHER, SCALE, WEIGHT
from compressor.pruning.scoring.kernels.sums import channel_sums, choose
from compressor.training import losses

Loss = Callable[[Any, Batch], Tensor]
"""(the network's output, the batch) -> the mean loss over the batch."""

TAUGHT, TEMPERATURE = 0.4, 15.0
"""Weight and temperature of the distillation term in the loss of a network with a teacher (Miles and Mikolajczyk)."""


def cross_entropy(answer: Any, batch: Batch) -> Tensor:
    """The cross-entropy of a classifier's logits and the labels."""
    if not isinstance(answer, Tensor) or answer.dim() != 2:
        what = f"a tensor of shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else _kind(answer)
        raise UsageError(
            f"the network returns {what}, expected logits (images, classes)",
            "give a `loss(answer, batch)` of your own, or choose a criterion that needs no data, as `l2`",
        )
    return losses.cross_entropy(answer, batch.labels)


@dataclass(frozen=True)
class Measures:
    """The measures of one batch (or of the weights alone) by axis, and the facts that formulas need beside them."""

    by_axis: Mapping[Key, Mapping[str, Tensor]]
    tensors: Mapping[str, Tensor]
    kinds: Mapping[str, str]
    produces: frozenset[Key]
    images: int = 1
    where: str = ""


@dataclass
class Measuring:
    """Measures one network. ``backend`` is what computed the sums, ``fallback`` why it was not the kernel."""

    network: nn.Module
    graph: ChannelGraph
    measures: tuple[str, ...]
    loss: Loss
    device: torch.device
    backend: str = field(init=False)
    fallback: str | None = field(init=False)
    _walks: dict[tuple[int, ...], Walk] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        own = named_tensors(self.network)
        self._parameters = {name for name, tensor in own.items() if isinstance(tensor, nn.Parameter)}
        self._tensors = {name: tensor.detach().to(self.device) for name, tensor in own.items()}
        # Running statistics are slots of groups too, and are never scored.
        slots = [slot for group in self.graph.groups for slot in group.slots]
        self._keys = list(
            dict.fromkeys((slot.tensor, slot.axis) for slot in slots if slot.tensor in self._parameters)
        )
        # Ranks and plain formulas are torch's anyway.
        summing = any(name != "rank" for name in self.measures)
        first = next((self._tensors[name] for name, _ in self._keys), torch.empty(0, device=self.device))
        choice = choose([first], "auto" if summing else "torch")
        self.backend, self.fallback = choice.backend, choice.fallback
        made = (slot for group in self.graph.groups for slot in group.produces)
        self._produces = frozenset((slot.tensor, slot.axis) for slot in made)

    def taught_by(self, teacher: nn.Module) -> Measuring:
        """The same with the loss of a network that has a teacher: the loss by labels plus a distillation term."""
        copied = copy.deepcopy(teacher).to(self.device).eval()
        label_loss = self.loss

        def loss(answer: Any, batch: Batch) -> Tensor:
            with torch.no_grad():
                teacher_logits = copied(batch.images)
            by_labels = label_loss(answer, batch)
            return by_labels + TAUGHT * losses.kd(answer, teacher_logits, temperature=TEMPERATURE)

        return replace(self, loss=loss)

    def weights(self) -> Measures:
        """The measures that need no data."""
        walked = walk(self.network, from_description(self.graph.inputs)) if self.graph.inputs else None
        return self._measured(walked, self._sums({}), "", 1)

    def over(self, batches: Iterable[Batch]) -> Iterator[Measures]:
        """The measures of batch after batch."""
        for number, batch in enumerate(batches, start=1):
            where = f" in batch {number}"
            walked = self._walk(batch.images)
            on_device = Batch(batch.images.to(self.device), batch.labels.to(self.device), batch.index)
            _check_labels(walked.recording, batch.labels, where)
            if "rank" in self.measures:
                by_axis = self._ranks(walked, on_device.images)
            else:
                by_axis = self._by_loss(walked, on_device, where)
            yield self._measured(walked, by_axis, where, len(batch.images))

    def _walk(self, images: Tensor) -> Walk:
        shape = tuple(images.shape)
        if shape not in self._walks:
            self._walks = {
                shape: walk(self.network, inputs_of(images))
            }  # the last shape only: most are equal
        return self._walks[shape]

    def _measured(
        self, walked: Walk | None, by_axis: dict[Key, dict[str, Tensor]], where: str, images: int
    ) -> Measures:
        for key in self._keys:
            by_axis.setdefault(key, {})
        kinds = {name: WEIGHT if self._tensors[name].dim() > 1 else OTHER for name, _ in self._keys}
        if walked is not None:
            kinds.update(_norm_scales(walked.recording))
        return Measures(by_axis, self._tensors, kinds, self._produces, images, where)

    def _ranks(self, walked: Walk, images: Tensor) -> dict[Key, dict[str, Tensor]]:
        step = Ranks(shown_by(walked, made_by(walked, set(self._produces))))
        with torch.no_grad():
            replay(walked.recording, self._tensors, [images], step)
        return {key: {"rank": ranks.mean(0)} for key, ranks in step.sums.items()}

    def _by_loss(self, walked: Walk, batch: Batch, where: str) -> dict[Key, dict[str, Tensor]]:
        """One forward and one backward pass, with only the gradients that the measures need."""
        images = len(batch.images)
        names = list(dict.fromkeys(name for name, _ in self._keys)) if self._needs("gradients") else []
        leaves = {name: self._tensors[name].detach().requires_grad_() for name in names}
        made = made_by(walked, set(self._produces)) if self._needs("outputs") else {}
        gates = Gates(made, images, InPlace.of(walked)) if made else None
        with torch.enable_grad():
            outputs = replay(walked.recording, {**self._tensors, **leaves}, [batch.images], gates or plainly)
            loss = self.loss(_returned(walked.recording, outputs), batch)
        del outputs
        if not loss.isfinite():
            raise CompressError(
                f"the loss is {loss.item()}{where}",
                "check the weights, and that images are normalised as in the teacher's training",
            )
        gradients: dict[str, Tensor] = {}
        if names:
            # None for a tensor that the loss does not depend on.
            all_gradients = torch.autograd.grad(loss, [*leaves.values()], allow_unused=True)
            gradients = {
                name: gradient
                for name, gradient in zip(names, all_gradients, strict=True)
                if gradient is not None
            }
        elif loss.requires_grad:
            loss.backward()
        del loss
        if gates is not None and gates.fell_back is not None:
            self.backend, self.fallback = gates.fell_back.backend, gates.fell_back.fallback
        by_axis = self._sums(gradients)
        for key, sums in gates.sums.items() if gates is not None else ():
            # The loss is a mean over the batch: the gradient of one image's own loss is `images` times larger.
            per_image = sums * images
            by_axis.setdefault(key, {}).update(gate=per_image.mean(0), gate2=per_image.square().mean(0))
        _check_finite(by_axis, where)
        return by_axis

    def _needs(self, source: str) -> bool:
        return any(MEASURES[name] == source for name in self.measures)

    def _sums(self, gradients: Mapping[str, Tensor]) -> dict[Key, dict[str, Tensor]]:
        """Sums over weights, and over weights times gradients where there are gradients."""
        moments = [name for name in self.measures if MEASURES[name] in ("weights", "gradients")]
        keys = [key for key in self._keys if not self._needs("gradients") or key[0] in gradients]
        if not moments or not keys:
            return {}
        names = list(dict.fromkeys(name for name, _ in keys))
        place = {name: number for number, name in enumerate(names)}
        done = channel_sums(
            [self._tensors[name] for name in names],
            [gradients[name] for name in names] if gradients else None,
            [(place[name], axis) for name, axis in keys],
            moments,
        )
        self.backend, self.fallback = done.backend, done.fallback
        return {
            key: dict(zip(moments, values, strict=True))
            for key, values in zip(keys, done.values, strict=True)
        }


SCALES_AT = {"batch_norm": 3, "instance_norm": 1, "layer_norm": 2, "rms_norm": 2, "group_norm": 2}
"""Position of the scale among the arguments of each norm."""


def _norm_scales(recording: Recording) -> dict[str, str]:
    """The tensors that are scales of norms, with their kind."""
    kinds: dict[str, str] = {}
    for operation in recording.operations:
        at = SCALES_AT.get(operation.operator)
        scale = operation.args[at] if at is not None and len(operation.args) > at else None
        if isinstance(scale, Tensor) and id(scale) in recording.names:
            kind = BATCH_NORM_SCALE if operation.operator == "batch_norm" else SCALE
            kinds[recording.names[id(scale)]] = kind
    return kinds


def _returned(recording: Recording, outputs: list[Tensor]) -> Any:
    """The network's output: a tensor, a dictionary of tensors, or a list of them."""
    if isinstance(recording.result, Tensor):
        return outputs[0]
    if isinstance(recording.result, Mapping) and len(recording.result) == len(outputs):
        return dict(zip(recording.result, outputs, strict=True))
    return outputs


def _kind(answer: Any) -> str:
    return f"a dictionary of {', '.join(answer)}" if isinstance(answer, dict) else f"{len(answer)} tensors"


def _check_labels(recording: Recording, labels: Tensor, where: str) -> None:
    """Check labels before the pass and on the CPU: on a GPU a label out of range makes every later call fail too."""
    result = recording.result
    if isinstance(result, Tensor) and result.dim() == 2 and len(labels) and not labels.is_floating_point():
        classes = result.shape[1]
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise UsageError(
                f"label {low if low < 0 else high}{where}, but the network has {classes} outputs",
                f"labels go from 0 to {classes - 1}; is this the data that the network was trained on?",
            )


def _check_finite(by_axis: Mapping[Key, Mapping[str, Tensor]], where: str) -> None:
    values = [value for measures in by_axis.values() for value in measures.values()]
    if values and torch.cat([value.flatten() for value in values]).isfinite().all():
        return  # one check for all tensors: every check waits for the device
    for (tensor, _), measures in by_axis.items():
        if not all(value.isfinite().all() for value in measures.values()):
            raise CompressError(
                f"the gradient of `{tensor}` is not finite{where}",
                "check the weights, and that images are normalised as in the teacher's training",
            )
