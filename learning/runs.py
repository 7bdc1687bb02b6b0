"""The folder of a run: its name, its settings, its folds, and who may write into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from common.command_line import counted, flatten, path_option, to_plain
from common.errors import UserError
from common.files import write_json
from config import RunSettings
from learning.checkpoint import BEST, LAST, load_checkpoint

_LOCK = ".lock_{name}"
_FREE_TO_CHANGE = {
    "folds",
    "at_once",
    "resume",
    "overwrite",
    "dry_run",
    "config",
    "list",
    "device",
    "threads",
    "layout",
    "compile",
    "compile_mode",
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


@contextlib.contextmanager
def lock_run(folder: Path, folds: Sequence[str]) -> Iterator[None]:
    """Keep every other process from training these folds of a run while the block lasts.

    Other folds of the run may be trained beside them, as the jobs of an array do. The system takes a lock
    from a process that ends, however it ends, so none is left behind. Where the file system knows no locks
    there is none.

    Raises
    ------
    UserError
        If another process is training one of them.
    """
    with contextlib.ExitStack() as locks:
        for name in folds:
            locks.enter_context(_lock(folder, name))
        yield


def lock_folder(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Wait until no other process writes what the folds of a run share, and keep it that way in the block."""
    return _lock(folder, "folder", wait=True)


@contextlib.contextmanager
def _lock(folder: Path, name: str, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock of the folder of a run; when another process has it, wait, or refuse."""
    path = folder / _LOCK.format(name=name)
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise UserError(_busy(folder, name, file)) from None
        except OSError:  # a file system without locks
            break
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):
            break  # else its last owner has just removed it
        file.close()
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        file.close()
        with contextlib.suppress(OSError):  # nothing came of it
            folder.rmdir()


def is_begun(folder: Path, fold: str) -> bool:
    """Whether a fold of a run has a checkpoint, or a process that is about to write one."""
    return (folder / fold).is_dir() or (folder / _LOCK.format(name=fold)).exists()


def _busy(folder: Path, fold: str, file: IO[str]) -> str:
    """Return the message that names the process that trains a fold."""
    with file:
        file.seek(0)
        owner = file.read().strip() or "another process"
    advice = "Wait for it, or give this run another name with --run-name."
    return f"{fold} of {folder} is being trained by {owner}. {advice}"


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
    check_settings(folder, task, settings, identity, folds)
    there = [name for name in folds if (folder / name).exists()]
    if there and not (settings.overwrite or settings.resume):
        raise UserError(
            f"{folder} already holds {', '.join(there)}. Go on with --resume, begin again with --overwrite, "
            "or give this run another name with --run-name."
        )
    stored = folder / "settings.json"
    now = {"task": task, "cache": identity, "settings": to_plain(settings)}
    if settings.overwrite and there:
        print(what_overwrite_deletes(folder, log_folder, there), flush=True)
    for name in there if settings.overwrite else ():
        shutil.rmtree(folder / name)
        shutil.rmtree(log_folder / name, ignore_errors=True)
    write_json(stored, now)


def check_settings(
    folder: Path, task: str, settings: RunSettings, identity: str, folds: Sequence[str] | None = None
) -> None:
    """Refuse to train into a run that was begun with other settings or data, and name these.

    Parameters
    ----------
    folder, task, settings, identity
        As in `open_run`.
    folds : sequence of str, optional
        Folds to train, which ``--overwrite`` replaces; not given: not known yet, as before data are read.

    Raises
    ------
    UserError
        Naming each setting that differs.
    """
    stored = folder / "settings.json"
    there = {path.name for path in folder.glob("fold_*")}
    replaced = (there if folds is None else set(folds)) if settings.overwrite else set()
    if stored.exists() and there - replaced:
        now = {"task": task, "cache": identity, "settings": to_plain(settings)}
        _check_same(stored, _read_stored(stored), now, to_plain(type(settings)()))


def what_overwrite_deletes(
    folder: Path, log_folder: Path, folds: Sequence[str], verb: str = "Deleting"
) -> str:
    """Return which folds of a run ``--overwrite`` deletes, how far they were trained, and their curves."""
    there = [name for name in folds if (folder / name).exists()]
    if not there:
        return f"--overwrite: nothing of this run is in {folder}."
    return f"--overwrite: {verb} {', '.join(_told(folder, name) for name in there)} of {folder}" + (
        f", and their curves in {log_folder}." if log_folder.exists() else "."
    )


def _told(folder: Path, fold: str) -> str:
    """Return a fold, and how far it is trained."""
    with contextlib.suppress(UserError, OSError, KeyError):
        progress = load_checkpoint(folder / fold / LAST)["progress"]
        done = "finished" if is_finished(folder / fold) else "unfinished"
        return f"{fold} ({done}, {counted(progress['epoch'], 'epoch')})"
    return fold


def list_runs(checkpoint_dir: Path) -> str:
    """Return a line for each run of a folder: its task, and how far its folds are."""
    lines = []
    for stored in sorted(checkpoint_dir.glob("*/settings.json")):
        folds = sorted(path.name for path in stored.parent.glob("fold_*") if path.is_dir())
        told = ", ".join(_told(stored.parent, fold) for fold in folds) or "nothing trained"
        lines.append(f"  {stored.parent} ({task_of_run(stored.parent) or 'unknown task'}): {told}")
    none = f"No runs in {checkpoint_dir}: training.py trains them."
    return "\n".join([f"Runs in {checkpoint_dir} (--checkpoint PATH chooses):", *lines]) if lines else none


def _read_stored(path: Path) -> dict[str, Any]:
    """Return the settings that a run was begun with."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}). Begin all folds of the run again with --overwrite, or give this "
            "run another name with --run-name."
        ) from error


def _check_same(path: Path, before: dict[str, Any], now: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Refuse to go on with a run under other settings than it was begun with, naming them.

    A setting that the code did not have yet when the run was begun counts as its default.
    """
    begun = flatten(defaults) | flatten(before.get("settings", {}))
    differing = [
        f"{key}: {old} then, {new} now"
        for key, old, new in differing_settings(begun, flatten(now["settings"]))
    ]
    if before.get("task") != now["task"]:
        differing.append(f"task: {before.get('task')} then, {now['task']} now")
    if before.get("cache") != now.get("cache"):
        caches = [str(run.get("cache"))[:8] for run in (before, now)]
        differing.append("prepared data: the cache named ...-{} then, ...-{} now".format(*caches))
    if differing:
        epochs = _EPOCHS if any(text.startswith("optimization.epochs:") for text in differing) else ""
        raise UserError(
            f"{path.parent} was begun with other settings ({'; '.join(differing)}). "
            f"{epochs}Use the same, give this run another name with --run-name, or begin all its folds again "
            "with --overwrite."
        )


_EPOCHS = (
    "Epochs are not added to a run: its learning rate is laid out over those it was begun with, and a "
    "finished fold has chosen weights and threshold by them. "
)


def differing_settings(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return name and both values of each setting that decides a result and is not the same."""
    old, new = flatten(before), flatten(now)
    return [
        (key, old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and key.split(".")[0] not in _FREE_TO_CHANGE
    ]


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
    folds = [path for path in found if path.parent.name != "fold_all"]
    return folds or found


def newest_run(checkpoint_dir: Path, task: str = "") -> Path:
    """Return the folder of the run, of any task or of one, that was trained last."""
    written = {
        path: path.stat().st_mtime
        for path in checkpoint_dir.glob("*/fold_*/best.pt")
        if not task or task_of_run(path) == task
    }
    if not written:
        of_task = f" of {task}" * bool(task)
        place = path_option("checkpoint-dir", checkpoint_dir, RunSettings.checkpoint_dir)
        raise UserError(
            f"There is no trained run{of_task} in {checkpoint_dir}. Train one with training.py{place}."
        )
    return max(written, key=lambda path: written[path]).parent.parent


def task_of_run(path: Path) -> str:
    """Return the task of a run, named by its folder, a fold or a checkpoint; empty where it is not known."""
    for folder in (path, *path.parents[:2]):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return str(json.loads((folder / "settings.json").read_text(encoding="utf-8"))["task"])
    files = [path] if path.is_file() else sorted(path.glob("**/best.pt"))
    return load_checkpoint(files[0]).get("task", "") if files else ""
