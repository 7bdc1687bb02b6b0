"""The honest benchmark on training-a, as one command: train, evaluate, tabulate.

    python -m studies.physionet2016             # everything; stop it and start it again as you like
    python -m studies.physionet2016 --list      # what it consists of, and what is done
    python -m studies.physionet2016 --tables    # tables and figure from what is done

A part is one model under one protocol and seed. Parts run in parallel, one a CUDA device, or one a CPU
core. Scores go to results/physionet2016/runs/<part>/; a part whose scores are there is not run again.
Needs a cache of training-a: python load_data.py --raw-dir PATH/challenge-2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.command_line import read_settings
from models import FITTED_MODELS, MODELS, NETWORKS, takes
from studies.physionet2016.tables import write_tables
from studies.runner import Part, choose_parts, list_parts, run_parts

NOTHING = ("nothing",)
EACH = ("nothing", "ecg", "pcg")
RECORDING_MODELS = ("pacfnet", "ecg-network", "cross-attention")
DROPOUT = ("--modality-dropout", "0.5")


@dataclass(frozen=True)
class StudySettings:
    """Settings of the study."""

    list: bool = False
    """List the parts and whether they are done; run nothing."""
    tables: bool = False
    """Only make tables and figure from the parts that are done."""
    only: tuple[str, ...] = ()
    """Parts to run, by name; default all."""
    workers: int = 0
    """Parts in parallel; 0: one a CUDA device, or one a CPU core."""
    preset: str = "small"
    """Preset of the networks."""
    cache: Path | None = None
    """Cache of training-a; default: the one prepared last."""
    results_dir: Path = Path("results/physionet2016")
    """Folder of scores, tables and figure."""


def hidden_of(model: str) -> Sequence[str]:
    """Return what is hidden from a model in turn: nothing, and each signal where it takes both."""
    return EACH if len(takes(model).modalities) > 1 else NOTHING


def parts(settings: StudySettings | None = None) -> list[Part]:
    """Return all parts, the most telling first."""
    chosen = settings or StudySettings()

    def part(
        model: str,
        protocol: str,
        seed: int = 0,
        *options: str,
        suffix: str = "",
        hidden: Sequence[str] = NOTHING,
    ) -> Part:
        cache = ("--cache", str(chosen.cache)) if chosen.cache else ()
        train = (
            *("--model", model, "--protocol", protocol, "--folds", "all" if protocol == "session" else "0"),
            *("--seed", str(seed), "--preset", chosen.preset, "--validation-share", "0", *cache, *options),
        )
        evaluations = tuple(("--compact", "--without", name, *cache) for name in hidden)
        return Part(f"{model}{suffix}-{protocol}-seed{seed}", train, evaluations)

    baselines = [name for name in NETWORKS if name != "pacfnet"]
    return [
        *(part(name, "session", seed, hidden=hidden_of(name)) for name in FITTED_MODELS for seed in range(5)),
        part("pacfnet", "session"),
        part("pacfnet", "beat"),
        *(part(name, "recording") for name in RECORDING_MODELS),
        *(part(name, "session") for name in baselines),
        *(part(name, "beat") for name in baselines),
        part("pacfnet", "session", 0, *DROPOUT, suffix="-dropout", hidden=EACH),
        part("pacfnet", "session", 0, "--zeroed", "pcg", suffix="-ecg-only"),
        part("pacfnet", "session", 0, "--zeroed", "ecg", suffix="-pcg-only"),
        *(part("pacfnet", "session", seed) for seed in (1, 2)),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, then make the tables."""
    settings = read_settings(StudySettings, arguments, __doc__)
    chosen = choose_parts(parts(settings), settings.only)
    if settings.list:
        print(list_parts(chosen, settings.results_dir))
        return
    if not settings.tables:
        run_parts(chosen, settings.results_dir, settings.workers)
    print(write_tables(settings.results_dir, list(MODELS)))
