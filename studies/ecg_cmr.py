"""The study of an ECG that learned from cardiac MRI, as one command: prepare, train, evaluate, tabulate.

    python -m studies.ecg_cmr                # all stages on simulated patients; stop and start as you like
    python -m studies.ecg_cmr --fractions    # and how few labels do: 0.1, 0.25, 0.5 and 1
    python -m studies.ecg_cmr --ptbxl PATH   # and pre-training on real ECGs
    python -m studies.ecg_cmr --long-axis    # and alignment with short and long axis against short axis alone
    python -m studies.ecg_cmr --list         # what it consists of, and what is done
    python -m studies.ecg_cmr --tables       # tables from what is done

All variants are evaluated on the same patients, on whom no stage was trained: an ECG network from scratch,
one that was pre-trained (masked autoencoder), one that was then aligned with the cines of the training
patients, one aligned with shuffled cines (its gain must disappear), and the cine itself as the bound. Scores
go to results/ecg-cmr/runs/<part>/; a part whose scores are there is not run again, and one that was stopped
goes on from its last finished epoch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import load_data
from common.command_line import read_settings
from common.errors import UserError
from common.files import replacing, write_table, write_text
from common.script import run_script
from config import EvaluationSettings
from evaluation.report import frame_to_markdown
from evaluation.statistics import Array, holm, paired_cluster_bootstrap
from studies.runner import Part, choose_parts, list_parts, run_parts
from systems.ecg_cmr.contrast.evaluate import RANKS, images_of, mean_found
from systems.ecg_cmr.contrast.task import true_ranks
from systems.ecg_cmr.phenotypes.evaluate import compare_indicator
from systems.ecg_cmr.phenotypes.task import TRUE

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
PARENT = {
    "pretrained": "ecg-mae",
    "aligned": "contrast",
    "shuffled": "contrast-shuffled",
    "aligned-axes": "contrast-axes",
}
"""Run that the encoder of each variant starts from."""
FEW_EPOCHS, MANY_EPOCHS = 16, 24
"""Of the last stage with all labels and with few: a tenth of the patients makes a tenth of the steps."""
FIGURES = {"contrast": "retrieval", "aligned": "indicators"}
"""Runs with figures, and the figure that is kept beside the tables."""
PRIMARY = ("ejection_fraction", 0.1, "aligned", "scratch")
"""Indicator, label fraction and variants of the one comparison that was declared before it was run."""


@dataclass(frozen=True)
class PairsStudySettings:
    """Settings of the study."""

    patients: int = 2000
    """Simulated patients."""
    ptbxl: Path | None = None
    """Folder of PTB-XL, or of a part of it: also trains the ECG's masked autoencoder on it."""
    long_axis: bool = False
    """Prepare the long axis too, and align an ECG network with both axes."""
    fractions: bool = False
    """Also train the variants with 0.25 and 0.5 of the labels (0.1 and 1 always are)."""
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
    seed: int = 0
    """Seed of folds, weights and order; other seeds go to other folders."""
    results_dir: Path = Path("results/ecg-cmr")
    """Folder of scores and tables."""


def waves(settings: PairsStudySettings, cache: str, ptbxl: str = "") -> list[list[Part]]:
    """Return the parts in the order in which they need each other: those of one wave may run in parallel.

    Parameters
    ----------
    settings : PairsStudySettings
    cache : str
        Folder of the prepared pairs.
    ptbxl : str
        Folder of the prepared PTB-XL, where it is part of the study.
    """
    fractions = FRACTIONS if settings.fractions else (FRACTIONS[0], FRACTIONS[-1])

    def variants(*names: str) -> list[Part]:
        return [variant_part(settings, cache, name, part) for part in reversed(fractions) for name in names]

    def long_axis(name: str, *options: str) -> list[Part]:
        return [part(settings, cache, name, *options)] if settings.long_axis else []

    contrast = (
        *("ecg-cmr-contrast", "--epochs", "20", "--early-stop", "20"),
        *child("ecg", settings, "ecg-mae"),
        *child("cmr", settings, "cmr-mae"),
    )
    real = ("ecg-mae", "--epochs", "60", "--batch-size", "16")  # hundreds of records: as many steps
    axes = (*contrast, "--axis", "both", *child("long-axis", settings, "cmr-mae-long"))
    cine = ("ecg-phenotypes", "--reads", "cmr", "--epochs", str(FEW_EPOCHS))
    return [
        [
            part(settings, cache, "ecg-mae", "ecg-mae", "--epochs", "30"),
            part(settings, cache, "cmr-mae", "cmr-mae", "--epochs", "30"),
            *long_axis("cmr-mae-long", "cmr-mae", "--epochs", "30", "--axis", "long"),
            *([part(settings, ptbxl, "ecg-mae-ptbxl", *real)] if settings.ptbxl else []),
            *variants("scratch"),
        ],
        [
            part(settings, cache, "contrast", *contrast),
            part(settings, cache, "contrast-shuffled", *contrast, "--shuffle-pairs"),
            *long_axis("contrast-axes", *axes),
            part(settings, cache, "cmr", *cine, *child("cmr", settings, "cmr-mae")),
            *variants("pretrained"),
        ],
        [
            *variants("aligned", *(["aligned-axes"] if settings.long_axis else [])),
            variant_part(settings, cache, "shuffled", PRIMARY[1]),
        ],
    ]


def part(settings: PairsStudySettings, cache: str, name: str, task: str, *options: str) -> Part:
    """Return one run of one stage."""
    cache_option = ("--cache", cache)
    shared = ("--preset", settings.preset, "--seed", str(settings.seed), "--validation-share", "0.1")
    evaluation = cache_option if name in FIGURES else ("--compact", *cache_option)
    return Part(run_of(settings, name), (task, *cache_option, *shared, *options), (evaluation,))


def variant_part(settings: PairsStudySettings, cache: str, variant: str, fraction: float) -> Part:
    """Return the last stage of a variant, trained with a share of the labels."""
    parent = child("ecg", settings, PARENT[variant]) if variant in PARENT else ()
    epochs = FEW_EPOCHS if fraction == 1 else MANY_EPOCHS
    size = () if fraction == 1 else ("--batch-size", "32")
    options = ("--label-fraction", str(fraction), "--epochs", str(epochs), "--token-dropout", "0.5", *size)
    return part(settings, cache, variant_name(variant, fraction), "ecg-phenotypes", *options, *parent)


def variant_name(variant: str, fraction: float) -> str:
    """Return the name of a variant's part."""
    return variant if fraction == 1 else f"{variant}-{round(100 * fraction)}"


def run_of(settings: PairsStudySettings, name: str) -> str:
    """Return the name of a part's run; seeds are kept apart."""
    return f"ecg-cmr-{name}-seed{settings.seed}"


def child(encoder: str, settings: PairsStudySettings, parent: str) -> tuple[str, str]:
    """Return the option that starts an encoder from an earlier part."""
    return (f"--init-{encoder}", f"checkpoints/{run_of(settings, parent)}")


def prepare(settings: PairsStudySettings) -> str:
    """Prepare the simulated patients, where that is not done yet; return the folder of the cache."""
    words = ["ecg-cmr-contrast", "--simulate", "--simulation.patients", str(settings.patients)]
    return str(load_data.main([*words, *(["--long-axis"] if settings.long_axis else [])]))


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
        "axes": axes_comparison(runs),
    }
    sections = []
    for name, table in tables.items():
        if len(table):
            write_table(settings.results_dir / f"{name}.csv", table, digits=4)
            sections.append(f"## {name.capitalize()}\n\n{frame_to_markdown(table)}\n")
    for run, figure in FIGURES.items():
        plotted = settings.results_dir / "runs" / run_of(settings, run) / "figures" / f"{figure}.png"
        if plotted.exists():
            with replacing(settings.results_dir / f"{figure}.png") as temporary:
                shutil.copyfile(plotted, temporary)
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
    """Return differences of r between variants, paired by patient: the declared one, others (Holm)."""
    pairs = [
        ("aligned", "scratch"),
        ("aligned", "pretrained"),
        ("pretrained", "scratch"),
        ("aligned", "shuffled"),
        ("aligned-axes", "aligned"),
    ]
    rows = []
    for fraction in FRACTIONS:
        for first, second in pairs:
            names = [variant_name(variant, fraction) for variant in (first, second)]
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


def axes_comparison(runs: dict[str, Path]) -> pd.DataFrame:
    """Return how much more often the cine is found by its ECG after alignment with both axes, by patient.

    Of that run the similarities to both axes (averaged), to the short axis and to the long axis are compared
    with those of the run that was aligned with the short axis alone.
    """
    if not {"contrast", "contrast-axes"} <= set(runs):
        return pd.DataFrame()
    short, both = (pd.read_csv(runs[name] / "predictions.csv") for name in ("contrast", "contrast-axes"))
    if not short["recording"].equals(both["recording"]):
        raise UserError(
            "contrast and contrast-axes were evaluated on different patients: train both from one cache."
        )
    before = ranks_of(short, images_of(short, "short")["CMR"])
    rows: list[dict[str, object]] = []
    for name, image in images_of(both, "both").items():
        after = ranks_of(both, image)
        for rank in RANKS:
            one, two = (
                units.assign(found=(units["rank"] <= rank).astype(float)) for units in (after, before)
            )
            found = paired_cluster_bootstrap(
                one, two, mean_found, "patient", draws=EvaluationSettings.bootstrap_draws
            )
            recalls = {"recall": one["found"].mean(), "recall_short_axis_alone": two["found"].mean()}
            difference = dict(zip(("difference", "low", "high", "reason"), found.cells, strict=True))
            rows.append({"found_by": name, "rank": rank, **recalls, **difference})
    return pd.DataFrame(rows)


def ranks_of(predictions: pd.DataFrame, image: Array) -> pd.DataFrame:
    """Return the rank of each patient's image among all, ordered by likeness to the ECG."""
    patient = predictions["session"].to_numpy()
    ranks = true_ranks(predictions.filter(regex="^ecg_").to_numpy(), image, patient)
    return pd.DataFrame({"sample": range(len(ranks)), "patient": patient, "rank": ranks})


KEYS = ("indicator", "fraction", "first", "second")


def compared(
    first: pd.DataFrame,
    second: pd.DataFrame,
    fraction: float,
    variants: tuple[str, str],
    names: Iterable[str],
) -> list[dict[str, object]]:
    """Return a row an indicator: the difference of r between two variants.

    Raises
    ------
    UserError
        If they were not evaluated on the same patients.
    """
    if not first["recording"].equals(second["recording"]):
        raise UserError(
            f"{variants[0]} and {variants[1]} were evaluated on different patients: "
            "train both from one cache."
        )
    rows: list[dict[str, object]] = []
    for name in names:
        about = (first[TRUE + name], first[name], second[name], first["session"].tolist())
        difference = compare_indicator(*about, draws=EvaluationSettings.bootstrap_draws)
        rows.append({**dict(zip(KEYS, (name, fraction, *variants), strict=True)), **difference})
    return rows


def indicators_of(folder: Path) -> list[str]:
    """Return the indicators that a run was scored on."""
    content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return [row["indicator"] for row in content["indicators"]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare, run what is not done yet, then make the tables."""
    settings = read_settings(PairsStudySettings, arguments, __doc__)
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
