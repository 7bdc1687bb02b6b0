"""Train a model, fold by fold, from a prepared cache.

    python training.py                              # PACFNet, a session-level split, all five folds
    python training.py --protocol paper --folds 0   # the published protocol, first fold
    python training.py --folds none                 # one final fit on everything, without a test part
    python training.py --resume                     # go on after a stop, exactly
    python training.py --at-once 5                  # five folds in parallel, on one GPU or several
    python training.py --dry-run                    # how long would it take, in how much memory
    torchrun --nproc-per-node 2 training.py         # two processes, one model
    python training.py --config settings.json       # with the settings of an earlier run
    python training.py --list                       # the caches and runs that there are
    python training.py ecg-multimodal --help        # another task, with settings of its own

Curves: tensorboard --logdir runs. Then: python evaluate.py --checkpoint checkpoints/<run>.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from common.command_line import named_early, read_config, read_settings, split_task, with_config
from common.errors import UserError
from common.script import run_script
from config import RunSettings
from systems import registry


def main(arguments: Sequence[str] | None = None) -> Path:
    """Train the folds that the command line names; return the folder of their checkpoints."""
    task, rest = read_task(sys.argv[1:] if arguments is None else arguments)
    settings = read_training_settings(task, rest)
    if settings.list:
        print(registry.listing(settings.cache_dir, settings.checkpoint_dir))
        return settings.checkpoint_dir
    from systems.base.training_run import (
        train,  # torch and all that learns: not before, so that --help is quick
    )

    return train(registry.make_task(task, settings), [Path(__file__).resolve(), task, *rest])


def read_task(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the task that the first word or the file of settings names, and the other arguments."""
    task, rest = split_task(arguments, registry.TASKS, "--cache")
    path = named_early(rest, "config")["config"]
    if path is None:
        return task, rest
    stored = str(read_config(Path(path)).get("task", task))
    if stored not in registry.TASKS:
        raise UserError(f"{path} is of task {stored!r}, which there is not: {', '.join(registry.TASKS)}.")
    if stored != task and list(arguments[:1]) == [task]:
        raise UserError(f"{path} is of task {stored}: write {stored} in place of {task}.")
    return stored, rest


def read_training_settings(task: str, arguments: Sequence[str]) -> RunSettings:
    """Return the settings of the preset and protocol that the options name, changed by the other options."""
    early = named_early(arguments, "preset", "protocol", "device", "config")
    stored: dict[str, Any] = {}
    if early["config"] is not None:
        stored = read_config(Path(early["config"]))["settings"]
        if early["preset"] and "preset" in stored:
            raise UserError("--config holds all that a preset sets: leave --preset away.")
        early = {name: early[name] or stored.get(name) for name in early}
    preset = _resolve_preset(early["preset"] or "auto", early["device"] or "auto", arguments)
    defaults = registry.training_defaults(task, preset, early["protocol"] or "")
    if early["config"] is not None:
        defaults = with_config(defaults, stored, Path(early["config"]))
    settings = read_settings(type(defaults), arguments, __doc__, defaults, registry.overview(task))
    return replace(settings, preset=preset, config=None)


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
