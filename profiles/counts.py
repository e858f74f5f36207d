"""Multiply-adds, parameters and bytes of a network: exact numbers that no machine's load can move.

Counted are the products: convolution, matrix product, attention. Not counted: bias, normalisation,
pooling, activations and the rest of the elementwise work. This is the convention of the numbers
that torchvision publishes with its weights, and those are reproduced to their last digit.
``macs`` counts multiply-adds; ``flops`` is always twice that.

The network runs once on the *meta* device, where tensors have a shape and no data. That costs
milliseconds whatever the size of the network, and it sees attention: on real CPU tensors
`nn.MultiheadAttention` takes a fused kernel that counts as nothing (36 % of ViT-B/16). Code that
looks at values cannot run there; it runs on a CPU copy with the fused kernels off, and
``Counts.counter`` says so.

Activation memory is watched in the same run; ``activations`` defines it.

Left out: the work of third-party operators (they count as zero), the caller's hooks (they do not
run), and TorchScript, which refuses the hooks that we count with.
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
    """One module's own share. ``output_shape`` is None when its forward never ran.

    ``activation_bytes`` is not a share: all that lives while the module works, whoever wrote it.
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
    tensors need at once (`profiles.activations` says how that is counted). ``counter`` is where the copy ran, and
    ``fallback_reason`` is why it could not be the meta device.
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
    dimension of every other input that has the same size. ``Counts.input_shapes`` says what ran.
    """
    inputs = _one_sample(example_inputs)
    try:
        return _count_on("meta", module, inputs, reason=None)
    except Exception as on_meta:  # whatever the network's own code may raise without data
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
    """A deep copy whose tensors were born on ``device``, without the caller's hooks.

    What `copy.deepcopy` would find is put into its memo beforehand. So no weight is copied only
    to be thrown away, sharing survives, and a hook (often a closure over somebody's statistics)
    never sees our run. A weight that a hook computes, as for pruning masks, is an attribute of
    the module by then and is copied like any other tensor.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for held in (part._parameters, part._buffers, vars(part)):
            for value in held.values():
                if isinstance(value, Tensor) and id(value) not in memo:
                    memo[id(value)] = _born_on(device, value)
        for hooks in (part._forward_hooks, part._forward_pre_hooks):
            memo[id(hooks)] = OrderedDict()
    return copy.deepcopy(module, memo)


def _born_on(device: Device, tensor: Tensor) -> Tensor:
    data = tensor.detach()
    born = torch.empty_like(data, device="meta") if device == "meta" else data.to("cpu", copy=True)
    return nn.Parameter(born, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else born


@contextmanager
def _every_product_visible() -> Iterator[None]:
    """Fused kernels off: the fast path of attention, SDPA and LSTM on a CPU count as nothing."""
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
    """Each module's own multiply-adds (its children's apart), the shape of its output, and the memory."""

    macs: Mapping[nn.Module, int]
    shapes: Mapping[nn.Module, Shape | None]
    activations: Activations


def _run(module: nn.Module, inputs: tuple[Tensor, ...]) -> _Ran:
    flops: Counter[nn.Module] = Counter()
    shapes: dict[nn.Module, Shape | None] = {}
    running = [module]
    counter = FlopCounterMode(display=False, custom_mapping=dict(VECTOR_PRODUCTS))

    def settle() -> None:
        """What was counted since the last border belongs to the innermost running module."""
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
    return _Ran({part: share // 2 for part, share in flops.items()}, shapes, watch.found(output))


def _layers(module: nn.Module, ran: _Ran) -> Iterator[LayerCount]:
    """Leaves that ran, and every module with parameters or multiply-adds of its own.

    A shared module has one row, a shared parameter belongs to its first owner.
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
    """The shape of the first tensor in what a forward returned."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, Mapping):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return next((shape for part in output if (shape := _shape(part)) is not None), None)
    return None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
