"""The study of cines generated from ECGs, as one command: prepare, train, evaluate, tabulate.

    python -m studies.ecg_to_cmr             # simulated patients; stop and start it as you like
    python -m studies.ecg_to_cmr --shuffled  # and a generator trained with other patients' cines
    python -m studies.ecg_to_cmr --list      # what it consists of, and what is done
    python -m studies.ecg_to_cmr --tables    # tables from what is done

The ECG encoder is that of studies.ecg_cmr, aligned with cines; its three parts are run first where they
are not done. Then the autoencoder of frames, and the generator, evaluated on 200 unseen patients.
Scores go to results/ecg-to-cmr/runs/<part>/; a part whose scores are there is not run again, and one that
was stopped goes on from its last finished epoch.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from common.command_line import read_settings
from common.files import replacing, write_table, write_text
from common.script import run_script
from config import EvaluationSettings
from evaluation.report import frame_to_markdown
from studies import ecg_cmr
from studies.runner import Part, choose_parts, list_parts, run_parts
from systems.ecg_cmr.generation.evaluate import GENERATED, TRUE
from systems.ecg_cmr.phenotypes.evaluate import compare_indicator

PARENTS = ("ecg-mae", "cmr-mae", "contrast")
FINE_TUNED = "aligned"
"""Arm of studies.ecg_cmr that regresses the indicators with an encoder trained for it."""
TABLES = ("indicators", "comparisons", "guidance", "spread", "images", "diversity", "memorization")
FIGURES = ("story", "bland_altman", "bland_altman_method")


@dataclass(frozen=True)
class GenerationStudySettings:
    """Settings of the study."""

    patients: int = 2000
    """Simulated patients."""
    shuffled: bool = False
    """Also train a generator with the cines of other patients: what it generates must not correlate."""
    list: bool = False
    """List the parts and whether they are done; run nothing."""
    tables: bool = False
    """Only make tables from the parts that are done."""
    only: tuple[str, ...] = ()
    """Parts to run, by name; default all."""
    preset: str = "small"
    """Preset of the networks."""
    seed: int = 0
    """Seed of folds, weights and order; other seeds go to other folders."""
    results_dir: Path = Path("results/ecg-to-cmr")
    """Folder of scores and tables."""
    parents_dir: Path = Path("results/ecg-cmr")
    """Folder of the scores of studies.ecg_cmr."""


def aligned(settings: GenerationStudySettings) -> ecg_cmr.PairsStudySettings:
    """Return the settings of the study that the ECG encoder comes from."""
    return ecg_cmr.PairsStudySettings(
        patients=settings.patients,
        preset=settings.preset,
        seed=settings.seed,
        results_dir=settings.parents_dir,
    )


def parent_waves(settings: GenerationStudySettings, cache: str) -> list[list[Part]]:
    """Return the parts of studies.ecg_cmr that the ECG encoder needs, in their order."""
    study = aligned(settings)
    names = {ecg_cmr.run_of(study, name) for name in PARENTS}
    return [[part for part in wave if part.name in names] for wave in ecg_cmr.waves(study, cache)[:2]]


def parts(settings: GenerationStudySettings, cache: str) -> list[Part]:
    """Return the parts of this study, in the order in which they need each other."""
    encoder = f"checkpoints/{ecg_cmr.run_of(aligned(settings), 'contrast')}"
    frames = f"checkpoints/{run_of(settings, 'autoencoder')}"
    parents = ("--init-ecg", encoder, "--init-cmr", encoder, "--init-autoencoder", frames)
    found = [
        part(settings, cache, "autoencoder", "cine-autoencoder"),
        part(settings, cache, "generator", "ecg-to-cmr", *parents),
    ]
    if settings.shuffled:
        found.append(part(settings, cache, "shuffled", "ecg-to-cmr", *parents, "--shuffle-pairs"))
    return found


def part(settings: GenerationStudySettings, cache: str, name: str, task: str, *options: str) -> Part:
    """Return one run."""
    cache_option = ("--cache", cache)
    shared = ("--preset", settings.preset, "--seed", str(settings.seed), "--validation-share", "0.1")
    evaluation = (*cache_option, "--guidance", "1") if name == "shuffled" else cache_option
    return Part(run_of(settings, name), (task, *cache_option, *shared, *options), (evaluation,))


def run_of(settings: GenerationStudySettings, name: str) -> str:
    """Return the name of a part's run; seeds are kept apart."""
    return f"ecg-to-cmr-{name}-seed{settings.seed}"


# Tables ---------------------------------------------------------------------------------------------


def write_tables(settings: GenerationStudySettings) -> str:
    """Write the tables of what is done, summary.md, and the figures; return the summary."""
    folder = settings.results_dir / "runs" / run_of(settings, "generator")
    tables = read_tables(folder, TABLES)
    if not tables:
        return f"Nothing to tabulate in {settings.results_dir} yet: the generator is not evaluated."
    autoencoder = settings.results_dir / "runs" / run_of(settings, "autoencoder")
    for name, table in read_tables(autoencoder, ("images", "indicators")).items():
        tables[f"autoencoder_{name}"] = table
    shuffled = read_tables(settings.results_dir / "runs" / run_of(settings, "shuffled"), ("comparisons",))
    if shuffled:
        tables["trained_on_shuffled_pairs"] = shuffled["comparisons"]
    fine_tuned = against_fine_tuned(settings, folder)
    if len(fine_tuned):
        tables["fine_tuned"] = fine_tuned
    sections = []
    for name, table in tables.items():
        write_table(settings.results_dir / f"{name}.csv", table, digits=4)
        sections.append(f"## {name.replace('_', ' ').capitalize()}\n\n{frame_to_markdown(table)}\n")
    write_text(settings.results_dir / "summary.md", "\n".join(sections))
    for name in FIGURES:
        copy_figure(folder / "figures" / f"{name}.png", settings.results_dir / f"{name}.png")
    return "\n".join(sections)


def read_tables(folder: Path, names: Sequence[str]) -> dict[str, pd.DataFrame]:
    """Return the tables of a run that are there."""
    return {name: pd.read_csv(path) for name in names if (path := folder / f"{name}.csv").exists()}


def copy_figure(source: Path, target: Path) -> None:
    """Copy a figure, if it is there."""
    if source.exists():
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)


def against_fine_tuned(settings: GenerationStudySettings, folder: Path) -> pd.DataFrame:
    """Compare what is measured in generated cines with an encoder trained to regress it, if there is one."""
    name = ecg_cmr.run_of(aligned(settings), FINE_TUNED)
    path = settings.parents_dir / "runs" / name / "predictions.csv"
    if not path.exists():
        return pd.DataFrame()
    generated = pd.read_csv(folder / "predictions.csv")
    other = pd.read_csv(path).set_index("recording")
    if not set(generated["recording"]) <= set(other.index):
        return pd.DataFrame()
    other = other.loc[generated["recording"]].reset_index()
    rows = []
    for column in (str(name) for name in generated if str(name).startswith(GENERATED)):
        indicator = column.removeprefix(GENERATED)
        if indicator in other:
            truth, found, line = generated[TRUE + indicator], generated[column], other[indicator]
            r = [float(np.corrcoef(truth, values)[0, 1]) for values in (found, line)]
            patient, draws = generated["session"].tolist(), EvaluationSettings.bootstrap_draws
            difference = compare_indicator(truth, found, line, patient, draws=draws)
            row = {"indicator": indicator, "generated": r[0], "fine_tuned": r[1], "ratio": r[0] / r[1]}
            rows.append(row | difference)
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, run what is not done yet, then make the tables."""
    settings = read_settings(GenerationStudySettings, arguments, __doc__)
    if settings.tables:
        print(write_tables(settings))
        return
    chosen = choose_parts(parts(settings, ""), settings.only)
    if settings.list:
        print(list_parts(chosen, settings.results_dir))
        return
    cache = ecg_cmr.prepare(aligned(settings))
    for wave in parent_waves(settings, cache):
        run_parts(wave, settings.parents_dir)
    names = {item.name for item in chosen}
    for item in parts(settings, cache):
        if item.name in names:
            run_parts([item], settings.results_dir, workers=1)
    print(write_tables(settings))


if __name__ == "__main__":
    run_script(main)
