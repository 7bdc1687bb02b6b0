"""Prepare raw recordings: read, check, and write a cache that training reads.

    python load_data.py --raw-dir PATH/challenge-2016     # recordings that are there
    python load_data.py --download                        # fetch training-a from PhysioNet first
    python load_data.py --simulate                        # simulated patients, to try everything
    python load_data.py --raw-dir MY_COHORT               # one's own: WFDB records and labels.csv
    python load_data.py ecg-multimodal --raw-dir PTB-XL   # another task, with options of its own
    python load_data.py ecg-mae --simulate                # pairs of ECG and cardiac MRI, for all their stages
    python load_data.py --raw-dir /shared/challenge-2016 --dask tcp://HOST:8786    # a cluster: docs/scale.md

What cannot be used is left out and listed, with the reason, in the cache's skipped.csv. Same settings and
same recordings: nothing is computed again. Then: python training.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from common.command_line import read_settings, split_task
from common.script import run_script
from config import TASK_NAMES
from systems.preparing import preparation_of, workers_of


def main(arguments: Sequence[str] | None = None) -> Path:
    """Prepare what the command line names; return the folder of the cache."""
    task, rest = split_task(sys.argv[1:] if arguments is None else arguments, TASK_NAMES)
    settings, prepare = preparation_of(task)
    with workers_of(read_settings(settings, rest, __doc__)) as chosen:
        return prepare(chosen)


if __name__ == "__main__":
    run_script(main)
