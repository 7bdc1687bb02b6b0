"""The settings that all tasks share, with unit and meaning beside each.

Settings are frozen dataclasses; the command line is made from them by tyro, so the text under
each field is what ``--help`` prints. Scripts take an optional first word, the task::

    python training.py --protocol beat            # task ecg-pcg, the default
    python training.py ecg-pcg --protocol beat    # the same

Those of one system are in ``systems/<system>/settings.py``. Training settings come in presets. ``--preset``
(and the protocol, which sets the number of epochs of the small preset) is read first; its values are the
defaults that every other option then changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import tyro

from common.options import Bounds, Count, Natural, NotNegative, Positive, Seed

Preset = Literal["auto", "paper", "small"]
ExportFormat = Literal["onnx", "torch"]


@dataclass(frozen=True)
class SourceSettings:
    """Settings of load_data.py that all tasks share."""

    first: ClassVar[tuple[str, ...]] = (
        *("raw_dir", "simulate", "download", "source", "sets", "onsets", "check", "cache_dir", "jobs"),
        *("dry_run", "list"),
    )
    """Options that people use first, where a task has them."""
    formerly: ClassVar[dict[str, str]] = {"patients": "simulation.patients"}
    """Old names of options, which are still accepted."""
    raw_dir: Path | None = None
    """Folder of raw data."""
    cache_dir: Path = Path("data/cache")
    """Folder in which prepared caches lie, each in a folder of its own."""
    jobs: Annotated[int, Bounds(1, also=-1)] = -1
    """Processes that prepare recordings in parallel; -1: one a core."""
    dask: str = ""
    """Address of the scheduler of a Dask cluster whose workers prepare the recordings instead, as in
    tcp://HOST:8786; raw_dir is then a folder that all of them can read (docs/scale.md)."""
    strict: bool = False
    """Stop at the first recording that cannot be used instead of listing it in skipped.csv."""
    dry_run: bool = False
    """Say what would be read, written and how long it would take; write nothing."""
    simulate: bool = False
    """Write a cohort of simulated patients into raw_dir (default: in data/raw) and prepare that."""
    list: bool = False
    """List the caches that there are; prepare nothing."""


@dataclass(frozen=True)
class OptimizationSettings:
    """How the weights are found."""

    batch_size: Count = 32
    """Samples of one step, over all processes together."""
    optimizer: Literal["adam", "adamw"] = "adam"
    """Adam, or Adam with decoupled weight decay."""
    learning_rate: Positive = 1e-3
    """Learning rate; the peak of it under the one-cycle schedule."""
    adam_epsilon: NotNegative = 1e-8
    """Added to the root of the second moment, of which Adam takes a share."""
    weight_decay: NotNegative = 0.0
    """Weight decay, a step, as a share of the learning rate."""
    schedule: Literal["plateau", "one-cycle", "constant"] = "plateau"
    """Learning rate over time: divided by ten when the validation loss rests, one cycle, or constant."""
    plateau_patience: Natural = 5
    """Epochs without improvement before the plateau schedule divides the learning rate by ten."""
    plateau_floor: NotNegative = 0.0
    """Learning rate below which the plateau schedule does not go."""
    epochs: Count = 100
    """Passes over the training samples, at most."""
    early_stop: Natural = 20
    """Stop after so many epochs without a better validation loss; 0: never, and the last epoch counts."""
    least_improvement: NotNegative = 1e-4
    """Decrease of the validation loss from which early stopping calls an epoch better."""
    gradient_clip: NotNegative = 5.0
    """Largest norm of the gradient; 0: not clipped."""
    clip: Literal["all", "tensor"] = "all"
    """Whose norm is clipped: that of the gradient as a whole, or of each weight tensor by itself."""
    drop_last: bool = True
    """Leave out the last batch of an epoch where it is not full (the order changes every epoch)."""
    fused: bool = True
    """Change all weights in one call of torch instead of several calls a weight."""
    class_weights: bool = True
    """Weight the loss so that both classes count the same (from the labels of the training part)."""


@dataclass(frozen=True)
class RunSettings:
    """Settings of training.py that all tasks share."""

    first: ClassVar[tuple[str, ...]] = (
        *("protocol", "model", "preset", "folds", "epochs", "batch_size", "cache", "init_ecg", "resume"),
        *("config", "dry_run", "list"),
    )
    """Options that people use first, where a task has them."""
    formerly: ClassVar[dict[str, str]] = {}
    """Old names of options, which are still accepted."""
    preset: Preset = "auto"
    """Named set of defaults: paper (full size, as published), small (for a CPU), or auto (paper on CUDA,
    small on a CPU). Options given beside it win."""
    protocol: str = "session"
    """Who is kept apart between train and test."""
    folds: Annotated[Literal["all", "none"] | tuple[int, ...], Bounds(0)] = "all"
    """Folds to train: all, some by number from 0, or none: one final fit on everything, without test."""
    fold_count: Annotated[int, Bounds(2, also=0)] = 5
    """Parts into which the samples are split; 0: one a database, as protocol database needs."""
    at_once: Count = 1
    """Folds trained at the same time, each by a process of its own: they share the CPU threads and take the
    GPUs in turn, several on one where they are more. What each learns depends on it by rounding only."""
    validation_share: Annotated[float, Bounds(0, 0.5)] = 0.1
    """Part of the training samples held out for the validation curves, stopping and threshold, 0 to 0.5
    (in whole units, as the protocol says; under paper the test fold is used)."""
    seed: Seed = 42
    """Seed of the folds, of the initial weights and of the order of samples."""
    optimization: tyro.conf.OmitArgPrefixes[OptimizationSettings] = OptimizationSettings()
    cache: Path | None = None
    """Cache to learn from; default: the one that load_data.py prepared last for this task."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    run_name: str = ""
    """Name of the run; default: made of task, model, protocol, preset and seed."""
    checkpoint_dir: Path = Path("checkpoints")
    """Folder of checkpoints; the run gets a folder in it."""
    log_dir: Path = Path("runs")
    """Folder of TensorBoard curves; the run gets a folder in it."""
    resume: bool = False
    """Continue a run that was stopped, exactly where its last finished epoch ended."""
    overwrite: bool = False
    """Delete an earlier run of the same name first."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the forward pass; auto: bfloat16 where the device has instructions for it."""
    layout: Literal["auto", "channels-last", "plain"] = "auto"
    """How the features of convolutional networks of beats and signals lie in memory: channels side by side,
    or time; auto: the faster of them for the processor and the size. Results agree but for rounding."""
    compile: bool = False
    """Let torch.compile fuse what lies between convolutions: faster after a minute or two of compiling.
    Needs a C++ compiler (CPU) or Triton (CUDA). Results agree but for rounding."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """What --compile aims at: reduce-overhead records a step as CUDA graphs, for small networks on a GPU;
    max-autotune also tries several kernels for each product, for minutes."""
    threads: Natural = 0
    """CPU threads of torch; 0: those on which steps are fastest, tried as the run goes, or what
    OMP_NUM_THREADS says. Results agree but for rounding; with a number that is set they are the same bit for
    bit, also after --resume."""
    histograms: bool = False
    """Draw histograms of all weights and their gradients in TensorBoard, every epoch."""
    graph: bool = False
    """Draw the network in TensorBoard, under GRAPHS."""
    dry_run: bool = False
    """Say what would be trained, how long an epoch takes and how much memory; train nothing."""
    config: Path | None = None
    """File of settings, as a run writes it into its folder (settings.json); options given beside it win. How
    that run was started (resume, overwrite, dry_run) is not taken from it."""
    list: bool = False
    """List the caches and runs that there are; train nothing."""

    def variant(self) -> str:
        """Return what a run is named after, beside task, protocol, preset and seed."""
        return ""


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of evaluate.py that all tasks share."""

    first: ClassVar[tuple[str, ...]] = (
        *("checkpoint", "cache", "compare", "without", "threshold", "prevalence", "results_dir", "audit"),
        *("stress", "list"),
    )
    """Options that people use first, where a task has them."""
    formerly: ClassVar[dict[str, str]] = {"patients": "max-patients"}
    """Old names of options, which are still accepted."""
    checkpoint: Path | None = None
    """A run's folder or one checkpoint file; default: the newest run under checkpoint_dir."""
    checkpoint_dir: Path = Path("checkpoints")
    """Folder of checkpoints."""
    cache: Path | None = None
    """Cache to evaluate on; default: the one the run was trained from, found by its content. Any other is
    an external test: the probability of each recording is the mean over the models of all folds."""
    cache_dir: Path = Path("data/cache")
    """Folder in which caches lie."""
    results_dir: Path = Path("results")
    """Folder of results; the run gets a folder in it."""
    which: Literal["best", "last"] = "best"
    """Checkpoint of each fold to use (the same where training stops at a fixed epoch); scores of the last
    go to a folder of their own, <run>-last."""
    threshold: Literal["half", "validation"] = "half"
    """Probability from which a sample counts as abnormal: 0.5, or the one with the best mean of
    sensitivity and specificity on the validation part of each fold."""
    compare: tuple[Path, Path] | None = None
    """Two folders of results to compare on the recordings both were tested on, as in
    --compare results/RUN_A results/RUN_B; a * in a name takes several seeds, as in 'results/RUN-seed*'."""
    without: str = "nothing"
    """What to hide from the model, as if it had not been recorded, several joined by +: ecg or pcg (models
    trained with --modality-dropout, linear and phase-fusion); image, signal or clinical (ecg-multimodal)."""
    compact: bool = False
    """Write scores and one row a recording only: no figures, no row a beat."""
    bootstrap_draws: Natural = 2000
    """Draws of the session-clustered bootstrap behind the 95 % intervals; 0: no intervals."""
    batch_size: Count = 256
    """Samples of one forward pass, at most; a CPU, which larger ones make slower, takes 64 at a time."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N."""
    threads: Natural = 0
    """CPU threads of torch; 0: what OMP_NUM_THREADS says, else one a core."""
    dry_run: bool = False
    """Say what would be evaluated; write nothing."""
    list: bool = False
    """List the caches and runs that there are; evaluate nothing."""


@dataclass(frozen=True)
class PredictionSettings:
    """Settings of predict.py that all tasks share."""

    first: ClassVar[tuple[str, ...]] = (
        *("recordings", "checkpoint", "ecg", "ecg_rate", "prevalence", "age", "sex", "patient_table", "out"),
        *("json",),
    )
    """Options that people use first, where a task has them."""
    formerly: ClassVar[dict[str, str]] = {"patients": "patient-table"}
    """Old names of options, which are still accepted."""
    recordings: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Recordings, or folders of them."""
    checkpoint: Path | None = None
    """A run's folder or one checkpoint file; default: the small model that comes with the code. Of a run's
    folder the final fit on everything (fold_all) is used where there is one, else the mean of its folds."""
    ecg_rate: Annotated[float | None, Bounds(0, open=True)] = None
    """Sampling rate, hertz, of an ECG file that does not state its own (.npy, .csv); of ecg_signals.csv in a
    folder of patients, which by default is that of the run's own table, or 250."""
    out: Path | None = None
    """Folder to write a figure (.png) and the metadata (.json) of each recording to; default: no files."""
    json: bool = False
    """Print one JSON document instead of text; messages go to the error stream."""
    batch_size: Count = 256
    """Samples of one forward pass, at most; a CPU, which larger ones make slower, takes 64 at a time."""
    device: str = "cpu"
    """cpu, auto (CUDA if there is one), cuda or cuda:N."""
    threads: Natural = 0
    """CPU threads of torch; 0: what OMP_NUM_THREADS says, else one a core."""


@dataclass(frozen=True)
class ExportSettings:
    """Which network is exported, how and where to."""

    first: ClassVar[tuple[str, ...]] = ("checkpoint", "fold", "format", "out", "dry_run")
    checkpoint: Path | None = None
    """A run's folder or one checkpoint file; default: the newest run under checkpoint_dir."""
    checkpoint_dir: Path = Path("checkpoints")
    """Folder of checkpoints."""
    fold: Annotated[int | None, Bounds(0)] = None
    """Fold of the run whose network is exported, from 0; default: the final fit on everything (fold_all)
    where there is one, else the only fold. Folds are networks of their own: one file holds one."""
    format: ExportFormat | None = None
    """onnx: runs by onnxruntime, in any language. torch: a program of torch.export, runs by torch without
    this code. Default: what the ending of --out says, else onnx."""
    out: Path | None = None
    """File to write, .onnx or .pt2; one that is there is replaced. Default: beside the checkpoint, of the
    same name."""
    threads: Natural = 0
    """CPU threads of torch and onnxruntime while the file is checked; 0: what OMP_NUM_THREADS says,
    else one a core."""
    dry_run: bool = False
    """Say what would be written; write nothing."""
