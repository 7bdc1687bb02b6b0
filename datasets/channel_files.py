"""Files of several channels that are no WFDB records: EDF, BDF, DICOM and XML, each by a library."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from datasets.sources import DataError
from datasets.wfdb_files import millivolts_of

_LEAD_CODES = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"} | {
    number + 2: f"V{number}" for number in range(1, 7)
}
"""Leads by the last part of their code, which SCP-ECG and ISO/IEEE 11073-10101 share."""
_OPEN_LENGTH = -1
"""Number of records that an EDF file states while it is being written."""

_XML_EXPECTED = "it is neither an annotated ECG of HL7 (aECG) nor a MUSE file of GE"


@dataclass(frozen=True)
class Channel:
    """One channel of a file.

    Attributes
    ----------
    name, unit : str
        As the file states them; a coded lead has its usual name.
    samples : numpy.ndarray of float64, shape (n,)
        In that unit; NaN where missing.
    rate : float
        Hertz.
    saturated : float
        Share of samples at the lowest or the highest value that the file can hold.
    """

    name: str
    unit: str
    samples: NDArray[np.float64]
    rate: float
    saturated: float = 0.0

    def millivolts(self, file: str) -> NDArray[np.float64]:
        """Return the samples in millivolts.

        Raises
        ------
        DataError
            If the unit is no voltage.
        """
        scale = millivolts_of(self.unit)
        if scale is None:
            raise DataError(f"Channel {self.name} of {file} is in {self.unit!r}, not in V, mV or uV.")
        return self.samples * scale


@dataclass(frozen=True)
class ChannelFile:
    """The channels of a file, and what is doubtful about it."""

    channels: list[Channel]
    warnings: tuple[str, ...] = ()

    @property
    def sig_name(self) -> list[str]:
        """Names of the channels, as a WFDB record has them."""
        return [channel.name for channel in self.channels]


def read_channels(path: Path) -> ChannelFile:
    """Read all channels of a file.

    Raises
    ------
    DataError
        If it cannot be read, is cut short, has gaps in time, or has no channel.
    """
    try:
        found = _READERS[path.suffix.lower()](path)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # there is no end to the ways in which files from anywhere can be damaged
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")  # pydicom's has many
        raise DataError(f"{path.name} cannot be read: {reason}.") from error
    if not found.channels:
        raise DataError(f"{path.name} holds no channel.")
    return found


def _edf(path: Path) -> ChannelFile:
    """Read EDF, EDF+C, BDF or BDF+C with edfio; what it would mend without a word is refused."""
    import edfio  # takes a tenth of a second

    read: Any = edfio.read_bdf if path.suffix.lower() == ".bdf" else edfio.read_edf
    with catch_warnings(record=True) as caught:
        simplefilter("always")
        try:
            content: Any = read(path, header_encoding="latin-1")
        except (ValueError, IndexError, KeyError) as error:
            raise DataError(f"{path.name} cannot be read: its header is no header of EDF or BDF.") from error
        channels = [_edf_channel(signal) for signal in content.signals]
    with path.open("rb") as stream:
        declared, held = int(stream.read(244)[236:]), content.num_data_records
    if "+D" in content.reserved:
        raise DataError(f"{path.name} has gaps in time ({content.reserved}): write it without.")
    if declared not in (_OPEN_LENGTH, held):
        raise DataError(f"{path.name} is cut short: {declared} records are declared, and {held} are there.")
    faults = [str(warning.message) for warning in caught if "indicates -1" not in str(warning.message)]
    if declared == _OPEN_LENGTH:
        faults = [fault for fault in faults if not fault.startswith("Incomplete")]
    if faults:
        raise DataError(f"{path.name} does not hold what it declares: {faults[0].rstrip('.')}.")
    text = f"The length of {path.name} was left open: all {content.duration:.1f} s are read."
    return ChannelFile(channels, (text,) if declared == _OPEN_LENGTH else ())


def _edf_channel(signal: Any) -> Channel:
    digital = signal.digital
    limits = (digital <= signal.digital_min) | (digital >= signal.digital_max)
    return Channel(
        signal.label.strip(),
        signal.physical_dimension.strip(),
        np.array(signal.data, dtype=np.float64),
        float(signal.sampling_frequency),
        float(limits.mean()) if len(limits) else 0.0,
    )


def _dicom(path: Path) -> ChannelFile:
    """Read the original waveforms of a DICOM file with pydicom; averaged beats are left aside."""
    import pydicom  # takes a third of a second
    import pydicom.misc

    if not pydicom.misc.is_dicom(path):
        raise DataError(f"{path.name} cannot be read: it is no DICOM file.")
    content = pydicom.dcmread(path)
    groups = content.get("WaveformSequence") or []
    if not groups:
        raise DataError(f"{path.name} holds no waveform: it is a DICOM file of another kind.")
    original = [
        number for number, group in enumerate(groups) if group.get("WaveformOriginality") != "DERIVED"
    ]
    if len({float(groups[number].get("MultiplexGroupTimeOffset") or 0) for number in original}) > 1:
        raise DataError(f"The waveforms of {path.name} do not begin together.")
    return ChannelFile([channel for number in original for channel in _dicom_group(content, number)])


def _dicom_group(content: Any, number: int) -> list[Channel]:
    """Return the channels of one multiplex group."""
    from pydicom.waveforms import multiplex_array

    group = content.WaveformSequence[number]
    samples = group.NumberOfWaveformChannels * group.NumberOfWaveformSamples
    if len(group.WaveformData) < samples * group.WaveformBitsAllocated // 8:
        raise DataError(f"{Path(content.filename).name} is cut short: its waveform is shorter than declared.")
    raw, physical = multiplex_array(content, number), multiplex_array(content, number, as_raw=False)
    physical[raw == _padding(group, raw)] = np.nan
    limits = np.iinfo(raw.dtype)
    saturated = ((raw == limits.min) | (raw == limits.max)).mean(axis=0)
    channels = []
    for place, definition in enumerate(group.ChannelDefinitionSequence):
        name, unit = _dicom_name(definition), _dicom_unit(definition)
        if any(float(definition.get(f"Channel{kind}Skew") or 0) for kind in ("Sample", "Time")):
            raise DataError(f"Channel {name} is shifted in time against the others.")
        rate = float(group.SamplingFrequency)
        channels.append(Channel(name, unit, physical[:, place], rate, float(saturated[place])))
    return channels


def _padding(group: Any, raw: NDArray[Any]) -> Any:
    """Return the value that stands for a missing sample; none equals NaN."""
    stated = group.get("WaveformPaddingValue")
    return np.frombuffer(stated, raw.dtype)[0] if isinstance(stated, bytes) and stated else np.nan


def _dicom_name(definition: Any) -> str:
    source = definition.ChannelSourceSequence[0]
    code = re.fullmatch(r"(?:5\.6\.3-9-|2:)(\d+)", str(source.get("CodeValue", "")))
    lead = _LEAD_CODES.get(int(code[1])) if code else None
    return lead or str(source.get("CodeMeaning") or definition.get("ChannelLabel") or "")


def _dicom_unit(definition: Any) -> str:
    """Return the unit; empty where there is none, or no sensitivity that would lead to it."""
    units = definition.get("ChannelSensitivityUnitsSequence") or []
    return str(units[0].CodeValue) if units and "ChannelSensitivity" in definition else ""


def _xml(path: Path) -> ChannelFile:
    """Read HL7 aECG and GE MUSE with ecgdatakit, which knows more kinds of XML; those are not tested here."""
    from ecgdatakit.exceptions import UnsupportedFormatError
    from ecgdatakit.parsing.parser import FileParser  # takes half a second

    with catch_warnings(record=True) as caught:
        simplefilter("always")
        try:
            record = FileParser().parse(path)
        except UnsupportedFormatError:
            raise DataError(f"{path.name} cannot be read: {_XML_EXPECTED}.") from None
        except Exception as error:  # it raises many kinds for damaged files, with the whole path in the text
            raise DataError(f"{path.name} cannot be read: {error}.".replace(str(path), "the file")) from error
    if record.source_format not in ("hl7_aecg", "ge_muse_xml"):
        raise DataError(f"{path.name} is of the kind {record.source_format}: {_XML_EXPECTED}.")
    channels = [
        Channel(lead.label, lead.units, np.array(lead.samples, dtype=np.float64), float(lead.sampling_rate))
        for lead in record.leads
    ]
    warnings = tuple(f"{path.name}: {warning.message}." for warning in caught)
    if record.source_format == "ge_muse_xml":
        channels += _limb_leads({channel.name: channel for channel in channels})
    return ChannelFile(channels, warnings)


def _limb_leads(stored: dict[str, Channel]) -> list[Channel]:
    """Return the limb leads that MUSE leaves out: I and II make them (Einthoven, Goldberger)."""
    first, second = stored.get("I"), stored.get("II")
    if first is None or second is None or len(first.samples) != len(second.samples):
        return []
    one, two = first.samples, second.samples
    found = {"III": two - one, "aVR": -(one + two) / 2, "aVL": one - two / 2, "aVF": two - one / 2}
    alike = (first.unit, first.rate) == (second.unit, second.rate)
    return [replace(first, name=name, samples=found[name]) for name in found if alike and name not in stored]


_READERS: dict[str, Callable[[Path], ChannelFile]] = {
    **{".edf": _edf, ".bdf": _edf},
    **{".dcm": _dicom, ".xml": _xml},
}
CHANNEL_FILES = tuple(_READERS)
"""Endings of files of channels."""
