"""How data is prepared for each task. Nothing is imported but what the task needs: seconds, of which every
process that prepares would otherwise take its own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any


def preparation_of(task: str) -> tuple[type, Callable[[Any], Any]]:
    """Return the settings of load_data.py for a task, and what prepares a cache from them."""
    if task == "ecg-pcg":
        from config import LoadDataSettings
        from tasks import ecg_pcg_data

        return LoadDataSettings, ecg_pcg_data.prepare
    if task == "ecg-multimodal":
        from settings.ecg_multimodal import PatientSourceSettings
        from tasks import ecg_multimodal_data

        return PatientSourceSettings, ecg_multimodal_data.prepare
    from settings.ecg_cmr_data import PairSourceSettings
    from tasks import ecg_cmr_data

    if task not in ecg_cmr_data.NEEDS:
        raise ValueError(f"Nothing prepares data for a task {task!r}.")
    return PairSourceSettings, functools.partial(ecg_cmr_data.prepare, task=task)
