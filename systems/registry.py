"""Tasks by the name a user types, in the form that a run's settings need."""

from __future__ import annotations

from config import RunSettings
from systems.base.task import Task
from systems.ecg_cmr.contrast.task import EcgCmrContrast
from systems.ecg_cmr.generation.autoencoder_task import CineAutoencoderTask
from systems.ecg_cmr.generation.task import EcgToCmr
from systems.ecg_cmr.mae.task import CmrMae, EcgMae
from systems.ecg_cmr.phenotypes.task import EcgPhenotypes
from systems.ecg_cmr.settings import StageSettings
from systems.ecg_cmr.stage import Stage
from systems.ecg_multimodal.settings import MultimodalTrainingSettings
from systems.ecg_multimodal.task import EcgMultimodal
from systems.ecg_pcg.linear.task import EcgPcgLinear
from systems.ecg_pcg.phase_fusion.task import EcgPcgPhaseFusion
from systems.ecg_pcg.settings import TrainingSettings
from systems.ecg_pcg.task import EcgPcg

STAGES: tuple[type[Stage], ...] = (
    *(EcgMae, CmrMae, EcgCmrContrast, EcgPhenotypes),
    *(CineAutoencoderTask, EcgToCmr),
)
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
