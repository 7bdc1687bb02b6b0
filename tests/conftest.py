"""Shared by all tests: threads, real recordings where there are any, and a small simulated cohort."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.cache import Cache, remember_latest
from simulation.settings import SimulationSettings
from systems.ecg_multimodal.sources.ecg_image import draw_ecg, write_picture
from systems.ecg_pcg.prepare import RecordingCache
from systems.ecg_pcg.settings import PreparationSettings
from systems.ecg_pcg.sources.physionet2016 import index_physionet2016
from systems.ecg_pcg.sources.simulated import write_cohort

THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))  # subprocesses inherit it
COHORT = SimulationSettings(sessions=8, persons=2, recordings=2, duration=6.0)
"""32 recordings; one without ECG and one of poor quality are left out of a cache."""


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


RATE = 250.0


@pytest.fixture(scope="session")
def ptbxl_dir() -> Path:
    """Return the folder of the 500-record part of PTB-XL, named by PTBXL_DIR; skip where there is none."""
    place = os.environ.get("PTBXL_DIR")
    if not place:
        pytest.skip("PTBXL_DIR is not set: no PTB-XL here")
    if not (Path(place) / "ptbxl_database.csv").is_file():
        pytest.skip("PTBXL_DIR names a folder without ptbxl_database.csv")
    return Path(place)


def made_signal(number: int, seconds: float = 9.904) -> np.ndarray:
    """Return a signal with one spike a second, millivolts; each number has its own height."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.5 + 0.1 * number) * np.exp(-(((time % 1) - 0.5) ** 2) / (2 * 0.02**2))


def write_rows(path: Path, rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def make_patients(tmp_path) -> Callable[..., Path]:
    """Return a function that writes a folder of patients, complete and without a fault."""

    def make(count: int = 6, root: Path = tmp_path / "patients") -> Path:
        root.mkdir()
        numbers = range(1, count + 1)
        for number in numbers:
            picture = draw_ecg(made_signal(number), RATE)
            write_picture(root / f"images/{number}/{number:03d}ECG_lead2.jpg", picture)
        signals = [[number, *(f"{value:.4f}" for value in made_signal(number))] for number in numbers]
        write_rows(root / "ecg_signals.csv", signals)
        clinical = [[number, 40 + number, number % 2, 170.5, 70, 120, 80, 0] for number in numbers]
        head = ["IDX", "Age", "Sex", "Height (cm)", "Weight", "SBP", "DBP", "Smoking"]
        write_rows(root / "clinical.csv", [head, *clinical])
        labels = [[number, ("normal", "abnormal")[number % 2]] for number in numbers]
        write_rows(root / "labels.csv", [["index", "label"], *labels])
        return root

    return make


@pytest.fixture
def make_ptbxl(tmp_path) -> Callable[..., Path]:
    """Return a function that writes records in the layout of PTB-XL, a row of the database each."""

    def make(rows: list[dict[str, object]], root: Path = tmp_path / "ptbxl", rate: int = 100) -> Path:
        root.mkdir()
        statements = [["", "diagnostic_class", "rhythm"], ["SR", "", "1.0"], ["AFIB", "", "1.0"]]
        statements += [["NORM", "NORM", ""], ["IMI", "MI", ""], ["LVH", "HYP", ""]]
        write_rows(root / "scp_statements.csv", statements)
        usual = {
            "patient_id": "7.0",
            "age": "50.0",
            "sex": 0,
            "height": "",
            "weight": "70.0",
            "strat_fold": 1,
        }
        table = []
        for number, row in enumerate(rows, start=1):
            names = {
                "filename_lr": f"records100/{number:05d}_lr",
                "filename_hr": f"records500/{number:05d}_hr",
            }
            table.append({"ecg_id": number, **usual, **names, **row})
            write_twelve_leads(
                root / (names["filename_lr"] if rate == 100 else names["filename_hr"]), rate, number
            )
        write_rows(root / "ptbxl_database.csv", [list(table[0]), *(list(row.values()) for row in table)])
        return root

    return make


def write_twelve_leads(path: Path, rate: int, seed: int) -> None:
    """Write a WFDB record of ten seconds: noise of the seed, lead k around k / 10 mV; limb leads add up."""
    names = ["I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = np.random.default_rng(seed).normal(0, 50, (10 * rate, 12))
    one, two = counts[:, 0], counts[:, 1]
    counts[:, 2:6] = np.stack([two - one, -(one + two) / 2, one - two / 2, two - one / 2], axis=1)
    counts += 100 * np.arange(12)
    path.with_suffix(".dat").write_bytes(counts.astype("<i2").tobytes())
    lines = [f"{path.name} 12 {rate} {10 * rate}"]
    lines += [f"{path.name}.dat 16 1000.0(0)/mV 16 0 0 0 0 {name}" for name in names]
    path.with_suffix(".hea").write_text("\n".join(lines) + "\n")
