"""Tasks by the name a user types, in the form that a run's settings need."""

from __future__ import annotations

from config import RunSettings, TrainingSettings
from settings.ecg_cmr import StageSettings
from settings.ecg_multimodal import MultimodalTrainingSettings
from tasks.binary import Task
from tasks.ecg_cmr_contrast import EcgCmrContrast
from tasks.ecg_multimodal import EcgMultimodal
from tasks.ecg_pcg import EcgPcg
from tasks.ecg_pcg_linear import EcgPcgLinear
from tasks.ecg_pcg_phase_fusion import EcgPcgPhaseFusion
from tasks.ecg_phenotypes import EcgPhenotypes
from tasks.masked_stages import CmrMae, EcgMae
from tasks.stages import Stage

STAGES: tuple[type[Stage], ...] = (EcgMae, CmrMae, EcgCmrContrast, EcgPhenotypes)
"""The chain that learns from pairs of ECG and cardiac MRI, first to last."""
_EVERY: tuple[Task, ...] = (EcgPcg(), EcgMultimodal(), *(stage() for stage in STAGES))
TASKS: dict[str, Task] = {task.name: task for task in _EVERY}
"""Every task, as it is without settings of a run."""


def find_task(name: str, settings: RunSettings) -> Task:
    """Return the task of a name, in the form that the settings of a run need."""
    if isinstance(settings, TrainingSettings) and settings.model.model == "linear":
        return EcgPcgLinear()
    if isinstance(settings, TrainingSettings) and settings.model.model == "phase-fusion":
        return EcgPcgPhaseFusion()
    if isinstance(settings, MultimodalTrainingSettings):
        return EcgMultimodal(settings)
    if isinstance(settings, StageSettings):
        return next(stage for stage in STAGES if stage.name == name)(settings)
    return TASKS[name]
