"""The operators that a program may call: by their names in its description, and nothing else by any name.

A description may come from a stranger. Its steps compute on tensors that they are given; none may read or write a
file, memory beyond a tensor, or anything outside the program.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

from compressor.pruning.graph.recording.layer_calls import CALLS
from compressor.pruning.graph.rules.table import RULES

RENAMED: dict[str, str] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias"), "aten.reshape.default"),
    "split_with_sizes": "aten.split_with_sizes.default",
    "slice": "aten.slice.Tensor",
    "index_select": "aten.index_select.default",
    "index_copy_": "aten.index_copy_.default",
    "expand": "aten.expand.default",
    "lift_fresh": "aten.alias.default",
}
"""Operators that a rewritten program calls by another name than the recorded one."""

REFUSED = re.compile(
    "_reshape_alias|batch_norm_|from_file|set_|resize|shallow_|requires_grad|pin_memory|empty_strided|"
    ".*(backward|cudnn_(?!batch_norm)|miopen|mkldnn|fbgemm|quant|sparse|nested|mps_|cuda)"
)
"""Operators that believe sizes and strides they are given, read files, or are for special tensors and devices."""

PRIVATE = frozenset(
    """_fft_r2c _fft_c2r _fft_c2c _cdist_forward _euclidean_dist _trilinear _to_copy _unsafe_index _conj _neg_view
    _unsafe_masked_index _upsample_bilinear2d_aa _upsample_bicubic2d_aa _adaptive_avg_pool2d
    _adaptive_avg_pool3d """.split()
)
"""Operators with a private name and without a rule that are safe: networks that compute with them have no other."""

TEXTS = frozenset(("rounding_mode", "approximate", "reduce", "indexing", "interpolation", "padding_mode"))
"""Arguments that are text. An operator with any other may read a file by its name."""


def function_named(operator: str) -> Callable[..., Any] | None:
    """The function that a step may call: a layer by its name, or an operator of ATen or torchvision; else None."""
    if operator in CALLS:
        return CALLS[operator]
    library, _, rest = operator.partition(".")
    name, _, overload = rest.partition(".")
    if library not in ("aten", "torchvision") or not overload or REFUSED.match(name):
        return None
    if library == "torchvision":
        import torchvision.ops  # noqa: F401  # registers them
    known = name in RULES or name.removesuffix("_") in RULES or name in PRIVATE
    if name.startswith("_") and not known:
        return None
    function = getattr(getattr(getattr(torch.ops, library), name, None), overload, None)
    # Of an operator's other attributes some can be called too, and PyTorch has functions that it does not dispatch.
    if not isinstance(function, torch._ops.OpOverload):
        return None
    if any(argument.is_out for argument in function._schema.arguments):
        return None
    return function if known or _computes_only(function) else None


def _computes_only(function: torch._ops.OpOverload) -> bool:
    """True for an operator from tensors to tensors, which writes nowhere but into the first of them."""
    schema = function._schema
    if not schema.arguments or not schema.returns or not torch._C._dispatch_has_kernel(function.name()):
        return False
    for place, argument in enumerate(schema.arguments):
        kind = str(argument.type)
        if place and argument.alias_info is not None and argument.alias_info.is_write:
            return False
        if "str" in kind and argument.name not in TEXTS:
            return False
        if any(word in kind for word in ("Generator", "Storage", "Stream", "QScheme", "__torch__", "Any")):
            return argument.name == "generator"  # drawn numbers: nothing hands one over
    return all("Tensor" in str(each.type) for each in schema.returns)
