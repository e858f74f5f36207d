"""Networks that share weights: one vector with all weights, and each network's part of it.

A network that is cut from the same teacher holds an index for each of its weights. Before a step its own vector is
read from the large one, afterwards its gradients are added there: two operations for a network of any depth. Tensors
of four dimensions are stored channels last in both, because convolutions read them faster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from compressor.pruning.cutting.sliced import slice_tensor
from compressor.pruning.widths.plan import Plan


class Flat:
    """The large vector, in two parts: weights with weight decay come first.

    A tensor has one place for all networks (``shared``), or one place for each of the ``members``.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        shared: frozenset[str],
        members: Iterable[str],
        device: torch.device,
    ) -> None:
        self.starts: dict[tuple[str, str], int] = {}
        self.shapes = {name: tensor.shape for name, tensor in tensors.items()}
        owners = {name: [""] if name in shared else list(members) for name in tensors}
        pieces: list[Tensor] = []
        size = 0
        for decays in (True, False):
            for name, tensor in tensors.items():
                if (tensor.ndim > 1) is decays:
                    for owner in owners[name]:
                        self.starts[owner, name] = size
                        pieces.append(_laid_out(tensor).reshape(-1))
                        size += tensor.numel()
            if decays:
                border = size
        self.values = torch.cat(pieces).to(device, torch.float32)
        self.gradients = torch.zeros_like(self.values)
        self.decayed = nn.Parameter(self.values[:border])
        self.kept = nn.Parameter(self.values[border:])
        self._border = border

    def place(self, member: str, name: str) -> int:
        """The start of a member's tensor in the vector."""
        return self.starts.get((member, name), self.starts.get(("", name), -1))

    def index(self, member: str, plan: Plan, names: Iterable[str]) -> Tensor:
        """The places of all weights that a member keeps by the plan, tensor by tensor."""
        device = self.values.device
        parts = []
        for name in names:
            shape, start = self.shapes[name], self.place(member, name)
            numbers = torch.arange(start, start + shape.numel(), device=device)
            numbers = _found(numbers, shape)
            numbers = slice_tensor(name, numbers, plan)
            parts.append(_laid_out(numbers).reshape(-1))
        return torch.cat(parts)

    def tensors(self, member: str) -> dict[str, Tensor]:
        """The whole tensors of a member, at full width."""
        found = {}
        for name, shape in self.shapes.items():
            start = self.place(member, name)
            found[name] = _found(self.values[start : start + shape.numel()], shape).clone()
        return found

    def show_gradients(self) -> None:
        """Assign the summed gradients to the two parts."""
        self.decayed.grad = self.gradients[: self._border]
        self.kept.grad = self.gradients[self._border :]


class Part:
    """A network whose weights are read from a `Flat`, and whose gradients are added to it."""

    def __init__(self, flat: Flat, member: str, network: nn.Module, plan: Plan) -> None:
        named = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self._flat = flat
        self.index = flat.index(member, plan, named)
        self.values = flat.values.index_select(0, self.index)
        self.gradients = torch.zeros_like(self.values)
        start = 0
        for parameter in named.values():
            shape, stop = parameter.shape, start + parameter.numel()
            parameter.data = _found(self.values[start:stop], shape)
            parameter.grad = _found(self.gradients[start:stop], shape)
            start = stop

    def read(self) -> None:
        """Copy the current weights from the large vector."""
        torch.index_select(self._flat.values, 0, self.index, out=self.values)

    def forget(self) -> None:
        """Set the gradients to 0 without adding them to the large vector."""
        self.gradients.zero_()

    def give(self) -> None:
        """Add the gradients to the large vector's, and set them to 0."""
        self._flat.gradients.index_add_(0, self.index, self.gradients)
        self.gradients.zero_()


def _laid_out(tensor: Tensor) -> Tensor:
    """The tensor in the vector's memory order: channels last if it has four dimensions."""
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _found(numbers: Tensor, shape: torch.Size) -> Tensor:
    """A tensor of this shape as a view of numbers in that memory order."""
    if len(shape) != 4:
        return numbers.view(shape)
    outputs, inputs, height, width = shape
    return numbers.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
