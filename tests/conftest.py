"""Shared by all tests: threads, real recordings where there are any, and a small simulated cohort."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from datasets.cache import Cache, remember_latest
from simulation.settings import SimulationSettings
from systems.ecg_pcg.prepare import RecordingCache
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated import write_cohort

COHORT = SimulationSettings(sessions=8, persons=2, recordings=2, duration=6.0)
"""32 recordings; one without ECG and one of poor quality are left out of a cache."""
THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))  # subprocesses inherit it


@pytest.fixture(autouse=True, scope="module")
def threads_of_the_suite() -> Iterator[None]:
    """Limit torch to the threads given to the suite; the default of the scripts takes every core."""
    set_threads = torch.set_num_threads
    set_threads(THREADS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda count: set_threads(min(count, THREADS)))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of the real training-a, named by PHYSIONET2016_DIR; skip where there is none."""
    place = os.environ.get("PHYSIONET2016_DIR")
    if not place:
        pytest.skip("PHYSIONET2016_DIR is not set: no real recordings here")
    if not (Path(place) / "training-a").is_dir():
        pytest.skip("PHYSIONET2016_DIR names a folder without training-a")
    return Path(place)


@pytest.fixture(scope="session")
def simulated_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 32 simulated recordings in the layout of training-a; not to be changed."""
    return write_cohort(tmp_path_factory.mktemp("raw") / "simulated", COHORT)


@pytest.fixture(scope="session")
def simulated_cache(simulated_raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Return the cache of the simulated cohort, the latest in its folder; not to be changed."""
    index = index_physionet2016(simulated_raw, ["a"])
    folder = tmp_path_factory.mktemp("cache")
    path = RecordingCache(index, PreparationSettings()).build(folder, jobs=1, progress=False)
    remember_latest(path)
    return Cache(path)
