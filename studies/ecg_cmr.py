"""The study of an ECG that learned from cardiac MRI, as one command: prepare, train, judge, tabulate.

    python -m studies.ecg_cmr                # all stages on simulated patients; stop and start as you like
    python -m studies.ecg_cmr --fractions    # and how few labels do: 0.1, 0.25, 0.5 and 1
    python -m studies.ecg_cmr --ptbxl PATH   # and pre-training on real ECGs
    python -m studies.ecg_cmr --list         # what it consists of, and what is done
    python -m studies.ecg_cmr --tables       # tables from what is done

The arms, all judged on the same patients, whom no stage has seen: an ECG network from scratch, one that was
pre-trained (masked autoencoder), one that was then aligned with the cines of the training patients, one
aligned with the cines of other patients than its own (what is gained must be gone), and the cine itself as
the bound. Scores go to results/ecg-cmr/runs/<part>/; a part whose scores are there is not run again, and one
that was stopped goes on from its last finished epoch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import tyro

import load_data
from common.errors import UserError
from common.files import replacing, write_table, write_text
from common.script import run_script
from evaluation.statistics import holm
from evaluation.tables import frame_to_markdown
from studies.runner import Part, choose_parts, list_parts, run_parts
from systems.ecg_cmr.phenotypes.scores import compare_indicator
from systems.ecg_cmr.phenotypes.task import TRUE

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
ARMS = ("scratch", "pretrained", "aligned", "shuffled")
PARENT = {"pretrained": "ecg-mae", "aligned": "contrast", "shuffled": "contrast-shuffled"}
"""Run that the encoder of each arm starts from."""
FEW_EPOCHS, MANY_EPOCHS = 16, 24
"""Of the last stage with all labels and with few: a tenth of the patients makes a tenth of the steps."""
FIGURES = {"contrast": "retrieval", "aligned": "indicators"}
"""Runs that are drawn, and the figure that is kept beside the tables."""
PRIMARY = ("ejection_fraction", 0.1, "aligned", "scratch")
"""Indicator, label fraction and arms of the one comparison that was declared before it was run."""


@dataclass(frozen=True)
class PairsStudySettings:
    """Settings of the study."""

    patients: int = 2000
    """Simulated patients."""
    ptbxl: Path | None = None
    """Folder of PTB-XL, or of a part of it: also trains the ECG's masked autoencoder on it."""
    fractions: bool = False
    """Also train the arms with 0.25 and 0.5 of the labels (0.1 and 1 always are)."""
    list: bool = False
    """List the parts and whether they are done; run nothing."""
    tables: bool = False
    """Only make tables from the parts that are done."""
    only: tuple[str, ...] = ()
    """Parts to run, by name; default all."""
    workers: int = 0
    """Parts side by side; 0: one a CUDA device, or one a CPU core."""
    preset: str = "small"
    """Preset of the networks."""
    seed: int = 0
    """Seed of folds, weights and order; other seeds go to folders of their own."""
    results_dir: Path = Path("results/ecg-cmr")
    """Folder of scores and tables."""


def waves(settings: PairsStudySettings, cache: str, ptbxl: str = "") -> list[list[Part]]:
    """Return the parts in the order in which they need each other: those of one wave may run side by side.

    Parameters
    ----------
    settings : PairsStudySettings
    cache : str
        Folder of the prepared pairs.
    ptbxl : str
        Folder of the prepared PTB-XL, where it is part of the study.
    """
    fractions = FRACTIONS if settings.fractions else (FRACTIONS[0], FRACTIONS[-1])

    def arms(*names: str) -> list[Part]:
        return [arm_part(settings, cache, name, part) for part in reversed(fractions) for name in names]

    contrast = (
        *("ecg-cmr-contrast", "--epochs", "20", "--early-stop", "20"),
        *child("ecg", settings, "ecg-mae"),
        *child("cmr", settings, "cmr-mae"),
    )
    real = ("ecg-mae", "--epochs", "60", "--batch-size", "16")  # hundreds of records: as many steps
    cine = ("ecg-phenotypes", "--reads", "cmr", "--epochs", str(FEW_EPOCHS))
    return [
        [
            part(settings, cache, "ecg-mae", "ecg-mae", "--epochs", "30"),
            part(settings, cache, "cmr-mae", "cmr-mae", "--epochs", "30"),
            *([part(settings, ptbxl, "ecg-mae-ptbxl", *real)] if settings.ptbxl else []),
            *arms("scratch"),
        ],
        [
            part(settings, cache, "contrast", *contrast),
            part(settings, cache, "contrast-shuffled", *contrast, "--shuffle-pairs"),
            part(settings, cache, "cmr", *cine, *child("cmr", settings, "cmr-mae")),
            *arms("pretrained"),
        ],
        [*arms("aligned"), arm_part(settings, cache, "shuffled", PRIMARY[1])],
    ]


def part(settings: PairsStudySettings, cache: str, name: str, task: str, *options: str) -> Part:
    """Return one run of one stage."""
    place = ("--cache", cache)
    shared = ("--preset", settings.preset, "--seed", str(settings.seed), "--validation-share", "0.1")
    judged = place if name in FIGURES else ("--compact", *place)
    return Part(run_of(settings, name), (task, *place, *shared, *options), (judged,))


def arm_part(settings: PairsStudySettings, cache: str, arm: str, fraction: float) -> Part:
    """Return the last stage of an arm, trained with a share of the labels."""
    parent = child("ecg", settings, PARENT[arm]) if arm in PARENT else ()
    epochs = FEW_EPOCHS if fraction == 1 else MANY_EPOCHS
    size = () if fraction == 1 else ("--batch-size", "32")
    options = ("--label-fraction", str(fraction), "--epochs", str(epochs), "--token-dropout", "0.5", *size)
    return part(settings, cache, arm_name(arm, fraction), "ecg-phenotypes", *options, *parent)


def arm_name(arm: str, fraction: float) -> str:
    """Return the name of an arm's part."""
    return arm if fraction == 1 else f"{arm}-{round(100 * fraction)}"


def run_of(settings: PairsStudySettings, name: str) -> str:
    """Return the name of a part's run; seeds are kept apart."""
    return f"ecg-cmr-{name}-seed{settings.seed}"


def child(kind: str, settings: PairsStudySettings, parent: str) -> tuple[str, str]:
    """Return the option that starts an encoder from an earlier part."""
    return (f"--init-{kind}", f"checkpoints/{run_of(settings, parent)}")


def prepare(settings: PairsStudySettings) -> str:
    """Prepare the simulated patients, where that is not done yet; return the folder of the cache."""
    return str(load_data.main(["ecg-cmr-contrast", "--simulate", "--patients", str(settings.patients)]))


def prepare_ptbxl(settings: PairsStudySettings) -> str:
    """Prepare PTB-XL, if it is part of the study; return the folder of the cache."""
    if settings.ptbxl is None:
        return ""
    return str(load_data.main(["ecg-mae", "--raw-dir", str(settings.ptbxl), "--source", "ptbxl"]))


def write_tables(settings: PairsStudySettings) -> str:
    """Write the tables of what is done, and summary.md; return the summary."""
    runs = {
        path.parent.name.removeprefix("ecg-cmr-").removesuffix(f"-seed{settings.seed}"): path.parent
        for path in sorted(settings.results_dir.glob(f"runs/*-seed{settings.seed}/metrics.json"))
    }
    tables = {
        "reconstruction": stacked(runs, "reconstruction"),
        "retrieval": retrieval(runs),
        "indicators": stacked(runs, "indicators"),
        "diseases": stacked(runs, "diseases"),
        "comparisons": comparisons(runs),
    }
    sections = []
    for name, table in tables.items():
        if len(table):
            write_table(settings.results_dir / f"{name}.csv", table, digits=4)
            sections.append(f"## {name.capitalize()}\n\n{frame_to_markdown(table)}\n")
    for run, figure in FIGURES.items():
        drawn = settings.results_dir / "runs" / run_of(settings, run) / "figures" / f"{figure}.png"
        if drawn.exists():
            with replacing(settings.results_dir / f"{figure}.png") as temporary:
                shutil.copyfile(drawn, temporary)
    if not sections:
        return f"Nothing to tabulate in {settings.results_dir} yet."
    write_text(settings.results_dir / "summary.md", "\n".join(sections))
    return "\n".join(sections)


def stacked(runs: dict[str, Path], name: str) -> pd.DataFrame:
    """Return a table of every run that has it, one below the other."""
    found = [
        pd.read_csv(folder / f"{name}.csv").assign(run=run)
        for run, folder in runs.items()
        if (folder / f"{name}.csv").exists()
    ]
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame({"run": []})
    return table[["run", *(column for column in table if column != "run")]]


def retrieval(runs: dict[str, Path]) -> pd.DataFrame:
    """Return the retrieval of both contrastive runs, with the multiple of chance."""
    table = stacked(runs, "retrieval")
    return table.assign(times_chance=table["recall"] / table["chance"]) if len(table) else table


def comparisons(runs: dict[str, Path]) -> pd.DataFrame:
    """Return the differences of r between arms, paired by patient: the declared one, and others (Holm)."""
    pairs = [
        ("aligned", "scratch"),
        ("aligned", "pretrained"),
        ("pretrained", "scratch"),
        ("aligned", "shuffled"),
    ]
    rows = []
    for fraction in FRACTIONS:
        for first, second in pairs:
            names = [arm_name(arm, fraction) for arm in (first, second)]
            if all(name in runs for name in names):
                tables = [pd.read_csv(runs[name] / "predictions.csv") for name in names]
                rows += compared(
                    tables[0], tables[1], fraction, (first, second), indicators_of(runs[names[0]])
                )
    table = pd.DataFrame(rows)
    if len(table):
        table["declared"] = [tuple(row) == PRIMARY for row in table[list(KEYS)].itertuples(index=False)]
        others = ~table["declared"]
        table.loc[others, "p_holm"] = holm(table.loc[others, "p"])
        table = table.sort_values("declared", ascending=False, kind="stable")
    return table


KEYS = ("indicator", "fraction", "first", "second")


def compared(
    first: pd.DataFrame, second: pd.DataFrame, fraction: float, arms: tuple[str, str], names: Iterable[str]
) -> list[dict[str, object]]:
    """Return a row an indicator: the difference of r between two arms.

    Raises
    ------
    UserError
        If both were not judged on the same patients.
    """
    if not first["recording"].equals(second["recording"]):
        raise UserError(f"{arms[0]} and {arms[1]} were judged on other patients: train both from one cache.")
    rows: list[dict[str, object]] = []
    for name in names:
        about = (first[TRUE + name], first[name], second[name], first["session"].tolist())
        rows.append({**dict(zip(KEYS, (name, fraction, *arms), strict=True)), **compare_indicator(*about)})
    return rows


def indicators_of(folder: Path) -> list[str]:
    """Return the indicators that a run was scored on."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return [row["indicator"] for row in content["indicators"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, run what is not done yet, then make the tables."""
    settings = tyro.cli(PairsStudySettings, args=arguments, description=__doc__)
    if settings.tables:
        print(write_tables(settings))
        return
    known = [item for wave in waves(settings, "") for item in wave]
    chosen = {item.name for item in choose_parts(known, settings.only)}
    if settings.list:
        print(list_parts([item for item in known if item.name in chosen], settings.results_dir))
        return
    ptbxl = prepare_ptbxl(settings)
    for wave in waves(settings, prepare(settings), ptbxl):
        run_parts([item for item in wave if item.name in chosen], settings.results_dir, settings.workers)
    print(write_tables(settings))


if __name__ == "__main__":
    run_script(main)
