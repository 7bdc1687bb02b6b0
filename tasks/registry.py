"""Tasks by the name a user types, in the form that a model needs."""

from __future__ import annotations

from config import RunSettings, TrainingSettings
from tasks.binary import Task
from tasks.ecg_pcg import EcgPcg
from tasks.ecg_pcg_linear import EcgPcgLinear

TASKS: dict[str, Task] = {task.name: task for task in (EcgPcg(),)}


def find_task(name: str, settings: RunSettings) -> Task:
    """Return the task of a name, in the form that the settings' model needs."""
    if isinstance(settings, TrainingSettings) and settings.model.model == "linear":
        return EcgPcgLinear()
    return TASKS[name]
