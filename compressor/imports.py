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
        public = [name for name in vars(module) if not name.startswith("_")]
        raise unknown_name(f"{kind} in module `{module_name}`", attribute, public)
    if not callable(found):
        raise UsageError(f"{kind} `{reference}` is a {type(found).__name__}, expected something to call")
    return found
