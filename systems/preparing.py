"""How data is prepared for each task; nothing is imported but what that needs, so that it starts at once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from config import SourceSettings
from datasets.sources import DataError

Settings = TypeVar("Settings", bound=SourceSettings)


def preparation_of(task: str) -> tuple[type[SourceSettings], Callable[[Any], Path]]:
    """Return the settings of load_data.py for a task, and what prepares a cache from them."""
    if task == "ecg-pcg":
        from systems.ecg_pcg import prepare as ecg_pcg_data
        from systems.ecg_pcg.settings import LoadDataSettings

        return LoadDataSettings, ecg_pcg_data.prepare
    if task == "ecg-multimodal":
        from systems.ecg_multimodal import prepare as ecg_multimodal_data
        from systems.ecg_multimodal.settings import PatientSourceSettings

        return PatientSourceSettings, ecg_multimodal_data.prepare
    from systems.ecg_cmr import prepare as ecg_cmr_data
    from systems.ecg_cmr.source_settings import PairSourceSettings

    if task not in ecg_cmr_data.NEEDS:
        raise ValueError(f"Nothing prepares data for a task {task!r}.")
    return PairSourceSettings, functools.partial(ecg_cmr_data.prepare, task=task)


@contextlib.contextmanager
def workers_of(settings: Settings) -> Iterator[Settings]:
    """Let those do the work whom the settings name: processes of this machine, or a cluster.

    Yields
    ------
    The settings, with a folder of raw data that means the same on every machine.

    Raises
    ------
    UserError
        If there is no such cluster, or no folder is named that its workers could see.
    """
    if not settings.dask:
        yield settings
        return
    from common.cluster import dask_cluster

    if settings.raw_dir is None:
        raise DataError("--dask needs --raw-dir PATH as well: a folder that all workers see under this name.")
    folder = settings.raw_dir.absolute()
    with dask_cluster(settings.dask, folder):
        yield dataclasses.replace(settings, raw_dir=folder)
