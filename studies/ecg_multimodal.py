"""The study of three modalities (ECG image, ECG signal, clinical table): train, evaluate, tabulate.

    python -m studies.ecg_multimodal --ptbxl PATH/ptb-xl      # everything; stop and start it as you like
    python -m studies.ecg_multimodal --list                   # what it consists of, and what is done
    python -m studies.ecg_multimodal --tables                 # tables from what is done

On PTB-XL, with a patient-level split: each modality alone, all three under each fusion, what keeps one from
dominating, and branches that are trained alone first. On simulated patients, where the cause is known:
cohorts whose disease shows in one modality only, and the part of the AUROC due to each modality. Scores go to
results/ecg-multimodal/runs/<part>/; a part whose scores are there is not run again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import load_data
from common.command_line import read_settings
from common.files import write_table, write_text
from common.script import run_script
from config import EvaluationSettings
from evaluation.comparison import compare
from evaluation.report import frame_to_markdown
from studies.runner import ROOT, Part, choose_parts, is_done, list_parts, run_part, run_parts

MODALITIES = ("image", "signal", "clinical")
TASK = "ecg-multimodal"


@dataclass(frozen=True)
class MultimodalStudySettings:
    """Settings of the study."""

    ptbxl: Path | None = None
    """Folder of PTB-XL, or of a part of it; default: $PTBXL_DIR."""
    patients: int = 400
    """Simulated patients of each cohort."""
    list: bool = False
    """List the parts and whether they are done; run nothing."""
    tables: bool = False
    """Only make tables from the parts that are done."""
    only: tuple[str, ...] = ()
    """Parts to run, by name; default all."""
    workers: int = 0
    """Parts in parallel; 0: one a CUDA device, or one a CPU core."""
    preset: str = "small"
    """Preset of the networks."""
    results_dir: Path = Path("results/ecg-multimodal")
    """Folder of scores and tables."""


def parts(settings: MultimodalStudySettings, caches: dict[str, str]) -> list[Part]:
    """Return all parts: on PTB-XL, then on the simulated cohorts.

    Parameters
    ----------
    settings : MultimodalStudySettings
    caches : dict of str to str
        Prepared caches by name: ``ptbxl``, ``ptbxl-mixed`` (records of NORM and another superclass too), and
        ``only-<modality>`` of the simulated cohorts.
    """

    def part(name: str, cache: str, *options: str) -> Part:
        cache_option = ("--cache", caches.get(cache, cache))
        train = (
            TASK,
            *cache_option,
            "--preset",
            settings.preset,
            "--validation-share",
            "0",
            "--seed",
            "0",
            *options,
        )
        return Part(name, train, (("--compact", *cache_option),))

    return [
        part("all", "ptbxl"),
        *(part(modality, "ptbxl", "--views", modality, "--modality-dropout", "0") for modality in MODALITIES),
        part("all-concatenation", "ptbxl", "--fusion", "concatenation"),
        part("all-late", "ptbxl", "--fusion", "late"),
        part("all-no-balance", "ptbxl", "--branch-loss", "0", "--modality-dropout", "0"),
        part("all-modulation", "ptbxl", "--modulation", "0.3"),
        part("all-branches-first", "ptbxl", *(word for name in MODALITIES for word in _start(name))),
        part("superclasses", "ptbxl-mixed", "--target", "superclasses"),
        *(part(f"simulated-{modality}", f"only-{modality}") for modality in MODALITIES),
    ]


def _start(modality: str) -> tuple[str, str]:
    """Return the option that starts a branch from the part that trains it alone."""
    return f"--init-{modality}", f"checkpoints/{modality}"


def branches_to_train(chosen: Sequence[Part], everything: Sequence[Part], results_dir: Path) -> list[Part]:
    """Return the parts of single branches that an open chosen part starts from and that are not there."""
    words = {word for part in chosen if not is_done(part, results_dir) for word in part.train}
    return [
        part
        for part in everything
        if f"checkpoints/{part.name}" in words and not (ROOT / "checkpoints" / part.name).exists()
    ]


def prepare_caches(settings: MultimodalStudySettings) -> dict[str, str]:
    """Prepare PTB-XL and the simulated cohorts, where that is not done yet; return their folders by name."""
    given = ["--raw-dir", str(settings.ptbxl)] if settings.ptbxl else []
    ptbxl = [TASK, "--source", "ptbxl", *given]
    caches = {"ptbxl-mixed": str(load_data.main([*ptbxl, "--mixed", "abnormal"]))}
    caches["ptbxl"] = str(load_data.main(ptbxl))
    for modality in MODALITIES:
        folder = f"data/raw/simulated-{modality}-{settings.patients}"
        made = ["--simulation.causes", modality, "--simulation.patients", str(settings.patients)]
        options = [TASK, "--simulate", "--raw-dir", folder, *made, "--source", "patients"]
        caches[f"only-{modality}"] = str(load_data.main(options))
    return caches


def write_tables(results_dir: Path) -> str:
    """Write table.csv, comparisons.csv, credits.csv and summary.md; return the summary."""
    runs = {path.parent.name: path.parent for path in sorted(results_dir.glob("runs/*/metrics.json"))}
    if "all" not in runs:
        return f"Nothing to tabulate in {results_dir} yet: the part all is not done."
    tables = {
        "table": scores_table(runs),
        "comparisons": comparisons_table(runs),
        "credits": shapley_table(runs),
    }
    sections = []
    for name, table in tables.items():
        write_table(results_dir / f"{name}.csv", table, digits=4)
        sections.append(f"## {name.capitalize()}\n\n{frame_to_markdown(table)}\n")
    write_text(results_dir / "summary.md", "\n".join(sections))
    return "\n".join(sections)


def scores_table(runs: dict[str, Path]) -> pd.DataFrame:
    """Return AUROC per recording of every run and of the shortcuts, with patient-clustered intervals."""
    rows = []
    for name, folder in runs.items():
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        if metrics.get("recordings"):
            pooled = metrics["recordings"]["at_half"]
            found = pooled["intervals"]["auroc"]
            rows.append(
                (name, metrics["counts"]["recordings"], found["estimate"], found["low"], found["high"])
            )
        else:
            found = metrics["macro"]["intervals"]["auroc"]
            count = metrics["counts"]["samples"]
            rows.append((f"{name} (macro)", count, found["estimate"], found["low"], found["high"]))
    shortcuts = pd.read_csv(runs["all"] / "shortcuts.csv")[["shortcut", "value", "low", "high"]]
    rows += [
        (f"shortcut: {name}", rows[0][1], *values) for name, *values in shortcuts.itertuples(index=False)
    ]
    return pd.DataFrame(rows, columns=["run", "recordings", "auroc", "low", "high"])


def comparisons_table(runs: dict[str, Path]) -> pd.DataFrame:
    """Return the difference between all three modalities and every other run on PTB-XL, paired by patient."""
    tables = {name: recordings(folder) for name, folder in runs.items() if not name.startswith("simulated")}
    rows = []
    for name, table in tables.items():
        if name != "all" and table is not None and tables["all"] is not None:
            found = compare(tables["all"], table, draws=EvaluationSettings.bootstrap_draws).iloc[0]
            rows.append(
                (name, *(found[key] for key in ("first", "second", "difference", "low", "high", "p")))
            )
    return pd.DataFrame(rows, columns=["all against", "all", "other", "difference", "low", "high", "p"])


def recordings(folder: Path) -> pd.DataFrame | None:
    """Return the recordings of a run with two classes, else None."""
    path = folder / "recordings.csv"
    return (
        pd.read_csv(path, dtype={"recording": str, "session": str, "person": str}) if path.exists() else None
    )


def shapley_table(runs: dict[str, Path]) -> pd.DataFrame:
    """Return the part of the AUROC due to each modality (Shapley value), a row a run and modality."""
    found = []
    for name, folder in runs.items():
        if (folder / "credits.csv").exists():
            found.append(pd.read_csv(folder / "credits.csv").assign(run=name))
    table = pd.concat(found, ignore_index=True)
    return table[["run", "view", "value", "low", "high"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, run what is not done yet, then make the tables."""
    settings = read_settings(MultimodalStudySettings, arguments, __doc__)
    if settings.list or settings.tables:
        chosen = choose_parts(parts(settings, {}), settings.only)
        print(
            list_parts(chosen, settings.results_dir) if settings.list else write_tables(settings.results_dir)
        )
        return
    everything = parts(settings, prepare_caches(settings))
    chosen = choose_parts(everything, settings.only)
    branches = branches_to_train(chosen, everything, settings.results_dir)
    for part in branches:
        print(run_part(part, settings.results_dir, "auto"), flush=True)
    run_parts(chosen, settings.results_dir, settings.workers)
    print(write_tables(settings.results_dir))


if __name__ == "__main__":
    run_script(main)
