"""Runs that a run starts from: their checkpoint, and the patients that they were trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from datasets.splits import fold_name
from learning.checkpoint import BEST, file_digest, load_checkpoint
from learning.loop import FoldContext


def find_parent(path: Path, fold: int | None = None, option: str = "--init-ecg") -> Path:
    """Return the checkpoint that a path names: itself, or the best of one fold of a run's folder.

    Parameters
    ----------
    path : pathlib.Path
    fold : int, optional
        Fold whose checkpoint is taken where the folder has several.
    option : str
        How the path was given, for the message.

    Raises
    ------
    UserError
        If there is none, or several without the one of this fold.
    """
    if path.is_file():
        return path
    found = sorted(path.glob(f"fold_*/{BEST}"))
    same = [file for file in found if fold is not None and file.parent.name == fold_name(fold)]
    if len(found) > 1 and same:
        return same[0]
    if len(found) != 1:
        there = f"{len(found)} folds, so name one" if found else f"no fold with a {BEST}"
        raise UserError(f"{path} has {there}, as in {option} {path}/fold_0/{BEST}.")
    return found[0]


def describe_parent(kind: str, file: Path) -> dict[str, Any]:
    """Return what a checkpoint stores of a parent: run, hash, and what it was trained on."""
    content = load_checkpoint(file)
    known = {"kind": kind, "run": content["run"], "sha256": file_digest(file)}
    return known | {what: sorted(lineage(content, what)) for what in ("session", "content")}


def refuse_known(parent: Mapping[str, Any], path: Path, run: FoldContext) -> None:
    """Refuse a parent that was trained on a patient whom this run is evaluated on.

    Raises
    ------
    UserError
        Naming one.
    """
    parts = torch.as_tensor(run.metadata["parts"]).numpy()
    table = run.samples.table
    sessions = table["session"].iloc[np.flatnonzero(parts == 2)].astype(str)
    tested = {patient for name in sessions for patient in name.split("+")}  # kept together as a+b
    known = {patient for name in lineage(parent) for patient in str(name).split("+")}
    shared = sorted(tested & known)
    if shared:
        raise UserError(
            f"{path} was trained on {len(shared)} patients of this run's test part, {shared[0]} among them: "
            "train all stages from one cache with the same --seed, --fold-count and --folds."
        )


def lineage(checkpoint: Mapping[str, Any], what: str = "session") -> set[str]:
    """Return the patients that a checkpoint, or any stage before it, was trained on.

    Parameters
    ----------
    checkpoint : mapping
    what : {"session", "content"}
        Their names, or the SHA-256 of their recordings.
    """
    own = set(map(str, checkpoint["trained_on"][what]))
    return own.union(*(parent.get(what, ()) for parent in checkpoint["parents"]))
