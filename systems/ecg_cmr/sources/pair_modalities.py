"""From one row of an index of pairs to what the cache keeps: the ECG, which leads there are, the cines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from datasets.array_files import ARRAYS, read_array
from datasets.cache import Prepared
from datasets.ecg import LEADS, PLAUSIBLE_RATE, Ecg, flat_leads, prepare_signal, read_ecg
from datasets.lead_checks import LARGEST_GAP, check_ecg, named, without_gaps
from datasets.signals import MINIMUM_DURATION
from datasets.sources import DataError, MissingModality, Problem
from systems.ecg_cmr.settings import PairSettings
from systems.ecg_cmr.sources.cmr_files import prepare_cine, read_cine

LARGEST_MILLIVOLTS = 30.0
"""What 99 in 100 samples of an ECG stay below."""
ROW = "#"
"""Between the name of a file of many ECGs and the number of one."""
_FILE_REMEDY = "Mend the file, then prepare again."

Result = TypeVar("Result")


@dataclass(frozen=True)
class PreparedPair(Prepared):
    """What one patient gives to the cache.

    Attributes
    ----------
    ecg : numpy.ndarray of float32, shape (12, points), or None
        Millivolts; zeros in leads that are not there.
    lead_present : numpy.ndarray of bool, shape (12,)
    cmr, long_axis : numpy.ndarray of uint8, shape (frames, size, size), or None
        Brightness.
    """

    ecg: NDArray[np.float32] | None
    lead_present: NDArray[np.bool_]
    cmr: NDArray[np.uint8] | None
    long_axis: NDArray[np.uint8] | None = None


def prepare_pair(row: dict[str, Any], *, root: Path, settings: PairSettings) -> PreparedPair | Problem:
    """Prepare the ECG and the cines of one row of an index, or say why it is left out.

    What cannot be used is named, and the patient kept with the rest; one of whom neither ECG nor short axis
    is left is left out.
    """
    name, problems = str(row["recording"]), list[Problem]()
    ecg = cmr = long_axis = None
    if row["ecg"]:
        ecg = _tried(name, "ECG", problems, _checked_leads, row, root, problems)
    if row["cine"]:
        cmr = _tried(name, "cine", problems, _cine, row, root, "cmr", settings)
    if row["long_axis"] and settings.long_axis:
        long_axis = _tried(name, "long axis", problems, _cine, row, root, "long_axis", settings)
    if ecg is None and cmr is None:
        reasons = " ".join(problem.what for problem in problems if problem.remedy == _FILE_REMEDY)
        return Problem(name, f"Neither ECG nor cine can be used. {reasons}".strip(), _FILE_REMEDY)
    warnings = ecg.warnings if ecg else ()
    problems += [Problem(name, f"ECG: {text}", "Check the file.", left_out=False) for text in warnings]
    metadata = row | _ecg_metadata(ecg, settings) | {"image_sha256": ""}
    for axis, cine in (("Cine", cmr), ("Long axis", long_axis)):
        metadata |= cine.metadata if cine else {}
        warnings = cine.warnings if cine else ()
        problems += [Problem(name, f"{axis}: {text}", "Nothing.", left_out=False) for text in warnings]
    return PreparedPair(
        metadata,
        prepare_signal(ecg.samples, ecg.sampling_rate, settings.ecg_rate, settings.seconds) if ecg else None,
        ~flat_leads(ecg.samples) if ecg else np.zeros(len(LEADS), dtype=bool),
        cmr.pixels if cmr else None,
        long_axis.pixels if long_axis else None,
        problems=problems,
    )


def _tried(
    name: str, modality: str, problems: list[Problem], read: Callable[..., Result], *arguments: Any
) -> Result | None:
    """Return what a function reads; where it cannot, name that, and return None."""
    try:
        return read(*arguments)
    except DataError as error:
        problems.append(MissingModality(name, f"{error} It is used without {modality}.", _FILE_REMEDY))
        return None


# ECG ------------------------------------------------------------------------------------------------


def _checked_leads(row: dict[str, Any], root: Path, problems: list[Problem]) -> Ecg:
    """Read the ECG of a row; what is doubtful about it is named, and a lead that lacks much left out."""
    ecg, lost = without_gaps(read_leads(root / row["ecg"], root, float(row["ecg_rate"])))
    if lost.any() and flat_leads(ecg.samples).all():
        raise DataError(f"More than {LARGEST_GAP:.0%} of each of its leads is missing (NaN).")
    texts = [warning.text for warning in check_ecg(ecg)]
    if lost.any():
        which = named(LEADS, lost)
        texts = [text for text in texts if text != f"It lacks {which}."]
        texts.insert(0, f"More than {LARGEST_GAP:.0%} of {which} is missing (NaN): they count as absent.")
    where = str(row["recording"])
    problems += [Problem(where, f"ECG: {text}", "Check the file.", left_out=False) for text in texts]
    return ecg


def read_leads(path: Path, root: Path, rate: float = 0.0) -> Ecg:
    """Read the twelve leads of an ECG; those that are lacking are NaN.

    Parameters
    ----------
    path : pathlib.Path
        WFDB header, file of channels, or array file of shape (leads, T) in millivolts.
    root : pathlib.Path
        Folder outside which nothing is read.
    rate : float
        Sampling rate of an ``.npy`` that does not state its own, hertz; 0: unknown.

    Raises
    ------
    DataError
        If it cannot be read, has no known lead, or no plausible rate, length or unit.
    """
    is_array = path.suffix.lower() in ARRAYS
    if ROW in path.name:
        ecg = _row_of_array(path, rate)
    else:
        ecg = _npy_leads(path, rate) if is_array else read_ecg(path, root, LEADS, some=True)
    low, high = PLAUSIBLE_RATE
    if not low <= ecg.sampling_rate <= high:
        raise DataError(
            f"The rate of {path.name} is {ecg.sampling_rate:g} Hz; {low:g} to {high:g} are plausible."
        )
    if ecg.duration < MINIMUM_DURATION:
        raise DataError(
            f"The ECG {path.name} lasts {ecg.duration:.2f} s; at least {MINIMUM_DURATION:g} s are needed."
        )
    samples = np.where(np.isfinite(ecg.samples), ecg.samples, np.nan)
    if flat_leads(samples).all():
        raise DataError(f"The ECG {path.name} holds no signal.")
    largest = np.nanpercentile(np.abs(samples), 99)
    if largest > LARGEST_MILLIVOLTS:
        raise DataError(f"The ECG {path.name} reaches {largest:.3g} mV: its values are not in millivolts.")
    return Ecg(samples, ecg.sampling_rate, ecg.warnings)


def _row_of_array(path: Path, rate: float) -> Ecg:
    """Return one ECG of a file of many, (N, 1, T, 12), that ``name.npy#row`` names."""
    name, _, row = path.name.rpartition(ROW)
    try:
        samples = np.load(path.with_name(name), mmap_mode="r", allow_pickle=False)[int(row), 0].T
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"Row {row} of {name} cannot be read ({error}).") from error
    return Ecg(np.array(samples, dtype=np.float64), rate)


def _npy_leads(path: Path, rate: float) -> Ecg:
    """Return the leads of an array file."""
    samples = read_array(path)
    if samples.ndim != 2:
        raise DataError(f"The ECG {path.name} is no array of shape (leads, samples).")
    stated_rate, names = _sidecar(path)
    rate = rate or stated_rate
    if rate <= 0:
        raise DataError(
            f"The sampling rate of {path.name} is not known: add the column ecg_rate to the table, or "
            f"--ecg-rate to the command, in hertz, or state it in {path.stem}.json."
        )
    if len(names) != len(samples):
        raise DataError(
            f"The ECG {path.name} has {len(samples)} rows, and {len(names)} leads are expected: "
            f"store (leads, samples), or name the leads in {path.stem}.json."
        )
    return Ecg(_in_order(samples.astype(np.float64), names), float(rate))


def _sidecar(path: Path) -> tuple[float, list[str]]:
    """Return the rate and the leads that the file beside an array states; 0 and twelve leads by default."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        return 0.0, list(LEADS)
    try:
        content = json.loads(beside.read_text(encoding="utf-8"))
        return float(content.get("sampling_rate", 0.0)), [str(name) for name in content.get("leads", LEADS)]
    except (ValueError, TypeError, AttributeError, OSError) as error:
        raise DataError(f"The file {beside.name} cannot be read ({error}).") from error


def _in_order(samples: NDArray[np.float64], names: list[str]) -> NDArray[np.float64]:
    """Return twelve leads in the usual order, NaN where one is lacking."""
    numbers = {name.strip().casefold(): number for number, name in enumerate(names)}
    if not set(numbers) & {lead.casefold() for lead in LEADS}:
        raise DataError(f"None of the leads {', '.join(names)} is one of {', '.join(LEADS)}.")
    ordered = np.full((len(LEADS), samples.shape[1]), np.nan)
    for place, lead in enumerate(LEADS):
        if lead.casefold() in numbers:
            ordered[place] = samples[numbers[lead.casefold()]]
    return ordered


def _ecg_metadata(ecg: Ecg | None, settings: PairSettings) -> dict[str, Any]:
    """Return what ``recordings.csv`` says of an ECG; the digest is of its content."""
    if ecg is None:
        return {"ecg_rate": 0.0, "duration": 0.0, "end": 0.0, "absent_leads": "", "signal_sha256": ""}
    absent = flat_leads(ecg.samples)
    return {
        "ecg_rate": ecg.sampling_rate,
        "duration": round(ecg.duration, 4),
        "end": round(min(ecg.duration, settings.seconds), 4),
        "absent_leads": " ".join(lead for lead, lacks in zip(LEADS, absent, strict=True) if lacks),
        "signal_sha256": ecg_digest(ecg),
    }


def ecg_digest(ecg: Ecg) -> str:
    """Return a digest of an ECG's samples and rate, by which the same ECG is known wherever it turns up."""
    content = ecg.samples.astype("<f4").tobytes() + f"{ecg.sampling_rate:g}".encode()
    return hashlib.sha256(content).hexdigest()


# Cine -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _PreparedCine:
    """A cine as the cache keeps it, metadata of its file, and what was unusual."""

    pixels: NDArray[np.uint8]
    metadata: dict[str, Any]
    warnings: tuple[str, ...]


def _cine(row: dict[str, Any], root: Path, axis: str, settings: PairSettings) -> _PreparedCine:
    """Read and prepare the short axis (``cmr``) or the long axis (``long_axis``) of a row."""
    file, digest = ("cine", "image_sha256") if axis == "cmr" else (axis, f"{axis}_sha256")
    spacing = settings.pixel_spacing if axis == "cmr" else settings.long_axis_spacing
    cine = read_cine(root / row[file], float(row[f"{axis}_spacing"]))
    first = int(row["first_frame"])
    if first >= len(cine.frames):
        raise DataError(f"Its end-diastole is frame {first + 1}, and there are {len(cine.frames)}.")
    pixels = prepare_cine(
        cine, settings.frames, settings.size, spacing, settings.center, first, settings.percentiles
    )
    metadata = {
        f"{axis}_frames": len(cine.frames),
        f"{axis}_slices": cine.slices,
        f"{axis}_spacing": round(max(cine.spacing), 4),
        digest: hashlib.sha256(cine.frames.tobytes()).hexdigest(),
    }
    return _PreparedCine(pixels, metadata, cine.warnings)
