"""Find and read patients that a user predicts for: the same files as for training, without labels.

Everything is read and prepared as by `load_data.py ecg-multimodal` (`folders` and
`modalities` beside this file, `datasets.ptbxl`); nothing is fitted on what is read. What was given of
a patient and cannot be used is kept with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datasets.beats import PLAUSIBLE_CYCLE, r_peaks
from datasets.ecg import Ecg, flat_leads
from datasets.lead_checks import check_ecg
from datasets.patients import PatientIndex
from datasets.ptbxl import DATABASE, index_ptbxl
from datasets.recordings import Recording, Signal
from datasets.signal_quality import FEWEST_BEATS, SignalWarning, examine
from datasets.signals import fill_gaps
from datasets.sources import DataError, Problem
from datasets.tables import ENDINGS
from models.ecg_multimodal.clinical_branch import ClinicalScaler
from systems.ecg_multimodal.settings import ModalitySettings
from systems.ecg_multimodal.sources.folders import CLINICAL, IMAGES, SIGNALS, index_patient_folders
from systems.ecg_multimodal.sources.modalities import (
    IMAGE_LEAD,
    OF_IMAGE,
    patient_digest,
    prepare_patient,
    read_signal,
    require_few_gaps,
    without,
)

_SHORTEST_SHARE = 0.8
"""Share of the seconds that are read below which a signal is doubted."""
_LARGEST_DISTANCE = 4.0
"""Standard deviations of training from its mean beyond which a clinical value is doubted."""
_TWO_VALUED = 0.01
"""Share by which the variance of yes and no may differ from that of its mean."""


@dataclass(frozen=True)
class UserPatient:
    """One patient of a user, prepared as for training.

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
        By modality, why what was given of it cannot be used.
    warnings : dict of str to list of str
        By modality, what is doubtful about reading it.
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
    warnings: dict[str, list[str]]
    drawn: bool

    @property
    def given(self) -> list[str]:
        """The modalities that there are, usable or not."""
        there = {"image": self.image is not None, "signal": self.signal is not None}
        there["clinical"] = bool(self.clinical)
        return [modality for modality, found in there.items() if found or modality in self.unusable]


def open_patients(root: Path, table_rate: float, rate: Literal[100, 500] = 100) -> PatientIndex:
    """Index the patients of a folder, without labels.

    Parameters
    ----------
    root : pathlib.Path
        Folder of PTB-XL, or of the user's patients: any of images, ecg_signals.csv and a clinical table.
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
        raise DataError(f"There is no folder {root}: a run of ecg-multimodal takes folders of patients.")
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


def read_user_patient(index: PatientIndex, name: str, settings: ModalitySettings) -> UserPatient:
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
    unusable = {modality: reasons[name] for modality, reasons in index.unusable.items() if name in reasons}
    for problem in made.problems:
        for modality in ("image", "signal"):
            if problem.what.endswith(without(modality)):
                unusable[modality] = problem.what.removesuffix(without(modality))
    values = index.clinical[index.clinical["recording"] == name].iloc[0].drop("recording").astype(float)
    digests = {made.row["signal_sha256"], made.row["image_sha256"], patient_digest(made.row, values)}
    warnings = {modality: list(texts[name]) for modality, texts in index.warnings.items() if name in texts}
    for text in (problem.what for problem in made.problems if problem.what.startswith(OF_IMAGE)):
        warnings.setdefault("image", []).append(text.removeprefix(OF_IMAGE))
    return UserPatient(
        name=name,
        image=made.image,
        signal=made.signal,
        clinical={str(key): float(value) for key, value in values.dropna().items()},
        ecg=None if made.signal is None else read_signal(row, **about),
        leads=index.leads,
        content=frozenset(digests - {""}),
        unusable=unusable,
        warnings={modality: texts for modality, texts in warnings.items() if modality not in unusable},
        drawn=index.drawn,
    )


def examine_ecg(ecg: Ecg, leads: tuple[str, ...], seconds: float) -> list[SignalWarning]:
    """Return what is doubtful about the signal of a patient, of which so many seconds are read.

    Raises
    ------
    DataError
        If a lead holds nothing, too much is missing, its values cannot be millivolts, or no heart beat is in
        lead II.
    """
    check_leads(ecg, leads)
    of_leads = check_ecg(ecg, leads)
    lead = ecg.samples[leads.index(IMAGE_LEAD)]
    missing = float(np.isnan(lead).mean())
    peaks = r_peaks(fill_gaps(lead), ecg.sampling_rate)
    if len(peaks) < FEWEST_BEATS:
        raise DataError(
            f"Fewer than {FEWEST_BEATS} heart beats are found in the {ecg.duration:.1f} s of its signal: it "
            "is too short or too noisy, or its sampling rate is wrong."
        )
    usual = float(np.median(np.diff(peaks)))
    if not PLAUSIBLE_CYCLE[0] <= usual <= PLAUSIBLE_CYCLE[1]:
        raise DataError(
            f"What repeats in its signal does so {60 / usual:.0f} times a minute, as no heart does: it is "
            "too noisy, or its sampling rate is wrong."
        )
    spans = np.stack([peaks[:-1], peaks[1:]], axis=1)
    signal = Signal(lead.astype(np.float32), ecg.sampling_rate, 0.0, missing)
    quality = examine(Recording(signal, None, ecg.sampling_rate, ""), spans)
    if quality.shows_no_heart(["ecg"]):
        raise DataError("No heart beat that repeats is found in its signal: it is too noisy.")
    short = (
        f"The signal lasts {ecg.duration:.1f} s of {seconds:g} that are read: it goes on with its last value."
    )
    found = [(warning.code, warning.text) for warning in quality.warnings if warning.code != "short"]
    found += [(warning.code, warning.text) for warning in of_leads]
    found += [("short", short)] if ecg.duration < _SHORTEST_SHARE * seconds else []
    return [SignalWarning(code, "signal", text) for code, text in found]


def check_leads(ecg: Ecg, leads: tuple[str, ...]) -> None:
    """Refuse a signal of which a lead holds nothing, or lacks much."""
    flat = [lead for lead, is_flat in zip(leads, flat_leads(ecg.samples), strict=True) if is_flat]
    if flat:
        which = f"Lead {flat[0]} of its signal holds" if len(flat) == 1 else f"Leads {', '.join(flat)} hold"
        raise DataError(f"{which} nothing: every sample is the same, or missing.")
    require_few_gaps(ecg, leads)


def modality_warnings(
    patient: UserPatient, reads: Sequence[str], inputs: Mapping[str, Any], source: str
) -> list[SignalWarning]:
    """Return for each modality that a patient has why it is not used, and what is doubtful.

    Parameters
    ----------
    patient : UserPatient
    reads : sequence of str
        Modalities that the run reads.
    inputs : mapping
        What the checkpoint holds on the inputs.
    source : str
        Where the run's patients come from.
    """
    warnings = []
    for modality in patient.given:
        reason = _why_ignored(modality, patient, reads, inputs)
        if reason:
            text = f"The {modality} was not used: {reason}."
            warnings.append(SignalWarning("ignored", modality, text))
        else:
            texts = patient.warnings.get(modality, [])
            warnings += [SignalWarning("reading", modality, text) for text in texts]
    if source == "ptbxl" and not patient.drawn and patient.image is not None and "image" in reads:
        text = "The run was trained on pictures drawn from signals, never on a scan."
        warnings.append(SignalWarning("drawn", "image", text))
    return warnings


def _why_ignored(modality: str, patient: UserPatient, reads: Sequence[str], inputs: Mapping[str, Any]) -> str:
    """Return why a modality is not used; empty if it is."""
    if modality not in reads:
        return f"the run reads {' and '.join(reads)}"
    if modality == "signal" and len(patient.leads) != inputs["leads"]:
        count = len(patient.leads)
        return f"the run reads {inputs['leads']} leads, and there {'is' if count == 1 else 'are'} {count}"
    if modality == "clinical" and not set(patient.clinical) & set(inputs["clinical"]):
        return f"the run reads {', '.join(inputs['clinical'])}, and none of them is there"
    return ""


def clinical_warnings(
    values: Mapping[str, float], names: Sequence[str], scalers: Sequence[ClinicalScaler]
) -> list[SignalWarning]:
    """Return a warning for each clinical value that lies far from those of training.

    Parameters
    ----------
    values : mapping of str to float
        Those that are known.
    names : sequence of str
        Columns of the run.
    scalers : sequence of ClinicalScaler
        One a model, fitted on its training part; their mean counts.
    """
    warnings = []
    for column, name in enumerate(names):
        if name not in values:
            continue
        mean = float(np.mean([float(scaler.mean[column]) for scaler in scalers]))
        inverse = float(np.mean([float(scaler.inverse_deviation[column]) for scaler in scalers]))
        known = any(bool(scaler.known[column]) for scaler in scalers)
        reason = _far(values[name], mean, inverse, known)
        if reason:
            text = f"The {name} is {values[name]:g}: {reason}."
            warnings.append(SignalWarning("unlike-training", "clinical", text))
    return warnings


def _far(value: float, mean: float, inverse: float, known: bool) -> str:
    """Return how a value differs from those of training; empty if it does not."""
    if not known:
        return "no patient of training had one, so it counts as missing"
    if not inverse:
        return "" if np.isclose(value, mean) else f"all of training had {mean:g}, so it counts for nothing"
    deviation = 1 / inverse
    chance = mean * (1 - mean)
    if value in (0, 1) and abs(deviation**2 - chance) <= _TWO_VALUED * abs(chance):
        return ""  # a rare yes is far from the mean, and still a value of training
    if abs(value - mean) <= _LARGEST_DISTANCE * deviation:
        return ""
    return f"far from those of training ({mean:.4g}, standard deviation {deviation:.3g})"
