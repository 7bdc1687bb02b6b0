"""The folder of a run: its name, its settings, its folds, and who may write into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.command_line import to_plain
from common.errors import UserError
from common.files import write_json
from config import RunSettings
from learning.checkpoint import BEST, LAST, load_checkpoint

FREE_TO_CHANGE = {
    "folds",
    "resume",
    "overwrite",
    "dry_run",
    "device",
    "threads",
    "cache",
    "cache_dir",
    "checkpoint_dir",
    "log_dir",
    "run_name",
}
"""Settings that may differ between the sessions in which one run is trained."""


def run_name(task: str, settings: RunSettings) -> str:
    """Return the name given, or one made of what matters most."""
    parts = (task, settings.variant(), settings.protocol, settings.preset, f"seed{settings.seed}")
    return settings.run_name or "-".join(part for part in parts if part)


def open_run(
    folder: Path, log_folder: Path, task: str, settings: RunSettings, identity: str, folds: Sequence[str]
) -> None:
    """Make the folder of a run, or check that these folds may be trained into it.

    Parameters
    ----------
    folder, log_folder : pathlib.Path
        Checkpoints and curves of the run.
    task : str
    settings : RunSettings
    identity : str
        Digest of the cache.
    folds : sequence of str
        Names of the folds to train.

    Raises
    ------
    UserError
        If a fold is there already and neither ``--resume`` nor ``--overwrite`` is given, or the run was
        begun with other settings.
    """
    there = [name for name in folds if (folder / name).exists()]
    if there and not (settings.overwrite or settings.resume):
        raise UserError(
            f"{folder} already holds {', '.join(there)}. Go on with --resume, begin again with --overwrite, "
            "or give this run another name with --run-name."
        )
    stored = folder / "settings.json"
    now = {"task": task, "cache": identity, "settings": to_plain(settings)}
    replaced = set(folds) if settings.overwrite else set()
    if stored.exists() and {path.name for path in folder.glob("fold_*")} - replaced:
        check_same(stored, json.loads(stored.read_text(encoding="utf-8")), now)
    for name in replaced.intersection(there):
        shutil.rmtree(folder / name)
        shutil.rmtree(log_folder / name, ignore_errors=True)
    write_json(stored, now)


def check_same(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Refuse to go on with a run under other settings than it was begun with, naming them."""
    old, new = (flatten(content) for content in (before, now))
    differing = [
        f"{key.removeprefix('settings.')}: {old.get(key)} then, {new.get(key)} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key.removeprefix("settings.").split(".")[0] not in FREE_TO_CHANGE
    ]
    if before.get("cache") != now.get("cache"):
        differing.append("the prepared data")
    if differing:
        raise UserError(
            f"{path.parent} was begun with other settings ({'; '.join(differing)}). "
            "Use the same, or another --run-name."
        )


def flatten(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, names joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def is_finished(folder: Path) -> bool:
    """Whether a fold is trained to its end, its threshold found and its weights chosen."""
    if not (folder / LAST).exists() or not (folder / BEST).exists():
        return False
    return (
        "threshold" in load_checkpoint(folder / BEST)
        and load_checkpoint(folder / LAST)["progress"]["finished"]
    )


def find_checkpoints(given: Path | None, checkpoint_dir: Path, which: str) -> list[Path]:
    """Return checkpoint files: the one given, or those of all folds of a run, by default the newest run.

    Raises
    ------
    UserError
        If there is none; the message says what is there.
    """
    if given is not None and given.is_file():
        return [given]
    folder = given or newest_run(checkpoint_dir)
    if (folder / f"{which}.pt").is_file():
        return [folder / f"{which}.pt"]
    found = sorted(folder.glob(f"fold_*/{which}.pt"))
    if not found:
        runs = sorted(path.name for path in checkpoint_dir.glob("*") if (path / "settings.json").exists())
        there = f"Runs in {checkpoint_dir}: {', '.join(runs)}." if runs else "Train one with training.py."
        raise UserError(f"There is no {which}.pt in {folder} or in its folds. {there}")
    judged = [path for path in found if path.parent.name != "fold_all"]
    return judged or found


def newest_run(checkpoint_dir: Path) -> Path:
    """Return the folder of the run that was trained last."""
    written = {path: path.stat().st_mtime for path in checkpoint_dir.glob("*/fold_*/best.pt")}
    if not written:
        raise UserError(f"There is no trained run in {checkpoint_dir}. Train one with training.py.")
    return max(written, key=lambda path: written[path]).parent.parent
