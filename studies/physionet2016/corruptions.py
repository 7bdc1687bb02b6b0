"""Robustness in the honest benchmark: trained runs evaluated on the same recordings with corrupted signals.

    python -m studies.physionet2016.corruptions --runs pacfnet-session-seed0 linear-session-seed0
    python -m studies.physionet2016.corruptions --runs linear-session-seed0 --kinds white clipping
    python -m studies.physionet2016.corruptions              # table and figure from what is done

Noise at 20 to -5 dB, clipping, a shift of the ECG against the heart sound, and lower sampling rates, on
either signal or both: 82 corruptions (`systems.ecg_pcg.robustness.corruptions`). Runs are folders under
checkpoints/, as trained by studies.physionet2016; several seeds of a model are shown as their mean. Writes
stress.csv (a row a run and corruption), stress.md and stress.png to results/physionet2016. Stop it and start
it again as you like: what is in stress.csv is not repeated, unless the run was trained again. On one core
a corruption takes about 5 s for the linear model and 12 s for a small network, 7 and 16 minutes a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from common.command_line import read_settings
from common.files import write_table, write_text
from common.script import run_script
from config import EvaluationSettings
from datasets.cache import Cache, find_cache
from evaluation.figures import save_figure
from learning.checkpoint import file_digest, load_checkpoint
from learning.devices import set_threads
from learning.runs import find_checkpoints
from studies.physionet2016.tables import PART_NAME
from systems.base.evaluation_run import Checkpoint
from systems.ecg_pcg.robustness.corruptions import CLEAN, KINDS, Corruption, corruptions
from systems.ecg_pcg.robustness.evaluate import CorruptedCache, predict_recordings, robustness_row
from systems.ecg_pcg.robustness.figure import WHERE, is_certain, stress_figure

KEY = ["kind", "signal", "level"]
SCORES = ["auroc", "low", "high", "change", "change_low", "change_high"]
GROUPS = {"dB": "Noise", "of peak": "Clipping", "ms": "Shift of the ECG", "Hz": "Sampling rate"}
"""Headings of the tables, by the unit of the levels."""


@dataclass(frozen=True)
class CorruptionStudySettings:
    """Settings of the study."""

    runs: tuple[str, ...] = ()
    """Runs to evaluate, by name; none: only table and figure from what is done."""
    kinds: tuple[str, ...] = tuple(KINDS)
    """Kinds of corruption; default all."""
    checkpoint_dir: Path = Path("checkpoints")
    """Folder of the runs."""
    cache: Path | None = None
    """Cache the runs were trained from; default: found by its content."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    results_dir: Path = Path("results/physionet2016")
    """Folder of table and figure."""
    bootstrap_draws: int = EvaluationSettings.bootstrap_draws
    """Draws of the session-clustered bootstrap behind the 95 % intervals."""
    seed: int = 0
    """Seed of noise and draws."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads of torch; 0: one a core."""
    jobs: int = 1
    """Processes that corrupt and cut recordings in parallel; -1: one a core."""


@dataclass(frozen=True)
class Run:
    """A trained run, and what its rows in stress.csv are marked with: how they were made."""

    name: str
    checkpoints: list[Checkpoint]
    marks: dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate what is not done yet, then write table and figure."""
    settings = read_settings(CorruptionStudySettings, arguments, __doc__)
    chosen = corruptions(settings.kinds)
    set_threads(settings.threads)
    path = settings.results_dir / "stress.csv"
    runs = [open_run(name, settings) for name in settings.runs]
    if runs:
        identity = runs[0].checkpoints[0]["cache"]["identity"]
        evaluate_all(runs, chosen, find_cache(settings.cache, settings.cache_dir, identity), path, settings)
    table = mean_over_seeds(read_rows(path))
    if table.empty:
        print(f"Nothing is done in {settings.results_dir}: name runs with --runs.")
        return
    text = markdown(table)
    write_text(settings.results_dir / "stress.md", text)
    save_figure(stress_figure(table), settings.results_dir / "stress.png")
    print(text)


def open_run(name: str, settings: CorruptionStudySettings) -> Run:
    """Read the checkpoints of a run."""
    paths = find_checkpoints(settings.checkpoint_dir / name, settings.checkpoint_dir, "best")
    digest = hashlib.sha256("".join(file_digest(path) for path in paths).encode()).hexdigest()
    marks = {"checkpoints": digest[:12], "noise_seed": settings.seed, "draws": settings.bootstrap_draws}
    return Run(name, [load_checkpoint(path) for path in paths], marks)


def evaluate_all(
    runs: Sequence[Run],
    chosen: Sequence[Corruption],
    cache: Cache,
    path: Path,
    settings: CorruptionStudySettings,
) -> None:
    """Evaluate runs clean and under each corruption, and write each row as soon as it is there.

    A corruption is made once for all runs: that takes about as long as evaluating one.
    """
    rows = [row for row in read_rows(path).to_dict("records") if not is_stale(row, runs)]
    done = {key_of(row["run"], row) for row in rows}
    evaluation = EvaluationSettings(device=settings.device, bootstrap_draws=settings.bootstrap_draws)
    clean: dict[str, pd.DataFrame] = {}

    def evaluate(run: Run, corruption: Corruption | None, cache: Cache) -> None:
        worse = predict_recordings(run.checkpoints, cache, evaluation)
        before = clean.setdefault(run.name, worse)
        row = robustness_row(corruption, worse, before, settings.bootstrap_draws, settings.seed)
        rows.append({"run": run.name} | row | run.marks)
        write_table(path, pd.DataFrame(rows))

    for run in runs:
        planned = {key_of(run.name, vars(corruption)) for corruption in chosen}
        if planned - done or (run.name, CLEAN) not in done:
            rows = [row for row in rows if key_of(row["run"], row) != (run.name, CLEAN)]
            evaluate(run, None, cache)
    for corruption in tqdm(chosen, desc="Stress", unit="corruption"):
        still_open = [run for run in runs if key_of(run.name, vars(corruption)) not in done]
        if still_open:
            with CorruptedCache(cache, corruption, seed=settings.seed, jobs=settings.jobs) as stressed:
                for run in still_open:
                    evaluate(run, corruption, stressed)


def is_stale(row: Mapping[str, Any], runs: Sequence[Run]) -> bool:
    """Whether a row of a run to be evaluated was made from other checkpoints, seed or draws."""
    marks = [run.marks for run in runs if run.name == row["run"]]
    return any(row[name] != value for found in marks for name, value in found.items())


def key_of(run: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells a row of stress.csv from others."""
    return (run, row["kind"]) if row["kind"] == CLEAN else (run, *(f"{row[name]}" for name in KEY))


def read_rows(path: Path) -> pd.DataFrame:
    """Return stress.csv; empty if there is none yet."""
    if not path.is_file():
        return pd.DataFrame(columns=["run", *KEY, "unit", *SCORES])
    text = dict.fromkeys(("run", "kind", "signal", "unit", "checkpoints"), str)
    table = pd.read_csv(path, dtype=text | {"level": float})
    return table.fillna({"signal": "", "unit": ""})


def mean_over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one row a model and corruption, by kind: means over the seeds, interval bounds too."""
    order = {name: position for position, name in enumerate([CLEAN, *KINDS, "", *WHERE])}
    ordered = rows.sort_values(["kind", "signal"], key=lambda names: names.map(order), kind="stable")
    grouped = ordered.assign(model=ordered["run"].map(model_of)).groupby(
        ["model", *KEY, "unit"], sort=False, dropna=False
    )
    return grouped[SCORES].mean().assign(seeds=grouped.size()).reset_index()


def model_of(run: str) -> str:
    """Return the model that a run is of, and its protocol if that is not ``session``."""
    part = PART_NAME.fullmatch(run)
    if part is None:
        return run
    return part["model"] + (f", {part['protocol']}" if part["protocol"] != "session" else "")


def markdown(table: pd.DataFrame) -> str:
    """Return the tables of stress.md: AUROC per recording and its change from clean, a table a unit."""
    parts = [
        "AUROC per recording, and its change from the clean signals; bold where the 95 % interval of the "
        "change (whole sessions drawn, paired) leaves out 0. Onsets are those of the clean recordings.\n"
    ]
    for unit, heading in GROUPS.items():
        group = table[table["unit"] == unit]
        if len(group):
            parts += [f"## {heading}\n", *group_lines(group, table[table["kind"] == CLEAN]), ""]
    return "\n".join(parts)


def group_lines(group: pd.DataFrame, clean: pd.DataFrame) -> list[str]:
    """Return the lines of one table."""
    levels = list(dict.fromkeys(level for name in group["kind"] for level in KINDS[name].levels))
    unit = group["unit"].iloc[0]
    heads = ["kind", "on", "model", "clean", *(f"{level:g} {unit}" for level in levels)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (kind, signal, model), rows in group.groupby(["kind", "signal", "model"], sort=False):
        before = clean.loc[clean["model"] == model, "auroc"]
        by_level = {row["level"]: cell(row) for row in rows.to_dict("records")}
        cells = [by_level.get(level, "-") for level in levels]
        start = f"{before.iloc[0]:.3f}" if len(before) else "-"
        lines.append(f"| {' | '.join([kind, WHERE[signal], model, start, *cells])} |")
    return lines


def cell(row: Mapping[str, Any]) -> str:
    """Return one cell: the AUROC and its change, bold where the change is beyond chance."""
    text = f"{row['auroc']:.3f} ({row['change']:+.3f})"
    return f"**{text}**" if is_certain(row) else text


if __name__ == "__main__":
    run_script(main)
