"""Import the object that ``package.module:name`` on the command line or in a recipe refers to."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from compressor.errors import CompressError, UsageError, unknown_name


def load_attribute(reference: str, kind: str) -> Callable[..., Any]:
    """The callable with the name ``package.module:name``; modules in the current folder can be imported too."""
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
    loaded = getattr(module, attribute, None)
    if loaded is None:
        package = module_name.split(".")[0]  # do not suggest names that the module itself imported
        public = [
            name
            for name, value in vars(module).items()
            if callable(value) and str(getattr(value, "__module__", "")).split(".")[0] == package
        ]
        raise unknown_name(kind, reference, [f"{module_name}:{name}" for name in public])
    if not callable(loaded):
        raise UsageError(f"{kind} `{reference}` is a {type(loaded).__name__}, expected a function or class")
    return loaded
