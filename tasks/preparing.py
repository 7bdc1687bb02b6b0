"""How data is prepared for each task; without what learns, so that load_data.py starts at once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from config import LoadDataSettings
from settings.ecg_cmr_data import PairSourceSettings
from settings.ecg_multimodal import PatientSourceSettings
from tasks import ecg_cmr_data, ecg_multimodal_data, ecg_pcg_data

PREPARE: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "ecg-pcg": (LoadDataSettings, ecg_pcg_data.prepare),
    "ecg-multimodal": (PatientSourceSettings, ecg_multimodal_data.prepare),
    **{
        task: (PairSourceSettings, functools.partial(ecg_cmr_data.prepare, task=task))
        for task in ecg_cmr_data.NEEDS
    },
}
"""For each task its settings of load_data.py, and what prepares a cache from them."""
