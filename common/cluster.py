"""Hand work to a Dask cluster: whatever joblib would do in processes of this machine, its workers do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib

from common.errors import UserError

PATIENCE = 15
"""How long a scheduler, and then its first worker, is waited for, seconds."""
_GUIDE = "docs/scale.md shows how a cluster is started"


@contextlib.contextmanager
def dask_cluster(address: str, folder: Path) -> Iterator[None]:
    """Let the workers of a Dask cluster do the work of joblib while the block lasts.

    Parameters
    ----------
    address : str
        Address of the scheduler, as in ``tcp://HOST:8786``.
    folder : pathlib.Path
        What is worked on; every worker has to see it under the same name.

    Raises
    ------
    UserError
        If Dask is not installed, nothing answers at the address, there are no workers, they do not find this
        project or the folder, or one of them dies time and again.
    """
    try:
        import distributed
    except ImportError:
        raise UserError(
            "--dask needs the packages dask and distributed, which are not installed here: "
            "pip install dask distributed."
        ) from None
    with contextlib.closing(_connect(distributed, address)) as client:
        _check_workers(client, address, folder)
        try:
            with joblib.parallel_config(backend="dask", client=client):
                yield
        except (
            distributed.scheduler.KilledWorker,
            distributed.comm.CommClosedError,
            distributed.CancelledError,
        ) as error:
            raise UserError(
                f"The Dask cluster at {address} lost its workers, or itself ({error}): often a worker had "
                "too little memory. Nothing half done was left; look at the workers' logs and start again."
            ) from error


def _connect(distributed: Any, address: str) -> Any:
    """Return a client of the scheduler, with one worker at least."""
    try:
        client = distributed.Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"No Dask scheduler answers at {address} ({type(error).__name__}). Start one (dask scheduler), "
            f"or correct the address after --dask; {_GUIDE}."
        ) from None
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        client.close()
        raise UserError(
            f"The Dask scheduler at {address} has no workers. Start some (dask worker {address}); {_GUIDE}."
        ) from None
    return client


def _check_workers(client: Any, address: str, folder: Path) -> None:
    """Refuse a cluster that lacks the code of this project, or the folder where there is one here."""
    try:
        client.run_on_scheduler(_project)  # which unpacks the tasks too; without the code they would get lost
        client.run(_project)
    except Exception as error:  # whatever is raised there comes back as an Exception
        raise UserError(
            f"The scheduler or the workers of the Dask cluster at {address} cannot import this project "
            f"({error}): start them with PYTHONPATH set to its folder, here {_project()}; {_GUIDE}."
        ) from None
    seen = client.run(os.path.isdir, str(folder))
    blind = [worker for worker, found in seen.items() if not found]
    if folder.is_dir() and blind:
        raise UserError(
            f"{len(blind)} of {len(seen)} workers of the Dask cluster at {address} see no folder {folder} "
            f"(the first: {blind[0]}): name one on a file system that all of them share with --raw-dir."
        )


def _project() -> str:
    """Return where this project lies; who has not got it cannot even look for this function."""
    return str(Path(__file__).parents[1])
