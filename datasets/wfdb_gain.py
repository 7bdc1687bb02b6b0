"""Whether the header of a WFDB record states how many units make a millivolt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from datasets.sources import DataError

_GAIN = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)?(?:\(|/|$)")


def require_gain(header: Path, leads: Sequence[str]) -> None:
    """Refuse a WFDB record whose header states no gain, or 0, for one of the leads: it is not calibrated.

    The header format lets a reader assume 200 units a millivolt then, and wfdb does so without a word.

    Raises
    ------
    DataError
    """
    lines = [line for line in header.read_bytes().decode("latin-1").splitlines() if line.strip()]
    first, *signals = [line.split() for line in lines if not line.lstrip().startswith("#")]
    if "/" in first[0]:  # several segments, each with a header of its own
        return
    wanted, lost = {lead.casefold() for lead in leads}, []
    for cells in signals:
        gain = _GAIN.match(cells[2]) if len(cells) > 2 else None
        calibrated = gain and gain[1] and float(gain[1]) != 0
        if not calibrated and cells[-1].casefold() in wanted:
            lost.append(cells[-1])
    if lost:
        raise DataError(
            f"The header {header.name} states no gain for {', '.join(lost)}, so its unit is unknown: write "
            "how many units make a millivolt as third field of the line, such as 1000/mV."
        )
