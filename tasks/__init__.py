"""Tasks, by the name a user types: what is learned from which data by which network."""

from __future__ import annotations

from tasks.binary import Task
from tasks.ecg_pcg import EcgPcg
from tasks.ecg_pcg_linear import EcgPcgLinear

__all__ = ["TASKS", "Task", "find_task"]

TASKS: dict[str, Task] = {task.name: task for task in (EcgPcg(),)}


def find_task(name: str, model: str) -> Task:
    """Return the task of a name, in the form that a model needs."""
    return EcgPcgLinear() if (name, model) == ("ecg-pcg", "linear") else TASKS[name]
