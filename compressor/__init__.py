"""From a trained PyTorch network to a smaller one that is proven, exported and measured.

The verbs below are the whole public interface. They are loaded on first use, because a command line
that only prints its help must not wait seconds for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.api import (
        apply,
        check,
        compress,
        cut,
        cut_optimizer,
        data_from,
        distil,
        export,
        fold_constants,
        load,
        load_data,
        measure_latency,
        plan,
        profile,
        repair,
        save,
        score,
        trace,
    )
    from compressor.errors import CompressError
    from compressor.recipe import Recipe, read_recipe
    from compressor.recipe.budget import Budget
    from compressor.recipe.saliency import Scoring
    from compressor.recipe.schedule import Schedule

__all__ = [
    "Budget",
    "CompressError",
    "Recipe",
    "Schedule",
    "Scoring",
    "apply",
    "check",
    "compress",
    "cut",
    "cut_optimizer",
    "data_from",
    "distil",
    "export",
    "fold_constants",
    "load",
    "load_data",
    "measure_latency",
    "plan",
    "profile",
    "read_recipe",
    "repair",
    "save",
    "score",
    "trace",
]

_HOMES = {
    "Budget": "compressor.recipe.budget",
    "CompressError": "compressor.errors",
    "Recipe": "compressor.recipe",
    "Schedule": "compressor.recipe.schedule",
    "Scoring": "compressor.recipe.saliency",
    "read_recipe": "compressor.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module `compressor` has no attribute `{name}`")
    return getattr(import_module(_HOMES.get(name, "compressor.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
