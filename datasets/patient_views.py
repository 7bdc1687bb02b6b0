"""From one patient of an index to the views that the cache keeps: the signal and the picture."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import wfdb
from numpy.typing import NDArray

from datasets.ecg_image import draw_ecg, draw_sheet
from datasets.ecg_image_reading import read_ecg_image, to_ink
from datasets.record_checks import check_checksums
from datasets.recordings import MILLIVOLTS, MINIMUM_DURATION, signal_files
from datasets.signal_table import read_row
from datasets.signals import fill_gaps, resample
from datasets.sources import DataError, Problem
from settings.ecg_multimodal import ViewSettings

PLAUSIBLE_RATE = (50.0, 20_000.0)
"""Sampling rates that are believed, hertz."""
IMAGE_LEAD = "II"


@dataclass(frozen=True)
class Ecg:
    """A signal as recorded.

    Attributes
    ----------
    samples : numpy.ndarray of float64, shape (leads, T)
        Millivolts; NaN where missing.
    sampling_rate : float
        Hertz.
    """

    samples: NDArray[np.float64]
    sampling_rate: float

    @property
    def duration(self) -> float:
        """Length, seconds."""
        return self.samples.shape[1] / self.sampling_rate


@dataclass(frozen=True)
class PreparedPatient:
    """What one recording gives to the cache.

    Attributes
    ----------
    row : dict
        Facts, for ``recordings.csv``.
    signal : numpy.ndarray of float32, shape (leads, points), or None
        Millivolts.
    image : numpy.ndarray of uint8, shape (height, width), or None
        Ink, 0 paper to 255 black.
    problems : list of Problem
        Warnings.
    """

    row: dict[str, Any]
    signal: NDArray[np.float32] | None
    image: NDArray[np.uint8] | None
    problems: list[Problem] = field(default_factory=list)


def prepare_signal(
    signal: NDArray[np.floating], rate: float, target_rate: float, seconds: float
) -> NDArray[np.float32]:
    """Return a signal at another rate and of fixed length, still in its own unit.

    Gaps are filled linearly, flat leads become zero, rates are reduced without aliases, the beginning is
    kept, and what is too short goes on with its last value.

    Parameters
    ----------
    signal : numpy.ndarray, shape (leads, T)
        NaN where missing.
    rate, target_rate : float
        Hertz.
    seconds : float
        Length wanted.

    Returns
    -------
    numpy.ndarray of float32, shape (leads, round(seconds * target_rate))
    """
    points = round(seconds * target_rate)
    if signal.ndim != 2 or not signal.shape[1] or rate <= 0 or target_rate <= 0 or points < 1:
        raise ValueError(
            f"A signal of shape {signal.shape} at {rate} Hz cannot become {seconds} s at {target_rate} Hz."
        )
    flat = flat_leads(signal)
    ready = np.zeros((len(signal), points), dtype=np.float32)
    # what lies behind the end still belongs into the anti-alias filter of the last samples
    kept = signal[~flat, : int(np.ceil((seconds + 1) * rate))]
    if kept.shape[0]:
        filled = np.stack([fill_gaps(lead) for lead in kept.astype(np.float64)])
        resampled = resample(filled, rate, target_rate)[:, :points]
        ready[~flat] = np.pad(resampled, [(0, 0), (0, points - resampled.shape[1])], mode="edge")
    return ready


def flat_leads(signal: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which leads hold nothing, or one value throughout, shape (leads,)."""
    lowest, highest = np.fmin.reduce(signal, axis=1), np.fmax.reduce(signal, axis=1)
    return ~(highest > lowest)


def read_ecg(header: Path, root: Path, leads: tuple[str, ...]) -> Ecg:
    """Read leads of a WFDB record, in the order given, whatever order and unit the file has.

    Raises
    ------
    DataError
        If a file is absent, outside ``root`` or damaged, or a lead is lacking.
    """
    signal_files(header, root)
    try:
        record = wfdb.rdrecord(str(header.with_suffix("")), physical=False, return_res=64)
        physical = record.dac(return_res=64)
    except Exception as error:  # wfdb raises many kinds for damaged files
        raise DataError(f"The recording {header.stem} cannot be read: {error}") from error
    check_checksums(record)
    numbers = {name.strip().casefold(): number for number, name in enumerate(record.sig_name)}
    lacking = [lead for lead in leads if lead.casefold() not in numbers]
    if lacking:
        named = ", ".join(record.sig_name)
        raise DataError(f"The recording {header.stem} lacks {', '.join(lacking)}; it has {named}.")
    wanted = [numbers[lead.casefold()] for lead in leads]
    units = [str(record.units[number]).lower() for number in wanted]
    if set(units) - set(MILLIVOLTS):
        raise DataError(f"The recording {header.stem} is not in V, mV or uV, but in {', '.join(set(units))}.")
    scale = np.array([MILLIVOLTS[unit] for unit in units])
    return Ecg((physical[:, wanted] * scale).T, float(record.fs))


def prepare_patient(
    row: dict[str, Any],
    *,
    root: Path,
    settings: ViewSettings,
    leads: tuple[str, ...],
    signal_rate: float,
    drawn: bool,
) -> PreparedPatient | Problem:
    """Prepare the views of one recording of an index, or say why it is left out.

    Parameters
    ----------
    row : dict
        One row of the index.
    root : pathlib.Path
    settings : ViewSettings
    leads, signal_rate, drawn
        As in `datasets.patients.PatientIndex`.
    """
    name, problems = str(row["recording"]), list[Problem]()
    ecg, image, digest = None, None, ""
    try:
        ecg = read_signal(row, root, leads, signal_rate)
        if drawn and ecg is None:
            raise DataError("It has no signal.")
    except DataError as error:
        if drawn:
            return Problem(name, str(error), "Mend or remove the recording, then prepare again.")
        problems.append(_used_without(name, "signal", error))
    try:
        if drawn and ecg is not None:
            image = draw_ink(ecg, leads, settings, name)
        elif row["image"]:
            path = root / row["image"]
            image = read_ecg_image(path, settings.image_height, settings.image_width)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except DataError as error:
        problems.append(_used_without(name, "image", error))
    signal = None
    if ecg is not None:
        signal = prepare_signal(ecg.samples, ecg.sampling_rate, settings.signal_rate, settings.seconds)
    facts = row | _signal_facts(ecg, leads) | {"image_sha256": digest}
    return PreparedPatient(facts, signal, image, problems)


def draw_ink(ecg: Ecg, leads: tuple[str, ...], settings: ViewSettings, name: str) -> NDArray[np.uint8] | None:
    """Return a picture drawn from a signal as ink, shape (height, width); None where lead II is missing.

    What is random in it depends on the name of the recording only.
    """
    lead = ecg.samples[leads.index(IMAGE_LEAD)]
    if np.isnan(lead).all():
        return None
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    signal = ecg.samples if settings.sheet else lead
    picture = (draw_sheet if settings.sheet else draw_ecg)(
        signal,
        ecg.sampling_rate,
        rotation=rng.uniform(-1, 1) * settings.rotation,
        shadow=rng.uniform() * settings.shadow,
        noise=rng.uniform() * settings.noise,
        text=settings.text,
        rng=rng,
    )
    return to_ink(picture, settings.image_height, settings.image_width)


def read_signal(row: dict[str, Any], root: Path, leads: tuple[str, ...], signal_rate: float) -> Ecg | None:
    """Return the signal of a row of the index as recorded, None where it has none.

    Raises
    ------
    DataError
        If it cannot be read, its rate is not plausible, or it is too short or empty.
    """
    where = str(row["signal"])
    if not where:
        return None
    if where.endswith(".hea"):
        ecg = read_ecg(root / where, root, leads)
    else:
        table, place = where.rsplit("@", 1)
        ecg = Ecg(read_row(root / table, str(row["recording"]), place)[None], signal_rate)
    low, high = PLAUSIBLE_RATE
    if not low <= ecg.sampling_rate <= high:
        raise DataError(f"Its sampling rate is {ecg.sampling_rate:g} Hz; {low:g} to {high:g} are plausible.")
    if ecg.duration < MINIMUM_DURATION:
        raise DataError(f"Its signal lasts {ecg.duration:.2f} s; at least {MINIMUM_DURATION:g} s are needed.")
    if np.isnan(ecg.samples).all():
        raise DataError("Its signal holds no sample.")
    return ecg


def _signal_facts(ecg: Ecg | None, leads: tuple[str, ...]) -> dict[str, Any]:
    """Return what ``recordings.csv`` says of a signal; the digest is of its content, none of a flat one."""
    if ecg is None:
        return {"ecg_rate": 0.0, "duration": 0.0, "flat_leads": "", "ecg_missing": 0.0, "signal_sha256": ""}
    flat = flat_leads(ecg.samples)
    content = ecg.samples.astype("<f4").tobytes() + f"{ecg.sampling_rate:g}".encode()
    return {
        "ecg_rate": ecg.sampling_rate,
        "duration": round(ecg.duration, 4),
        "flat_leads": " ".join(lead for lead, is_flat in zip(leads, flat, strict=True) if is_flat),
        "ecg_missing": round(float(np.isnan(ecg.samples).mean()), 6),
        "signal_sha256": "" if flat.all() else hashlib.sha256(content).hexdigest(),
    }


def _used_without(name: str, view: str, error: Exception) -> Problem:
    """Return the warning about a view that cannot be read."""
    return Problem(name, f"{error}{without(view)}", "Mend the file.", left_out=False)


def without(view: str) -> str:
    """Return the end of the warning about a view that cannot be read."""
    return f" It is used without {view}."
