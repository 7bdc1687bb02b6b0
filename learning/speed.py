"""Compiling what is trained, which changes no result but by rounding."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import cast

import torch
from torch import nn

from common.errors import UserError

COMPILERS = ("g++", "clang++", "c++")


def compiled(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with its forward and backward pass compiled at the first step.

    The weights are those of ``model``; `learning.distributed.unwrap` gives it back.

    Raises
    ------
    UserError
        If what compiles is missing.
    """
    compilers = [name for name in (os.environ.get("CXX"), *COMPILERS) if name and shutil.which(name)]
    if device.type == "cpu" and not compilers:
        raise UserError("--compile needs a C++ compiler such as g++: install one, or go without.")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise UserError("--compile on CUDA needs Triton: pip install triton, or go without.")
    return cast(nn.Module, torch.compile(model))
