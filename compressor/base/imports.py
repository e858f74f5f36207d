"""What ``package.module:name`` on the command line or in a recipe means."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from compressor.errors import CompressError, UsageError, unknown_name


def load_attribute(reference: str, kind: str) -> Callable[..., Any]:
    """The callable that ``package.module:name`` names; the current folder counts as importable."""
    module_name, _, attribute = reference.partition(":")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"cannot import {kind} `{reference}`: no module named `{error.name}`",
            "run from the folder that contains it, or install the package",
        ) from error
    except Exception as error:
        raise CompressError(f"cannot import {kind} `{reference}`: {type(error).__name__}: {error}") from error
    found = getattr(module, attribute, None)
    if found is None:
        package = module_name.split(".")[0]  # what it imported from elsewhere is no suggestion
        public = [
            name
            for name, value in vars(module).items()
            if callable(value) and str(getattr(value, "__module__", "")).split(".")[0] == package
        ]
        raise unknown_name(kind, reference, [f"{module_name}:{name}" for name in public])
    if not callable(found):
        raise UsageError(f"{kind} `{reference}` is a {type(found).__name__}, expected something to call")
    return found
