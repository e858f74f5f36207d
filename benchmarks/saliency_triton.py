"""The kernel's twin in Triton, one launch for each tensor: what the same idea costs in a higher language. GPU only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS = 32, 512


@triton.jit
def tile_sums(
    w_ptr,
    g_ptr,
    row_ptr,
    column_ptr,
    rows,
    columns,
    ROWS: tl.constexpr,  # noqa: N803
    COLUMNS: tl.constexpr,  # noqa: N803
):
    """One tile: its sums along both sides, each written to a place of its own."""
    i = tl.program_id(0)
    j = tl.program_id(1)
    r = i * ROWS + tl.arange(0, ROWS)
    c = j * COLUMNS + tl.arange(0, COLUMNS)
    inside = (r[:, None] < rows) & (c[None, :] < columns)
    at = r[:, None].to(tl.int64) * columns + c[None, :]
    w = tl.load(w_ptr + at, inside, other=0.0).to(tl.float32)
    g = tl.load(g_ptr + at, inside, other=0.0).to(tl.float32)
    product = w * g
    tl.store(row_ptr + j * rows + r, tl.sum(product, 1), r < rows)
    tl.store(column_ptr + i * columns + c, tl.sum(product, 0), c < columns)


def triton_sums(
    weights: Sequence[Tensor], gradients: Sequence[Tensor], axes: Sequence[tuple[int, int]], moment: str
) -> list[Tensor]:
    """``sum w*g`` (``wg``) or ``sum w*w`` (``w2``) for each (tensor, axis) of contiguous tensors."""
    parts: dict[int, tuple[Tensor, Tensor]] = {}
    sums = []
    for number, axis in axes:
        w = weights[number]
        if number not in parts:
            g = w if moment == "w2" else gradients[number]
            rows, columns = w.shape[0], w.numel() // w.shape[0]
            grid = (triton.cdiv(rows, ROWS), triton.cdiv(columns, COLUMNS))
            by_row = torch.empty(grid[1], rows, device=w.device)
            by_column = torch.empty(grid[0], columns, device=w.device)
            tile_sums[grid](w, g, by_row, by_column, rows, columns, ROWS=ROWS, COLUMNS=COLUMNS)
            parts[number] = by_row, by_column
        total = parts[number][axis > 0].sum(0, dtype=torch.float64)
        if axis:
            total = total.view(w.shape[1:]).movedim(axis - 1, 0).reshape(w.shape[axis], -1).sum(1)
        sums.append(total)
    return sums
