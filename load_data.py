"""Prepare raw recordings: read, check, and write a cache that training reads.

    python load_data.py --raw-dir PATH/challenge-2016     # recordings that are there
    python load_data.py --download                        # fetch training-a from PhysioNet first
    python load_data.py --simulate                        # simulated patients, to try everything
    python load_data.py MY_COHORT                         # one's own: WFDB records and labels.csv
    python load_data.py ecg-multimodal --raw-dir PATH/ptb-xl    # another task: its own options
    python load_data.py ecg-mae --simulate                # pairs of ECG and cardiac MRI, for all their stages
    python load_data.py --list                            # the caches that there are
    python load_data.py --raw-dir /shared/challenge-2016 --dask tcp://HOST:8786    # a cluster: docs/scale.md

What cannot be used is left out and listed, with the reason, in the cache's skipped.csv. Same settings and
same recordings: nothing is computed again. Then: python training.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.command_line import read_settings, split_task
from common.errors import UserError
from common.script import run_script
from config import SourceSettings
from systems import registry


def main(arguments: Sequence[str] | None = None) -> Path:
    """Prepare what the command line names; return the folder of the cache."""
    given = sys.argv[1:] if arguments is None else arguments
    task, rest = split_task(given, registry.TASKS, "--raw-dir")
    settings = read_settings(registry.load_data_settings(task), rest, __doc__, more=registry.overview())
    if settings.list:
        print(registry.listing(settings.cache_dir))
        return settings.cache_dir
    with workers(settings) as with_folder:
        return registry.prepare(task, with_folder)


@contextlib.contextmanager
def workers(settings: SourceSettings) -> Iterator[SourceSettings]:
    """Let the processes of this machine, or the Dask cluster that the settings name, prepare the recordings.

    Yields
    ------
    SourceSettings
        With a folder of raw data that means the same on every machine.

    Raises
    ------
    UserError
        If there is no such cluster, or no folder is named that its workers can read.
    """
    if not settings.dask:
        yield settings
        return
    from common.cluster import dask_cluster

    if settings.raw_dir is None:
        raise UserError("--dask needs --raw-dir PATH as well: a folder that all workers see under this name.")
    folder = settings.raw_dir.absolute()
    with dask_cluster(settings.dask, folder):
        yield dataclasses.replace(settings, raw_dir=folder)


if __name__ == "__main__":
    run_script(main)
