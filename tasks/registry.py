"""Tasks by the name a user types, in the form that a run's settings need."""

from __future__ import annotations

from config import RunSettings, TrainingSettings
from settings.ecg_multimodal import MultimodalTrainingSettings
from tasks.binary import Task
from tasks.ecg_multimodal import EcgMultimodal
from tasks.ecg_pcg import EcgPcg
from tasks.ecg_pcg_linear import EcgPcgLinear
from tasks.ecg_pcg_phase_fusion import EcgPcgPhaseFusion

TASKS: dict[str, Task] = {task.name: task for task in (EcgPcg(), EcgMultimodal())}
"""Every task, as it is without settings of a run."""


def find_task(name: str, settings: RunSettings) -> Task:
    """Return the task of a name, in the form that the settings of a run need."""
    if isinstance(settings, TrainingSettings) and settings.model.model == "linear":
        return EcgPcgLinear()
    if isinstance(settings, TrainingSettings) and settings.model.model == "phase-fusion":
        return EcgPcgPhaseFusion()
    if isinstance(settings, MultimodalTrainingSettings):
        return EcgMultimodal(settings)
    return TASKS[name]
