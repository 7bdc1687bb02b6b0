"""Find and read patients of one's own who are to be judged: the same files as for learning, without labels.

Everything is read and prepared by what `load_data.py ecg-multimodal` reads and prepares with
(`folders` and `modalities` beside this file, `datasets.ptbxl`); nothing is fitted on
what is read. What was given of a patient and cannot be used is kept with its reason, so that who asks can
refuse it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datasets.beat_agreement import FEWEST_BEATS
from datasets.beats import PLAUSIBLE_CYCLE, r_peaks
from datasets.ecg import Ecg, flat_leads
from datasets.patients import ENDINGS, PatientIndex
from datasets.ptbxl import DATABASE, index_ptbxl
from datasets.recordings import Recording, Signal
from datasets.signal_quality import SignalWarning, examine
from datasets.signals import fill_gaps
from datasets.sources import DataError, Problem
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.folders import CLINICAL, IMAGES, SIGNALS, index_patient_folders
from systems.ecg_multimodal.sources.modalities import (
    IMAGE_LEAD,
    LARGEST_GAPS,
    LARGEST_MILLIVOLTS,
    patient_digest,
    prepare_patient,
    read_signal,
    without,
)

SHORTEST_SHARE = 0.8
"""Share of the seconds that are read below which a signal is doubted."""


@dataclass(frozen=True)
class UserPatient:
    """One patient of one's own, prepared as for learning.

    Attributes
    ----------
    name : str
    image : numpy.ndarray of uint8, shape (height, width), or None
        Ink, 0 paper to 255 black.
    signal : numpy.ndarray of float32, shape (leads, points), or None
        Millivolts.
    clinical : dict of str to float
        The values that are known.
    ecg : Ecg or None
        The signal as recorded.
    leads : tuple of str
        Of the signal.
    content : frozenset of str
        Digests by which the patient is known again.
    unusable : dict of str to str
        By view, why what was given of it cannot be used.
    doubts : dict of str to list of str
        By view, what is doubtful about reading it.
    drawn : bool
        Whether the image was drawn from the signal.
    """

    name: str
    image: NDArray[np.uint8] | None
    signal: NDArray[np.float32] | None
    clinical: dict[str, float]
    ecg: Ecg | None
    leads: tuple[str, ...]
    content: frozenset[str]
    unusable: dict[str, str]
    doubts: dict[str, list[str]]
    drawn: bool

    @property
    def given(self) -> list[str]:
        """The views that there are, usable or not."""
        there = {"image": self.image is not None, "signal": self.signal is not None}
        there["clinical"] = bool(self.clinical)
        return [view for view, found in there.items() if found or view in self.unusable]


def open_patients(root: Path, table_rate: float, rate: Literal[100, 500] = 100) -> PatientIndex:
    """Index the patients of a folder, without labels.

    Parameters
    ----------
    root : pathlib.Path
        Folder of PTB-XL, or of one's own patients: any of images, ecg_signals.csv and a clinical table.
    table_rate : float
        Sampling rate of ecg_signals.csv, hertz.
    rate : {100, 500}
        PTB-XL: the files to read, hertz.

    Raises
    ------
    DataError
        If it is no such folder, or a table cannot be read at all.
    """
    if not root.is_dir():
        raise DataError(f"There is no folder {root}: a run of ecg-multimodal judges folders of patients.")
    if (root / DATABASE).is_file():
        return index_ptbxl(root, rate, labelled=False)
    tables = [f"{CLINICAL}{ending}" for ending in ENDINGS]
    names = {path.name.casefold() for path in root.iterdir()}
    if not names & {IMAGES, SIGNALS, *tables}:
        raise DataError(
            f"{root} holds no patients: none of {IMAGES}/, {SIGNALS}, {', '.join(tables)} or {DATABASE} is "
            "in it. docs/data.md shows the layouts."
        )
    return index_patient_folders(root, table_rate, labelled=False)


def read_own_patient(index: PatientIndex, name: str, settings: ModalitySettings) -> UserPatient:
    """Read and prepare one patient of an index.

    Raises
    ------
    DataError
        If a recording of PTB-XL, of which everything is made, cannot be read.
    """
    table = index.recordings
    row: dict[str, Any] = table[table["recording"] == name].iloc[0].to_dict()
    about: dict[str, Any] = {"root": index.root, "leads": index.leads, "signal_rate": index.signal_rate}
    made = prepare_patient(row, settings=settings, drawn=index.drawn, **about)
    if isinstance(made, Problem):
        raise DataError(made.what)
    unusable = {view: reasons[name] for view, reasons in index.unusable.items() if name in reasons}
    for problem in made.problems:
        for view in ("image", "signal"):
            if problem.what.endswith(without(view)):
                unusable[view] = problem.what.removesuffix(without(view))
    values = index.clinical[index.clinical["recording"] == name].iloc[0].drop("recording").astype(float)
    digests = {made.row["signal_sha256"], made.row["image_sha256"], patient_digest(made.row, values)}
    doubts = {view: said[name] for view, said in index.warnings.items() if name in said}
    return UserPatient(
        name=name,
        image=made.image,
        signal=made.signal,
        clinical={str(key): float(value) for key, value in values.dropna().items()},
        ecg=None if made.signal is None else read_signal(row, **about),
        leads=index.leads,
        content=frozenset(digests - {""}),
        unusable=unusable,
        doubts={view: said for view, said in doubts.items() if view not in unusable},
        drawn=index.drawn,
    )


def examine_ecg(ecg: Ecg, leads: tuple[str, ...], seconds: float) -> list[SignalWarning]:
    """Return what is doubtful about the signal of a patient, of which so many seconds are read.

    Raises
    ------
    DataError
        If a lead holds nothing, too much is missing, or no heart beat is in lead II.
    """
    check_leads(ecg, leads)
    lead = ecg.samples[leads.index(IMAGE_LEAD)]
    missing = float(np.isnan(lead).mean())
    peaks = r_peaks(fill_gaps(lead), ecg.sampling_rate)
    if len(peaks) < FEWEST_BEATS:
        raise DataError(
            f"Fewer than {FEWEST_BEATS} heart beats are found in the {ecg.duration:.1f} s of its signal: it "
            "is too short or too noisy to judge, or its sampling rate is wrong."
        )
    usual = float(np.median(np.diff(peaks)))
    if not PLAUSIBLE_CYCLE[0] <= usual <= PLAUSIBLE_CYCLE[1]:
        raise DataError(
            f"What repeats in its signal does so {60 / usual:.0f} times a minute, as no heart does: it is "
            "too noisy to judge, or its sampling rate is wrong."
        )
    spans = np.stack([peaks[:-1], peaks[1:]], axis=1)
    signal = Signal(lead.astype(np.float32), ecg.sampling_rate, 0.0, missing)
    quality = examine(Recording(signal, None, ecg.sampling_rate, ""), spans)
    if quality.shows_no_heart(["ecg"]):
        raise DataError("No heart beat that repeats is found in its signal: it is too noisy to judge.")
    span = float(np.nanmax(ecg.samples) - np.nanmin(ecg.samples))
    short = (
        f"The signal lasts {ecg.duration:.1f} s of {seconds:g} that are read: it goes on with its last value."
    )
    doubts = [
        ("unit", span > LARGEST_MILLIVOLTS, f"The signal ranges over {span:.3g}: it seems not to be in mV."),
        ("short", ecg.duration < SHORTEST_SHARE * seconds, short),
    ]
    found = [(warning.code, warning.text) for warning in quality.warnings if warning.code != "short"]
    found += [(code, text) for code, doubtful, text in doubts if doubtful]
    return [SignalWarning(code, "signal", text) for code, text in found]


def check_leads(ecg: Ecg, leads: tuple[str, ...]) -> None:
    """Refuse a signal of which a lead holds nothing, or lacks much."""
    flat = [lead for lead, is_flat in zip(leads, flat_leads(ecg.samples), strict=True) if is_flat]
    if flat:
        which = f"Lead {flat[0]} of its signal holds" if len(flat) == 1 else f"Leads {', '.join(flat)} hold"
        raise DataError(f"{which} nothing: every sample is the same, or missing.")
    gaps: Mapping[str, float] = dict(zip(leads, np.isnan(ecg.samples).mean(axis=1).tolist(), strict=True))
    worst = max(gaps, key=lambda lead: gaps[lead])
    if gaps[worst] > LARGEST_GAPS:
        raise DataError(f"Of lead {worst} of its signal {gaps[worst]:.0%} of the samples are missing.")
