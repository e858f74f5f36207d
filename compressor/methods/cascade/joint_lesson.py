"""Train student, assistants and the whole network at once, while their channels are chosen.

They share the weights of convolutions and matrix products. Norms, the classifier and the first layer are each
network's own (Miles and Mikolajczyk 2020, section 4). Each is taught by the next larger one, the whole network by the
guide. Masked channels are not multiplied by 0 but cut out: each network is a cut teacher, so masking costs no time and
masked and cut networks cannot differ. A network's scores move only for channels that its teacher has; the whole
network has all of them, so every channel can come back.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.methods.cascade.masks import Derivatives, Moving, Units, chosen
from compressor.methods.cascade.shared_weights import Flat, Part
from compressor.methods.stages import Stage
from compressor.pruning.cutting import cut
from compressor.pruning.cutting.sliced import slice_tensor
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.scoring.scores import Scores
from compressor.pruning.widths.plan import Plan
from compressor.recipe.budget import Budget
from compressor.recipe.distilling import Distilling
from compressor.training import Arithmetic, Guide
from compressor.training.distributed.world import here
from compressor.training.guides import Answers, answering, answers_of
from compressor.training.lesson import Backward, digest, loss_of
from compressor.training.optimizers import Named

WHOLE = "whole"
"""The network that is not cut, between the assistants and the guide."""
MASKS_EVERY = 20
"""Number of steps after which channels are chosen again."""
MASKS_SHARE = 0.8
"""The share of the steps in which channels may change."""
SCORE_TRAVEL = 1.0
"""The distance that a score can move (ranks from 0 to 1) if its derivative never changes its sign."""


@dataclass
class Member:
    """One of the networks: its stage, its current units, and the network cut to them.

    ``buffers``: its running statistics at full width, as they were when its units last changed.
    """

    stage: Stage
    kept: NDArray[np.bool_]
    plan: Plan
    network: nn.Module
    part: Part
    buffers: dict[str, Tensor]
    moving: Moving | None = None
    derivatives: Derivatives | None = None


class Together:
    """A `Lesson` of several networks, the student first."""

    def __init__(
        self,
        teacher: nn.Module,
        guide: Guide,
        graph: ChannelGraph,
        scores: Scores,
        budget: Budget,
        path: Sequence[Stage],
        distilling: Distilling,
        data: Data,
        arithmetic: Arithmetic,
        backend: str = "auto",
    ) -> None:
        self.notes: list[str] = []
        asked = {key: value for key, value in asdict(distilling).items() if key != "schedule"}
        self._identity: dict[str, object] = {
            "network": digest(teacher),
            "teacher": digest(guide.network),
            "widths": _digest_of_plans(path),
            **{f"distil.{key}": value for key, value in asked.items()},
        }
        self._arithmetic, self._data, self._distilling, self._budget = arithmetic, data, distilling, budget
        self._schedule = distilling.in_cascade
        self._backend = backend
        self._guide = guide
        self._told: Answers | None = None
        self._derivatives: dict[int, Tensor] = {}  # by the number of the network that they move
        self._teacher = copy.deepcopy(teacher).cpu().float()
        tensors = {name: p.detach() for name, p in self._teacher.named_parameters() if p.requires_grad}
        names = [stage.name for stage in reversed(path)] + [WHOLE]
        shared = frozenset(tensors) - own_tensors(self._teacher, graph)
        self._flat = Flat(tensors, shared, names, arithmetic.device)
        self._units = Units(graph, dict(self._teacher.named_parameters()))
        self._learns = bool(self._units.count)
        full = {name: buffer.detach().clone() for name, buffer in self._teacher.named_buffers()}
        start = self._units.places(scores)
        self.members: list[Member] = []
        for name in names:
            stage = next((each for each in path if each.name == name), Stage(WHOLE, Plan({})))
            kept = self._kept_by(stage.plan)
            member = self._built(stage, kept, {key: value.clone() for key, value in full.items()})
            if name != WHOLE and self._learns:
                member.moving = Moving(start, arithmetic.device)
            self.members.append(member)

    # ------------------------------------------------------------------ called by the training loop

    @property
    def network(self) -> nn.Module:
        return self.members[0].network

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        return {member.stage.name: member.network for member in self.members}

    @property
    def teacher(self) -> str | None:
        return self.members[1].stage.name

    @property
    def decayed(self) -> Named:
        return [("decayed", self._flat.decayed)]

    @property
    def kept(self) -> Named:
        return [("kept", self._flat.kept)]

    def begin_epoch(self, number: int) -> None: ...

    def begin(self) -> None:
        for member in self.members:
            member.part.forget()

    def learn(
        self,
        images: Tensor,
        labels: Tensor,
        index: Tensor,
        backward: Backward,
        theirs: Tensor | None = None,
    ) -> Tensor:
        """Train the largest first: its logits are the target of the next. Each is done before the next begins."""
        told = self._answers()(images if theirs is None else theirs, index)
        total = torch.zeros((), device=images.device)
        for member in reversed(self.members):
            with self._arithmetic.autocast():
                said = member.network(images)
            loss = loss_of(said, labels, told, self._schedule)
            backward(loss)
            told = said.detach().float()
            total += loss.detach()
        return total / len(self.members)

    def before_step(self) -> None:
        """Add every network's gradients to the shared weights; keep its mask derivatives for its student."""
        self._flat.gradients.zero_()
        for number, member in enumerate(self.members):
            if self._learns and number:
                if member.derivatives is None:
                    member.derivatives = Derivatives(self._units, member.network, member.plan, self._backend)
                self._derivatives[number - 1] = here().total(member.derivatives())
            member.part.give()
        self._flat.show_gradients()

    def after_step(self, step: int, steps: int) -> None:
        for member in self.members:
            member.part.read()
        moving = round(steps * MASKS_SHARE)
        if not self._learns or step > moving:
            return
        # The distances of all steps sum to SCORE_TRAVEL; they shrink like the learning rate.
        distance = SCORE_TRAVEL * 2 * (1 - step / (moving + 1)) / moving
        for number, derivative in self._derivatives.items():
            mover = self.members[number].moving
            if mover is not None:
                mover.move(derivative, distance)
        if step % MASKS_EVERY == 0 or step == moving:
            self._choose()

    def tested(self, accuracy: float) -> None: ...

    def watched(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor | None:
        """No loss to watch: its channels change, and the expected loss with them."""
        return None

    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {"weights": self._flat.values}
        for member in self.members:
            name = member.stage.name
            self._keep_buffers(member)
            state |= {f"{name}.buffer.{key}": buffer for key, buffer in member.buffers.items()}
            state[f"{name}.kept"] = torch.from_numpy(member.kept)
            if member.moving is not None:
                state |= member.moving.state(name)
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self._flat.values.copy_(state["weights"])
        for number, member in enumerate(self.members):
            name = member.stage.name
            buffers = {key: state[f"{name}.buffer.{key}"] for key in member.buffers}
            kept = state[f"{name}.kept"].numpy()
            if member.moving is not None:
                member.moving.restore(name, state)
            self.members[number] = self._built(member.stage, kept, buffers, member.moving)

    def identity(self) -> Mapping[str, object]:
        return self._identity

    # ------------------------------------------------------------------ results

    def at_full_width(self, member: Member) -> nn.Module:
        """The uncut network of a member: the teacher's class with the member's weights and statistics."""
        self._keep_buffers(member)
        network = copy.deepcopy(self._teacher)
        state = {**self._flat.tensors(member.stage.name), **member.buffers}
        network.load_state_dict({**network.state_dict(), **{k: v.cpu() for k, v in state.items()}})
        return network.eval()

    # ------------------------------------------------------------------ masks

    def _choose(self) -> None:
        """Choose every network's units again, the largest first, each within the next larger one."""
        within = np.ones(self._units.count, dtype=np.bool_)
        for number in range(len(self.members) - 2, -1, -1):
            member = self.members[number]
            assert member.moving is not None
            row = member.moving.row.cpu().numpy()
            kept = chosen(self._units, row, member.stage, self._budget, within)
            if not np.array_equal(kept, member.kept):
                self._keep_buffers(member)
                training = member.network.training
                self.members[number] = self._built(member.stage, kept, member.buffers, member.moving)
                self.members[number].network.train(training)
            within = kept

    def _built(
        self,
        stage: Stage,
        kept: NDArray[np.bool_],
        buffers: dict[str, Tensor],
        moving: Moving | None = None,
    ) -> Member:
        plan = self._units.plan(kept) if stage.name != WHOLE else Plan({})
        network = cut(self._teacher, plan) if plan.slices else copy.deepcopy(self._teacher)
        network = network.to(self._arithmetic.device)
        with torch.no_grad():
            for name, buffer in network.named_buffers():
                if name in buffers:
                    buffer.copy_(slice_tensor(name, buffers[name], plan))
        part = Part(self._flat, stage.name, network, plan)
        return Member(stage, kept, plan, network, part, buffers, moving)

    def _keep_buffers(self, member: Member) -> None:
        """Copy the running statistics of the current units to the buffers at full width."""
        for name, buffer in member.network.named_buffers():
            if name in member.buffers:
                member.buffers[name] = _put_back(member.buffers[name], buffer.cpu(), member.plan, name)

    def _kept_by(self, plan: Plan) -> NDArray[np.bool_]:
        """The units that a plan keeps, read from the first slot of each group."""
        row = np.ones(self._units.count, dtype=np.bool_)
        for group in self._units.graph.groups:
            slot = group.slots[0]
            kept = plan.slices.get(slot.tensor, {}).get(slot.axis)
            if kept is not None:
                start = self._units.starts[group.name]
                row[start : start + group.units] = np.isin(slot.indices[:, 0], np.array(kept))
        return row

    def _answers(self) -> Answers:
        if self._told is None:
            teacher = answering(self._guide.network, self._arithmetic)
            self._told = answers_of(
                teacher, self._data.train, self._schedule, self._arithmetic, self.notes.append
            )
        return self._told


def own_tensors(network: nn.Module, graph: ChannelGraph) -> frozenset[str]:
    """The parameters that are not shared: of norms, of the classifier, of the first layer."""
    norms = (
        nn.modules.batchnorm._NormBase,
        nn.GroupNorm,
        nn.LayerNorm,
        nn.RMSNorm,
    )
    paths = {path for path, module in network.named_modules() if isinstance(module, norms)}
    if graph.layers:
        paths |= {graph.layers[0].name, graph.layers[-1].name}
    return frozenset(name for name, _ in network.named_parameters() if name.rpartition(".")[0] in paths)


def _put_back(full: Tensor, part: Tensor, plan: Plan, name: str) -> Tensor:
    axes = plan.slices.get(name, {})
    if not axes:
        return part.clone()
    result = full.clone()
    result[np.ix_(*(axes.get(axis, range(size)) for axis, size in enumerate(full.shape)))] = part
    return result


def _digest_of_plans(path: Sequence[Stage]) -> str:
    text = json.dumps([stage.to_dict() for stage in path], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
