"""Which package answers for a task: the only file that knows all systems, imported when needed.

Every system answers the same questions by the same names. A module is looked for in the package of the task
first, then in that of its system::

    settings   LoadDataSettings, defaults(preset, protocol, task), EVALUATION (where it adds options)
    prepare    prepare(settings, task)        from raw recordings to a cache
    task       the Task class named in TASKS  samples, network, loss, scores
    evaluate   evaluate(run)                  scores, tables and figures of a trained run
    predict    Predictor                      one recording at a time (not every task)
    export     exportable(checkpoint, digest) a network as one file (not every task)
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.command_line import from_plain
from common.errors import UserError
from config import EvaluationSettings, PredictionSettings, RunSettings, SourceSettings

if TYPE_CHECKING:
    from learning.checkpoint import Checkpoint
    from systems.base.task import Task

TASKS = {
    "ecg-pcg": ("ecg_pcg", "EcgPcg"),
    "ecg-multimodal": ("ecg_multimodal", "EcgMultimodal"),
    "ecg-mae": ("ecg_cmr.mae", "EcgMae"),
    "cmr-mae": ("ecg_cmr.mae", "CmrMae"),
    "ecg-cmr-contrast": ("ecg_cmr.contrast", "EcgCmrContrast"),
    "ecg-phenotypes": ("ecg_cmr.phenotypes", "EcgPhenotypes"),
    "cine-autoencoder": ("ecg_cmr.autoencoder", "CineAutoencoderTask"),
    "ecg-to-cmr": ("ecg_cmr.generation", "EcgToCmr"),
}
"""Package and class of each task, by the first word of a command; the first is the default."""

_ABOUT = {
    "ecg-pcg": "normal or abnormal, from ECG and heart sound (the default)",
    "ecg-multimodal": "normal or abnormal, from ECG image, ECG signal and clinical table",
    "ecg-mae": "an encoder of ECGs, by masked autoencoding",
    "cmr-mae": "an encoder of cardiac MRI cines, by masked autoencoding",
    "ecg-cmr-contrast": "encoders of ECG and cine, by contrast of pairs",
    "ecg-phenotypes": "what a cardiac MRI would show, from the ECG",
    "cine-autoencoder": "an autoencoder of the frames of cines",
    "ecg-to-cmr": "cines generated from an ECG",
}


def overview(task: str = "") -> str:
    """Return the tasks, and the models that a task has, for ``--help``."""
    lines = ["Tasks, the first word:", *(f"    {name:18}{_ABOUT[name]}" for name in TASKS)]
    models: Sequence[str] = getattr(module_of(task, "settings"), "MODELS", ()) if task else ()
    return "\n".join(lines + (["", f"Models (--model): {', '.join(models)}."] if models else []))


def listing(cache_dir: Path, checkpoint_dir: Path | None = None) -> str:
    """Return the caches, and the runs, that there are."""
    from datasets.cache import list_caches  # pandas: not before, so that --help is quick
    from learning.runs import list_runs

    parts = [list_caches(cache_dir), *([] if checkpoint_dir is None else [list_runs(checkpoint_dir)])]
    return "\n\n".join(parts)


def _module_name(task: str, module: str) -> str | None:
    """Return the name of a module of the package of a task, or of its system; None if there is none."""
    package = TASKS[task][0]
    names = (f"systems.{place}.{module}" for place in dict.fromkeys((package, package.split(".")[0])))
    return next((name for name in names if importlib.util.find_spec(name) is not None), None)


def tasks_with(module: str, among: Iterable[str] = TASKS) -> list[str]:
    """Return the tasks that have a module (``predict``, ``export``), without importing it."""
    return [task for task in among if task in TASKS and _module_name(task, module) is not None]


def module_of(task: str, module: str) -> Any:
    """Return a module of a task; None if it has none."""
    name = _module_name(task, module)
    return None if name is None else importlib.import_module(name)


def load_data_settings(task: str) -> type[SourceSettings]:
    """Return the class of the settings of load_data.py."""
    found: type[SourceSettings] = module_of(task, "settings").LoadDataSettings
    return found


def prepare(task: str, settings: SourceSettings) -> Path:
    """Prepare the data of a task; return the folder of the cache."""
    path: Path = module_of(task, "prepare").prepare(settings, task)
    return path


def training_defaults(task: str, preset: Literal["paper", "small"], protocol: str = "") -> RunSettings:
    """Return the settings of training.py that a preset and a protocol (empty: the default) stand for."""
    settings: RunSettings = module_of(task, "settings").defaults(preset, protocol, task)
    return settings


def make_task(name: str, settings: RunSettings | None = None) -> Task:
    """Return a task in the form that the settings of a run give it, by default those of its class."""
    kind: type[Task] = getattr(module_of(name, "task"), TASKS[name][1])
    return kind.create(kind.settings_class() if settings is None else settings)


def task_of(checkpoint: Checkpoint) -> Task:
    """Return the task of a checkpoint, with the settings it was trained with."""
    kind: type[Task] = getattr(module_of(checkpoint["task"], "task"), TASKS[checkpoint["task"]][1])
    return kind.create(from_plain(kind.settings_class, checkpoint["settings"]))


def evaluation_settings(task: str) -> type[EvaluationSettings]:
    """Return the class of the settings of evaluate.py."""
    more: dict[str, type[EvaluationSettings]] = getattr(module_of(task, "settings"), "EVALUATION", {})
    return more.get(task, EvaluationSettings)


def prediction_settings(task: str) -> type[PredictionSettings]:
    """Return the class of the settings of predict.py."""
    more: dict[str, type[PredictionSettings]] = getattr(module_of(task, "settings"), "PREDICTION", {})
    return more.get(task, PredictionSettings)


def refuse_options_of_others(
    task: str, options: Sequence[str], settings_of: Callable[[str], type[Any]]
) -> None:
    """Refuse an option that only runs of other tasks have, and name these; a task has settings of a class."""
    own = _names(settings_of(task))
    words = [word[2:].split("=")[0] for word in options if word.startswith("--")]
    for name in (word.removeprefix("no-").replace("-", "_") for word in words):
        others = [] if name in own else [other for other in TASKS if name in _names(settings_of(other))]
        if others:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} is for runs of {', '.join(others)}, and this one is of {task}.")


def _names(settings: type[Any]) -> set[str]:
    names = {field.name for field in fields(settings)}
    return names | {old for old, new in settings.formerly.items() if new.replace("-", "_") in names}


def evaluation(task: str) -> Callable[[Any], tuple[dict[str, Any], list[Path]]]:
    """Return what evaluates a run, writes its results, and returns metrics and files written."""
    evaluate: Callable[[Any], tuple[dict[str, Any], list[Path]]] = module_of(task, "evaluate").evaluate
    return evaluate


def predictor(task: str) -> Any:
    """Return the class of what predicts single recordings; None where there is none."""
    return getattr(module_of(task, "predict"), "Predictor", None)


def exporter(task: str) -> Callable[[Checkpoint, str], Any] | None:
    """Return what makes the network of a checkpoint ready for export; None where there is none."""
    return getattr(module_of(task, "export"), "exportable", None)
