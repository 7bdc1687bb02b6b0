"""Train a model, fold by fold, from a prepared cache.

    python training.py                              # PACFNet, a session-level split, all five folds
    python training.py --protocol paper --folds 0   # the published protocol, first fold
    python training.py --folds none                 # one final fit on everything, without a test part
    python training.py --resume                     # go on after a stop, exactly
    python training.py --at-once 5                  # five folds in parallel, on one GPU or several
    python training.py --dry-run                    # how long would it take, in how much memory
    torchrun --nproc-per-node 2 training.py         # two processes, one model
    python training.py ecg-multimodal --help        # another task, with settings of its own

Curves: tensorboard --logdir runs. Then: python evaluate.py --checkpoint checkpoints/<run>.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from common.command_line import named_early, read_settings, split_task
from common.script import run_script
from config import RunSettings
from systems import registry


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train the folds that the command line names; return the folder of their checkpoints."""
    task, rest = split_task(sys.argv[1:] if arguments is None else arguments, registry.TASKS)
    settings = read_training_settings(task, rest)
    from systems.base.training_run import (
        train,  # torch and all that learns: not before, so that --help is quick
    )

    return train(registry.make_task(task, settings), [Path(__file__).resolve(), task, *rest])


def read_training_settings(task: str, arguments: Sequence[str]) -> RunSettings:
    """Return the settings of the preset and protocol that the options name, changed by the other options."""
    early = named_early(arguments, "preset", "protocol", "device")
    preset = _resolve_preset(early["preset"] or "auto", early["device"] or "auto", arguments)
    defaults = registry.training_defaults(task, preset, early["protocol"] or "")
    return replace(read_settings(type(defaults), arguments, __doc__, defaults), preset=preset)


def _resolve_preset(preset: str, device: str, arguments: Sequence[str] = ()) -> Literal["paper", "small"]:
    """Return the preset that auto stands for on this machine; --help finds CUDA without torch."""
    if preset != "auto":
        return "paper" if preset == "paper" else "small"
    if {"-h", "--help"} & set(arguments):
        cuda = device != "cpu" and Path("/dev/nvidia0").exists() and "+cpu" not in version("torch")
        return "paper" if cuda else "small"
    from learning.devices import choose_device

    return "paper" if choose_device(device).type == "cuda" else "small"


if __name__ == "__main__":
    run_script(main)
