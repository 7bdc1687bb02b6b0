"""What all folds of one call of training.py share: data, device, folder of the run, who is in which part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from common.command_line import to_plain
from common.errors import UserError
from common.files import replacing
from config import RunSettings
from datasets.cache import Cache, find_cache
from datasets.sources import DataError
from datasets.splits import Fold, final_fold, make_folds, splits_table
from learning.checkpoint import provenance
from learning.devices import choose_device, choose_precision, describe_machine
from learning.distributed import Processes
from learning.fold import FoldContext
from learning.runs import is_begun, lock_folder, open_run, run_name
from models.layers.layout import choose_layout
from systems.base.task import Task


@dataclass(frozen=True)
class Session:
    """What all folds of one call of this script share."""

    task: Task
    settings: RunSettings
    cache: Cache
    samples: Any
    device: torch.device
    processes: Processes

    @property
    def name(self) -> str:
        """Name of the run."""
        return run_name(self.task.name, self.settings)

    @property
    def folder(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.settings.checkpoint_dir / self.name

    @property
    def log_folder(self) -> Path:
        """Folder of the run's curves."""
        return self.settings.log_dir / self.name

    def say(self, text: str) -> None:
        """Print, if this process leads."""
        if self.processes.leads:
            print(text, flush=True)


def open_session(
    task: Task, settings: RunSettings, processes: Processes, samples_on: torch.device | None = None
) -> tuple[Session, list[Fold]]:
    """Open the cache, choose the folds and bring the samples to the device of the run, or another."""
    device = choose_device(settings.device, processes.local_rank)
    cache = find_cache(settings.cache, settings.cache_dir, task=task.name)
    samples = task.samples(cache, settings, samples_on or device)
    session = Session(task, settings, cache, samples, device, processes)
    folds = choose_folds(session)
    session.say(
        f"Run {session.name}: preset {settings.preset}, protocol {settings.protocol}, "
        f"{len(folds)} fold{'s' * (len(folds) != 1)}, {len(session.samples)} samples of {cache.path}, "
        f"on {describe_machine(device)}."
    )
    return session, folds


def choose_folds(session: Session) -> list[Fold]:
    """Return the folds to train, separated as the protocol promises."""
    settings, table = session.settings, session.samples.table
    if settings.folds == "none":
        return [final_fold(table)]
    share = settings.validation_share if session.task.selects else 0.0
    folds = make_folds(
        table,
        settings.protocol,
        settings.fold_count,
        share,
        settings.seed,
        labelled=session.task.labelled,
    )
    if settings.folds == "all":
        return folds
    unknown = sorted(set(settings.folds) - set(range(len(folds))))
    if unknown:
        raise DataError(
            f"There is no fold {unknown[0]}: --fold-count {len(folds)} numbers them 0 to {len(folds) - 1}."
        )
    return [folds[number] for number in dict.fromkeys(settings.folds)]


def open_folder(session: Session, folds: Sequence[Fold]) -> None:
    """Make the folder of the run, or check that these folds may be trained into it; write who is in which."""
    with lock_folder(session.folder):
        open_run(
            session.folder,
            session.log_folder,
            session.task.name,
            session.settings,
            session.cache.identity,
            [fold.name for fold in folds],
        )
        write_splits(session, folds)


def write_splits(session: Session, folds: Sequence[Fold]) -> None:
    """Write ``splits.csv``: which part each sample has in each fold of this run, earlier ones included."""
    path = session.folder / "splits.csv"
    table = splits_table(session.samples.table, folds)
    if path.exists():
        earlier = pd.read_csv(path)
        kept = [name for name in earlier if name not in table and is_begun(session.folder, name)]
        table = table.join(earlier[kept])
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def new_model(session: Session) -> nn.Module:
    """Return the network with the initial weights of the run's seed."""
    torch.manual_seed(session.settings.seed)
    try:
        inputs = session.task.inputs(session.samples)
        model = session.task.build(session.settings, inputs).to(session.device)
    except ValueError as error:
        raise UserError(f"Such a network cannot be built: {error}") from None
    choose_layout(model, session.settings.layout)
    return model


def fold_context(session: Session, fold: Fold, folder: Path) -> FoldContext:
    """Gather what the loop needs for one fold."""
    settings = session.settings
    learned = session.task.limited(session.samples, fold, settings)
    return FoldContext(
        learner=session.task,
        samples=session.task.for_fold(session.samples, learned, settings),
        train=torch.from_numpy(learned.train),
        validation=torch.from_numpy(fold.validation),
        optimization=settings.optimization,
        seed=settings.seed,
        device=session.device,
        precision=choose_precision(settings.precision, session.device),
        processes=session.processes,
        folder=folder,
        metadata=metadata_of(session, fold),
        label=fold.name.replace("_", " "),
        compiles=settings.compile,
    )


def metadata_of(session: Session, fold: Fold) -> dict[str, Any]:
    """Return what a checkpoint remembers of where it comes from."""
    table = session.samples.table
    learned = table.iloc[np.union1d(fold.train, fold.validation)]
    content = session.cache.table("recordings")
    return {
        "task": session.task.name,
        "run": session.name,
        "fold": fold.number,
        "protocol": session.settings.protocol,
        "settings": to_plain(session.settings),
        "inputs": session.task.inputs(session.samples),
        "label_share": float(learned["label"].mean()),
        "parts": torch.from_numpy(fold.parts(len(table))),
        "trained_on": {
            "session": sorted(learned["session"].unique().tolist()),
            "recording": sorted(learned["recording"].unique().tolist()),
            "content": content[content["recording"].isin(learned["recording"])]["sha256"].tolist(),
        },
        "cache": session.cache.describe(),
        "provenance": provenance(),
        "parents": session.task.describe_parents(),
    }
