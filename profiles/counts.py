"""Count multiply-adds, parameters and bytes of a network: exact numbers that do not depend on a machine's load.

Counted are the products: convolution, matrix product, attention. Not counted: bias, normalisation,
pooling, activations and other elementwise work. This is the convention of the numbers that
torchvision publishes with its weights, which are reproduced to their last digit.
``macs`` counts multiply-adds; ``flops`` is always twice that.

The network runs once on the *meta* device, where tensors have a shape and no data. That costs
milliseconds for any size of network, and it includes attention: on real CPU tensors
`nn.MultiheadAttention` uses a fused kernel that counts as zero (36 % of ViT-B/16). Code that
reads values cannot run on *meta*; it runs on a CPU copy with the fused kernels off, and
``Counts.counter`` says so.

Activation memory is measured in the same run; ``activations`` defines it.

Left out: the work of third-party operators (they count as zero), the caller's hooks (they do not
run), and TorchScript, which refuses the hooks that counting needs.
"""

from __future__ import annotations

import copy
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from compressor.errors import ProfileError
from compressor.profiling.activations import Activations
from compressor.profiling.module_steps import Watch

Shape = tuple[int, ...]
Device = Literal["meta", "cpu"]


@dataclass(frozen=True)
class LayerCount:
    """One module's own share, without its children. ``output_shape`` is None if its forward never ran.

    ``activation_bytes`` is not a share: it is all the memory in use while the module runs.
    """

    name: str
    kind: str
    macs: int
    params: int
    output_shape: Shape | None
    activation_bytes: int = 0


@dataclass(frozen=True)
class Counts:
    """The cost of one sample. The layers' ``macs`` and ``params`` sum exactly to the totals.

    ``bytes`` is the memory of parameters and buffers, ``activation_bytes`` the most that all other
    tensors need at once (`profiles.activations` defines it). ``counter`` is the device on which the copy ran, and
    ``fallback_reason`` the reason why it was not the meta device.
    """

    macs: int
    params: int
    bytes: int
    activation_bytes: int
    layers: tuple[LayerCount, ...]
    input_shapes: tuple[Shape, ...]
    counter: Device
    fallback_reason: str | None = None

    @property
    def flops(self) -> int:
        return 2 * self.macs

    def to_dict(self) -> dict[str, object]:
        return {**asdict(self), "flops": self.flops}


def count(module: nn.Module, example_inputs: tuple[Tensor, ...]) -> Counts:
    """Count one forward pass of one sample, in eval mode, on a copy of ``module``.

    The first dimension of the first input is the batch; it is cut to 1, and so is the first
    dimension of every other input that has the same size. ``Counts.input_shapes`` has the shapes that ran.
    """
    inputs = _one_sample(example_inputs)
    try:
        return _count_on("meta", module, inputs, reason=None)
    except Exception as on_meta:  # the network's own code may raise anything without data
        try:
            return _count_on("cpu", module, inputs, reason=_first_line(on_meta))
        except Exception as on_cpu:
            raise ProfileError(
                f"cannot count `{type(module).__name__}`: {_first_line(on_cpu)}",
                "it was run in eval mode with inputs cut to batch 1: "
                + ", ".join(str(tuple(tensor.shape)) for tensor in inputs),
            ) from on_cpu


def _count_on(device: Device, module: nn.Module, inputs: tuple[Tensor, ...], reason: str | None) -> Counts:
    copied = _copy_to(device, module).eval()
    with _every_product_visible():
        ran = _run(copied, tuple(tensor.detach().to(device) for tensor in inputs))
    stored = [*copied.parameters(), *copied.buffers()]
    return Counts(
        macs=sum(ran.macs.values()),
        params=sum(parameter.numel() for parameter in copied.parameters()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
        activation_bytes=ran.activations.peak,
        layers=tuple(_layers(copied, ran)),
        input_shapes=tuple(tuple(tensor.shape) for tensor in inputs),
        counter=device,
        fallback_reason=reason,
    )


def _copy_to(device: Device, module: nn.Module) -> nn.Module:
    """Make a deep copy with its tensors created on ``device``, without the caller's hooks.

    All tensors and hooks are put into the memo of `copy.deepcopy` beforehand. So no weight is copied
    only to be discarded, shared tensors stay shared, and a hook (often a closure over somebody's
    statistics) is not called by this run. A weight that a hook computes, as for pruning masks, is an
    attribute of the module by then and is copied like any other tensor.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for attributes in (part._parameters, part._buffers, vars(part)):
            for value in attributes.values():
                if isinstance(value, Tensor) and id(value) not in memo:
                    memo[id(value)] = _created_on(device, value)
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            memo[id(hooks)] = OrderedDict()
    return copy.deepcopy(module, memo)


def _created_on(device: Device, tensor: Tensor) -> Tensor:
    data = tensor.detach()
    created = torch.empty_like(data, device="meta") if device == "meta" else data.to("cpu", copy=True)
    return nn.Parameter(created, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else created


@contextmanager
def _every_product_visible() -> Iterator[None]:
    """Turn off fused kernels: the fast path of attention, SDPA and LSTM on a CPU would count as zero."""
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    onednn = torch.backends.mkldnn.enabled
    torch.backends.mha.set_fastpath_enabled(False)
    torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
        torch.backends.mkldnn.enabled = onednn


def _vector_product(matrix: Shape, vector: Shape, *_: object, **__: object) -> int:
    return 2 * matrix[0] * (matrix[1] if len(matrix) == 2 else 1)


# Products with a vector, which torch's own table lacks: `x @ self.query` would cost nothing.
VECTOR_PRODUCTS: Mapping[Any, Any] = {
    torch.ops.aten.mv: _vector_product,
    torch.ops.aten.dot: _vector_product,
    torch.ops.aten.addmv: lambda bias, *rest, **kwargs: _vector_product(*rest, **kwargs),
}


@dataclass(frozen=True)
class _Ran:
    """Multiply-adds of each module without its children, the shape of its output, and the memory of the run."""

    macs: Mapping[nn.Module, int]
    shapes: Mapping[nn.Module, Shape | None]
    activations: Activations


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> _Ran:
    flops: Counter[nn.Module] = Counter()
    shapes: dict[nn.Module, Shape | None] = {}
    running = [module]
    counter = FlopCounterMode(display=False, custom_mapping=dict(VECTOR_PRODUCTS))

    def settle() -> None:
        """Add the count since the last call to the innermost running module."""
        flops[running[-1]] += counter.get_total_flops() - flops.total()

    def enter(entered: nn.Module, args: object) -> None:
        settle()
        running.append(entered)

    def leave(left: nn.Module, args: object, output: object) -> None:
        settle()
        running.pop()
        shapes[left] = _shape(output)

    for part in module.modules():
        part.register_forward_pre_hook(enter)
        part.register_forward_hook(leave, always_call=True)
    with counter, Watch(inputs, lambda: running[-1]) as watch:
        output = module(*inputs)
        settle()
    return _Ran({part: share // 2 for part, share in flops.items()}, shapes, watch.memory(output))


def _layers(module: nn.Module, ran: _Ran) -> Iterator[LayerCount]:
    """List leaves that ran, and every module with its own parameters or multiply-adds.

    A shared module has one row, a shared parameter counts for its first owner.
    """
    owned: set[int] = set()
    for name, part in module.named_modules():
        own = [p for p in part.parameters(recurse=False) if id(p) not in owned]
        owned.update(id(parameter) for parameter in own)
        is_leaf_that_ran = part in ran.shapes and not any(True for _ in part.children())
        if own or ran.macs.get(part) or is_leaf_that_ran:
            yield LayerCount(
                name=name,
                kind=type(part).__name__,
                macs=ran.macs.get(part, 0),
                params=sum(parameter.numel() for parameter in own),
                output_shape=ran.shapes.get(part),
                activation_bytes=ran.activations.by_layer.get(part, 0),
            )


def _one_sample(example_inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    if isinstance(example_inputs, Tensor) or not example_inputs:
        raise ProfileError(
            "cannot count: the example inputs must be a tuple of at least one tensor",
            "for a network of one input pass `(x,)`",
        )
    batch = example_inputs[0].shape[:1]
    return tuple(tensor[:1] if batch and tensor.shape[:1] == batch else tensor for tensor in example_inputs)


def _shape(output: object) -> Shape | None:
    """Shape of the first tensor in the result of a forward."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return next((shape for part in output if (shape := _shape(part)) is not None), None)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
