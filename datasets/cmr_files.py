"""Read a cine CMR from a file, and bring it to one size, spacing, orientation and number of frames.

===========  ============================================================================================
file         axes
===========  ============================================================================================
NIfTI, 3     (height, width, frames); the file is named, as a stack of slices would look the same
NIfTI, 4     (height, width, slices, frames), the slices in any place: they are the shortest axis in space
``.npy``     (frames, height, width) or (frames, slices, height, width), rows from top to bottom
===========  ============================================================================================

Of several slices the middle one is taken. A NIfTI that states how it lies in the patient is turned so that
columns run to the patient's left and rows to back and feet, the usual display; turning is by quarters
and mirrors only, so no value changes. One that does not state it, and ``.npy``, are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from datasets.patient_views import PLAUSIBLE_RATE as PLAUSIBLE_RATE
from datasets.sources import DataError

Pixels = NDArray[np.float32]
