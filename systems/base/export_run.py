"""Which checkpoint is exported, and what its task makes of it."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from learning.checkpoint import BEST, CheckpointError, file_digest, load_checkpoint
from learning.runs import find_checkpoints, newest_run
from systems import registry
from systems.base.export_settings import ExportSettings
from systems.base.exporting import ENDINGS, Exportable, Format


def open_exportable(path: Path) -> Exportable:
    """Return the network of a checkpoint, ready for export, as its task's maker makes it.

    Raises
    ------
    UserError
        If the checkpoint cannot be read, or networks of its task or model cannot be exported.
    """
    content = load_checkpoint(path)
    task = str(content.get("task"))
    exportable = registry.exporter(task) if task in registry.TASKS else None
    if exportable is None:
        raise UserError(
            f"{path} is a checkpoint of task {task}, whose networks cannot be exported yet: "
            f"export.py takes checkpoints of {', '.join(registry.tasks_with('export'))}."
        )
    try:
        return exportable(content, file_digest(path))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"The checkpoint {path} does not fit this version of the code ({reason}): "
            "use the version it was written with, or train again."
        ) from error


def choose_checkpoint(settings: ExportSettings) -> Path:
    """Return the one checkpoint that the settings mean.

    Raises
    ------
    UserError
        If there is none, or several and no fold is named.
    """
    given = settings.checkpoint
    if given is not None and given.is_file():
        if settings.fold is not None:
            raise UserError(f"--fold chooses in the folder of a run, and {given} is one file: leave it away.")
        return given
    folder = given or newest_run(settings.checkpoint_dir)
    final = folder / "fold_all" / BEST
    if settings.fold is None and final.is_file():
        return final
    found = find_checkpoints(folder, settings.checkpoint_dir, "best")
    named = {path.parent.name: path for path in found if path.parent != folder}
    if settings.fold is not None:
        wanted = f"fold_{settings.fold}"
        if wanted not in named:
            raise UserError(f"There is no trained {wanted} in {folder}, only {', '.join(named) or 'a file'}.")
        return named[wanted]
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {', '.join(named)}, each a network of its own: choose one with --fold, "
            "or train a final fit on everything with training.py --folds none."
        )
    return found[0]


def choose_file(settings: ExportSettings, checkpoint: Path) -> tuple[Path, Format]:
    """Return the file to write and its format.

    Raises
    ------
    UserError
        If the ending of ``--out`` is not that of the format.
    """
    out = settings.out
    if out is None:
        form: Format = settings.format or "onnx"
        return checkpoint.with_suffix(ENDINGS[form]), form
    by_ending: dict[str, Format] = {ending: form for form, ending in ENDINGS.items()}
    form = settings.format or by_ending.get(out.suffix, "onnx")
    if out.suffix != ENDINGS[form]:
        raise UserError(
            f"--out {out} must end with {ENDINGS[form]} for --format {form} "
            f"({', '.join(f'{name}: {ending}' for name, ending in ENDINGS.items())})."
        )
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it.")
    return out, form
