"""Phase fusion beside the linear model on unseen sessions, and every variant that was tried.

    python -m studies.generalization --raw-dir PATH/challenge-2016
    python -m studies.generalization --list       # what it consists of, and what is done
    python -m studies.generalization --tables     # tables from what is done

Trains both models under protocol ``session`` with seeds 0 to 4 and evaluates them with both signals and with
either one; does the same with automatic (Springer) onsets where the raw recordings are given; evaluates both
through other microphones (studies/generalization/microphones.py); and scores all variants of
studies/generalization/variants.py. Writes to results/physionet2016: runs/ and generalization/runs/ (a
folder of scores a run), generalization.csv (a row a variant, failed ones too, with how often each was scored
on outer folds), generalization_figures.csv, _comparisons.csv, _microphones.csv and generalization.md.

The primary comparison was declared before it was run: AUROC per recording, both signals, phase fusion
against the linear model, whole sessions resampled, the mean over seeds. Stop it and start it again as you
like. About 40 minutes on one core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.command_line import read_settings
from datasets.cache import Cache, find_cache
from learning.devices import set_threads
from studies.generalization.microphones import score_microphones
from studies.generalization.tables import MICROPHONES, MODELS, write_tables
from studies.generalization.variants import score_variants
from studies.runner import ROOT, Part, list_parts, run_parts
from systems.ecg_pcg.prepare import prepare
from systems.ecg_pcg.settings import LoadDataSettings, PreparationSettings

SEEDS = range(5)
EACH = ("nothing", "ecg", "pcg")


@dataclass(frozen=True)
class GeneralizationSettings:
    """Settings of the study."""

    list: bool = False
    """List the parts and whether they are done; run nothing."""
    tables: bool = False
    """Only make tables from the parts that are done."""
    variants: bool = True
    """Score the variants as well."""
    microphones: bool = True
    """Evaluate through other microphones as well."""
    workers: int = 1
    """Parts in parallel."""
    cache: Path | None = None
    """Cache of training-a; default: the one prepared last."""
    raw_dir: Path | None = None
    """Raw recordings, from which a cache with automatic onsets is prepared; none: without that row."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    results_dir: Path = Path("results/physionet2016")
    """Folder of scores and tables."""


def parts(cache: Path, suffix: str = "", hidden: Sequence[str] = EACH) -> list[Part]:
    """Return both models under ``session`` with all seeds, from one cache."""
    cache_option = ("--cache", str(cache.absolute()))
    evaluations = tuple(("--compact", "--without", name, *cache_option) for name in hidden)
    return [
        Part(
            f"{model}{suffix}-session-seed{seed}",
            (
                *("--model", model, "--protocol", "session", "--seed", str(seed), "--preset", "small"),
                *("--validation-share", "0", *cache_option),
            ),
            evaluations,
        )
        for seed in SEEDS
        for model in MODELS
    ]


def automatic_cache(settings: GeneralizationSettings) -> Path | None:
    """Return the cache with automatic onsets, prepared if it is not there; None without raw recordings."""
    if settings.raw_dir is None:
        return None
    preparation = PreparationSettings(onsets="springer")
    return prepare(
        LoadDataSettings(
            raw_dir=settings.raw_dir, cache_dir=settings.cache_dir, preparation=preparation, jobs=1
        )
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not done yet, then make the tables."""
    settings = read_settings(GeneralizationSettings, arguments, __doc__)
    set_threads(1)
    cache = find_cache(settings.cache, settings.cache_dir, task="ecg-pcg")
    automatic = settings.results_dir / "generalization"
    if settings.list:
        print(list_parts(parts(cache.path), settings.results_dir))
        print(list_parts(parts(cache.path, "-springer"), automatic))
        return
    if not settings.tables:
        run_parts(parts(cache.path), settings.results_dir, settings.workers)
        springer = automatic_cache(settings)
        if springer is not None:
            run_parts(parts(springer, "-springer", ("nothing",)), automatic, settings.workers)
        if settings.microphones:
            runs = [ROOT / "checkpoints" / part.name for part in parts(cache.path)]
            there = [run for run in runs if run.is_dir()]  # scores alone may be there, from elsewhere
            score_microphones(there, Cache(cache.path), settings.results_dir / MICROPHONES)
        if settings.variants:
            score_variants(Cache(cache.path), settings.results_dir / "generalization.csv")
    print(write_tables(settings.results_dir))
