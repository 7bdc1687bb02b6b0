"""The commands of README and docs run as they stand, on tiny simulated data, in the order of their document.

Each document has a folder of its own, in which what its placeholders name lies under the placeholder's name.
Options that make a command small are added to it. What scripts print as the next command is run as well.
Manuals (docstrings, Makefile) state the same commands; `tests.test_documented_commands` parses them.
"""

import contextlib
import fnmatch
import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import evaluate
import export
import load_data
import predict
import training
from simulation.settings import SimulationSettings
from systems import registry
from systems.ecg_cmr.sources.simulated import write_pairs
from systems.ecg_pcg.sources.simulated import write_cohort
from tests.conftest import COHORT, write_rows
from tests.documented_commands import DOCUMENTS, ROOT, SHELL, Command, commands_of, python_blocks, split

SCRIPTS = {f"{script.__name__}.py": script for script in (load_data, training, evaluate, predict, export)}
PAGES = [name for name in DOCUMENTS if name.endswith(".md") and commands_of(name)]

NOT_RUN = {
    "*: make *": "builds an environment first; its commands are parsed",
    "*: pip *": "downloads",
    "*: tensorboard *": "a server",
    "*: dask *": "tests/common/test_cluster.py has a cluster",
    "*: srun *": "needs a cluster",
    "*: sbatch *": "needs a cluster",
    "*: torchrun *": "tests/learning/test_distributed.py starts two processes",
    "*: python -c *": "part of a job script",
    "*: python -m studies.*": "minutes to hours; tests/studies/ has their parts",
    "*: python tests/goldens.py *": "minutes, and another revision",
    "*: python load_data.py *--dask *": "tests/common/test_cluster.py has a cluster",
    "*: python training.py --at-once *": "tests/test_parallel_folds_end_to_end.py trains folds in parallel",
    "*--compile *": "minutes; tests/learning/test_speed.py compiles a small network",
    "*--stress": "10 s; tests/systems/ecg_pcg/robustness/ corrupts recordings",
    "docs/data.md: python load_data.py --download --sets *": "downloads",
    "*PATH/circor*": "tests/systems/ecg_pcg/sources/test_circor.py",
    "*PATH/ACDC": "tests/systems/ecg_cmr/sources/ has its layout",
    "*PATH/echonext*": "tests/systems/ecg_cmr/sources/test_echocardiography.py has its layout",
    "*PATH/physionet.org/files *": "tests/systems/ecg_cmr/sources/test_echocardiography.py has its layout",
    "docs/data.md: *PATH/ptb-xl": "tests/systems/ecg_cmr/sources/test_pairs_cache.py has its layout",
    "docs/ecg-cmr.md: * bmi*": "tests/systems/ecg_cmr/phenotypes/ has such columns",
    "docs/ecg-pcg.md: python load_data.py --simulate": "another cache in the midst of the page",
    "docs/ecg-pcg.md: *--preset small --protocol paper --folds 0": "stands above without the preset",
}
"""What does not run, and why: patterns of document and command."""

TRAINING_A = "python load_data.py --raw-dir PATH/challenge-2016"
PTB_XL = "python load_data.py ecg-multimodal --raw-dir PATH/ptb-xl"
STAND_IN = {
    "python load_data.py --download": TRAINING_A,
    PTB_XL: "python load_data.py ecg-multimodal --simulate",
}
"""What runs instead: what the comment beside the command offers."""

BEFORE = {
    "docs/ecg-to-cmr.md": (
        "python load_data.py ecg-to-cmr --simulate",
        "python training.py ecg-cmr-contrast --run-name CONTRAST",
    ),
    "README.md": (f"{TRAINING_A} --sets a b c d e f",),
    "docs/ARCHITECTURE.md": (TRAINING_A,),
    "docs/honest-benchmark.md": (TRAINING_A,),
    "docs/inference.md": (TRAINING_A, "python training.py"),
}
"""What a document takes for granted."""

SMALL = {
    "load_data.py ecg-pcg": "--jobs 1",
    "load_data.py ecg-multimodal": "--image-width 340 --signal-rate 50 --simulation.patients 45 --jobs 1",
    "load_data.py": "--frames 4 --size 32 --pixel-spacing 4.4 --long-axis-spacing 6.4 --seconds 2 "
    "--ecg-rate 100 --simulation.patients 40 --jobs 1",
    "training.py ecg-pcg": "--width 8",
    "training.py ecg-multimodal": "--width 8 --fold-count 3 --validation-share 0.2",
    "training.py cine-autoencoder": "--channels 16 16 --latent-channels 2 --batch-size 8",
    "training.py ecg-to-cmr": "--width 16 --depth 1 --heads 2 --patch-seconds 0.4 --channels 64 "
    "--batch-size 8 --autoencoder.channels 16 16 --autoencoder.latent-channels 2",
    "training.py": "--width 16 --depth 1 --heads 2 --patch-seconds 0.4 --batch-size 8",
    "evaluate.py ecg-to-cmr": "--bootstrap-draws 20 --patients 6 --steps 2 --samples 2",
    "evaluate.py": "--bootstrap-draws 20",
    "predict.py ecg-to-cmr": "--steps 2 --samples 2",
}
"""Options added to a command, by script and task."""
COHORT_OPTIONS = [
    *("--simulation.sessions", "8", "--simulation.persons", "2", "--simulation.recordings", "2"),
    *("--simulation.duration", "6"),
]


# What placeholders name ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Path:
    """Return a folder with a file or a folder for each placeholder; not to be changed."""
    root = tmp_path_factory.mktemp("things")
    with contextlib.chdir(root):
        write_public_sets(Path("PATH/challenge-2016"))
        write_recordings(Path("PATH/challenge-2016/training-a"))
        pairs = write_pairs(Path("MY_PAIRS"), 12)
        shutil.copy(pairs / "pairs.csv", "pairs.csv")
        Path("ECGS").mkdir()
        for path in sorted((pairs / "ecg").iterdir())[:4]:
            shutil.copy(path, "ECGS")
            if path.stem == "v00000":
                copy_record(path, Path("ECG"))
        for runs in ("linear-session-seed0", "pacfnet-session-seed0"):
            shutil.copytree(
                ROOT / "results/physionet2016/runs" / runs, Path("results/physionet2016/runs", runs)
            )
    return root


def write_public_sets(raw: Path) -> None:
    """Write simulated recordings in the layout of all six sets; b to f are sound alone."""
    appendix = write_cohort(raw, COHORT) / "annotations" / "Online_Appendix_training_set.csv"
    for number, letter in enumerate("bcdef", start=1):
        few = SimulationSettings(sessions=6, persons=1, recordings=1, duration=6.0, seed=number)
        other = write_cohort(raw / letter, few)
        for path in [*sorted(other.glob("**/*a[0-9]*")), other / "training-a" / "REFERENCE-SQI.csv"]:
            folder = path.relative_to(other).parent.as_posix().replace("training-a", f"training-{letter}")
            (raw / folder).mkdir(parents=True, exist_ok=True)
            to = raw / folder / re.sub(r"^a(?=\d)", letter, path.name)
            if path.suffix in (".hea", ".csv"):
                text = re.sub(r".*\.dat .*\r?\n", "", path.read_text()).replace(" 2 2000", " 1 2000")
                to.write_text(re.sub(r"\ba(?=\d{4})", letter, text))
            elif path.suffix != ".dat":
                shutil.copy(path, to)
        rows = (other / "annotations" / appendix.name).read_text().splitlines(keepends=True)[1:]
        with appendix.open("a") as file:
            file.writelines(
                re.sub(r"^a(\d+),training-a", rf"{letter}\1,training-{letter}", row) for row in rows
            )
        shutil.rmtree(other)


def write_recordings(records: Path) -> None:
    """Write recordings of a user, made from simulated ones of six seconds."""
    lasting = [path for path in sorted(records.glob("*.dat")) if path.stat().st_size >= 2 * 2000 * 5.5]
    Path("MY_FOLDER").mkdir()
    for ending in ("hea", "dat", "wav"):
        for path in lasting[:2]:
            shutil.copy(path.with_suffix(f".{ending}"), "MY_FOLDER")
        copy_record(lasting[0].with_suffix(f".{ending}"), Path("MY_RECORDING"))
    shutil.copy("MY_RECORDING.wav", "sound.wav")
    np.savetxt("ecg.csv", np.fromfile("MY_RECORDING.dat", dtype="<i2")[::4], fmt="%d")
    Path("MY_SOUNDS").mkdir()
    labels = dict(line.split(",") for line in (records / "REFERENCE.csv").read_text().split())
    rows = [["recording", "label", "database"]]
    for number, path in enumerate(lasting):
        shutil.copy(path.with_suffix(".wav"), "MY_SOUNDS")
        rows.append([path.stem, labels[path.stem], "uv"[number % 2]])
    write_rows(Path("MY_SOUNDS/labels.csv"), rows)


def copy_record(path: Path, to: Path) -> None:
    """Copy a file of a WFDB record, which its header names, under another name."""
    content = path.read_bytes()
    content = content.replace(path.stem.encode(), to.name.encode()) if path.suffix == ".hea" else content
    to.with_suffix(path.suffix).write_bytes(content)


@pytest.fixture(scope="module")
def results(things, tmp_path_factory) -> Path:
    """Return a folder with results of two runs of two seeds, and another cache."""
    root = tmp_path_factory.mktemp("results")
    shutil.copytree(things, root, dirs_exist_ok=True)
    with contextlib.chdir(root):
        page = Page()
        page.run(("python", "load_data.py", "--simulate"))
        for run, model in (("RUN_A", "linear"), ("RUN_B", "pcg-network")):
            page.run(("python", "training.py", "--model", model, "--run-name", run))
            page.run(("python", "evaluate.py", "--compact", "--checkpoint", f"checkpoints/{run}"))
            shutil.copytree(f"results/{run}", f"results/{run}-seed0")
    return root


# Running ------------------------------------------------------------------------------------------------


class Page:
    """Runs the commands of a document in the folder in which it stands."""

    def __init__(self) -> None:
        self.trained = ""
        self.ran: set[tuple[str, ...]] = set()

    def run(self, words: Sequence[str]) -> None:
        """Run a command, unless it ran before, and what it prints as the next one."""
        if tuple(words) in self.ran:
            return
        self.ran.add(tuple(words))
        _, name, *rest = words
        rest = small(name, [self.fill(word) for word in rest])
        said = self.call(name, rest)
        for hint in re.findall(r"(?:Next|Evaluate): +(python .*)", said):
            for _, script, *more in split(f"{hint} --dry-run"):
                if (script, *more) not in self.ran:
                    self.ran.add((script, *more))
                    self.call(script, small(script, more))

    def call(self, name: str, words: list[str]) -> str:
        """Call a script; return what it printed."""
        assert name in SCRIPTS, f"there is no {name}"
        said, complained = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            try:
                made = SCRIPTS[name].main(words)
            except SystemExit as end:
                raise AssertionError(f"exit {end.code}: {complained.getvalue()[-500:]}") from None
        if name == "training.py" and "--list" not in words and "--dry-run" not in words:
            self.trained = str(made)
        return said.getvalue()

    def fill(self, word: str) -> str:
        """Return a word with its placeholders filled that are no files."""
        caches = sorted(Path("data/cache").glob("*/manifest.json"))
        known = {"checkpoints/<run>": self.trained, "NAME": "linear", "<protocol>": "session"}
        known |= {"data/cache/<other>": "data/other", "<name>": caches[-1].parent.name if caches else ""}
        for placeholder, value in known.items():
            word = word.replace(placeholder, value)
        return "MY_RECORDING" if word in ("PATH", "RECORDING") else word


def small(name: str, words: Sequence[str]) -> list[str]:
    """Return the words of a command with options that make it small; folds that it names stay."""
    task = words[0] if words and words[0] in registry.TASKS else "ecg-pcg"
    if name == "training.py":
        task = training.read_task(words)[0]
    elif name in ("evaluate.py", "predict.py") and "--checkpoint" in words:
        task = evaluate.choose_task("", ["--checkpoint", words[words.index("--checkpoint") + 1]])
    more = SMALL.get(f"{name} {task}", SMALL.get(name, "")).split()
    more += ["--threads", "1"] if name != "load_data.py" else []
    if name == "training.py":
        more += ["--epochs", "1", "--precision", "float32", "--device", "cpu"]
        more += [] if "--folds" in words else ["--folds", "0"]
        default = task == "ecg-pcg" and not {"--model", "--fusion-levels"} & set(words)
        more += ["--levels", "2"] if default else []  # exported in half the time
    elif name == "load_data.py" and task == "ecg-pcg" and "--simulate" in words:
        more += COHORT_OPTIONS
    return [*words, *more]


def pattern_of(document: str, command: Command) -> str:
    """Return the pattern of a command that is not run; empty if it is."""
    text = f"{document}: {' '.join(command.words)}"
    return next((pattern for pattern in NOT_RUN if fnmatch.fnmatchcase(text, pattern)), "")


def steps_of(document: str) -> list[tuple[int, Any]]:
    """Return line and command, or line and Python, of what a document runs, in its order."""
    found: list[tuple[int, Any]] = [*python_blocks(document)]
    for command in commands_of(document):
        if command.words[0] not in SHELL and not pattern_of(document, command):
            found.append((command.line, command.words))
    return sorted(found, key=lambda step: step[0])


@pytest.mark.parametrize("document", PAGES)
def test_commands_run(document, things, results, make_patients, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PHYSIONET2016_DIR", "PATH/challenge-2016")
    shutil.copytree(things, tmp_path, dirs_exist_ok=True)
    shutil.copytree(results / "results", "results", dirs_exist_ok=True)
    shutil.copytree(next(results.glob("data/cache/*/")), "data/other")
    make_patients(root=Path("MY_PATIENTS"))
    page, failed = Page(), []
    names = {name: torch.zeros(2, 1, 500) for name in ("ecg", "pcg")}  # what blocks of Python make, too
    for before in BEFORE.get(document, ()):
        page.run(before.split())
    for line, step in steps_of(document):
        try:
            if isinstance(step, str):
                exec(compile(page.fill(step), f"{document}:{line}", "exec"), names)
            else:
                page.run(STAND_IN.get(" ".join(step), "").split() or step)
        except Exception as error:
            failed.append(
                f"{document}:{line}: {step if isinstance(step, str) else ' '.join(step)}\n    {error}"
            )
    assert not failed, "\n" + "\n".join(failed)


def test_what_does_not_run_is_in_a_document():
    commands = [(page, command) for page in PAGES for command in commands_of(page)]
    assert set(NOT_RUN) <= {pattern_of(page, command) for page, command in commands}
    assert set(STAND_IN) <= {" ".join(command.words) for _, command in commands}
    assert set(BEFORE) <= set(PAGES)
    tests = [path for reason in NOT_RUN.values() for path in re.findall(r"tests/\S+", reason)]
    assert [path for path in tests if not (ROOT / path).exists()] == []
