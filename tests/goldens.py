"""Proof that behaviour is unchanged: everything the command lines say and write, recorded and compared.

    python tests/goldens.py record TREE OUT_FOLDER      # some minutes on one core
    python tests/goldens.py compare OLD NEW             # two such folders; exit status 1 if anything differs
    python tests/goldens.py compare OLD NEW --diff NAME # how one item differs
    python tests/goldens.py against REVISION            # record that revision and this tree, compare

TREE, a git checkout, is copied first (so it may be worked on meanwhile, and no commit is written into files).
Only load_data.py, training.py, evaluate.py, predict.py and export.py at its root are called, never a module
of it: files and names below may change between two recordings. Each call has a process of its own, forked
from one that has imported the libraries. What depends on the clock, the machine or the versions is masked.
"""

from __future__ import annotations

import argparse
import atexit
import difflib
import gzip
import hashlib
import html
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **{"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "100", "MPLBACKEND": "Agg"},
    **{"CUDA_VISIBLE_DEVICES": "", "TERM": "dumb", "NO_COLOR": "1"},
}
"""What the recording process is started with, so that every call finds the same."""
FOREIGN = ("PHYSIONET2016_DIR", "PTBXL_DIR", "PYTHONPATH")
"""Variables that name data or code of this machine."""
LIBRARIES = (
    *("torch", "numpy", "pandas", "scipy.signal", "scipy.stats", "scipy.interpolate", "sklearn.linear_model"),
    *("matplotlib.pyplot", "tyro", "wfdb", "nibabel", "joblib", "tqdm", "PIL.Image", "openpyxl"),
    *("monai.networks.nets", "torch.utils.tensorboard", "torch.export", "onnx", "onnxruntime"),
)
"""Imported once, before processes are forked."""

# --- what is called -----------------------------------------------------------------------------------

WORDS = {
    "ONE": "--epochs 1 --precision float32 --device cpu --threads 1 --preset small",
    "PCG": "--width 8 --points 100",
    "VIEWS": "--frames 4 --size 32 --pixel-spacing 4.4 --seconds 2 --ecg-rate 100 --jobs 1",
    "STAGE": "--width 16 --depth 1 --heads 2 --patch-seconds 0.4 --batch-size 8",
    "FRAMES": "--channels 16 16 --latent-channels 2",
    "SAME": "--autoencoder.channels 16 16 --autoencoder.latent-channels 2 --channels 64",
    "PATIENTS": "--width 8 --fold-count 3 --validation-share 0.2",
    "RUNS": "--bootstrap-draws 20 --threads 1 --checkpoint checkpoints",
    "SAMPLED": "--steps 2 --samples 2 --patients 6",
    "SOUND": "data/raw/simulated/training-a",
}
CALLS = """
load/pcg            load_data --simulate --simulation.sessions 8 --simulation.persons 2 \
                    --simulation.recordings 2 --simulation.duration 8 --jobs 1
load/pcg-again      load_data --raw-dir data/raw/simulated --jobs 1
load/pcg-dry        load_data --raw-dir data/raw/simulated --jobs 1 --dry-run --onsets ecg
load/pcg-filtered   load_data --raw-dir data/raw/simulated --jobs 1 --cache-dir data/other --bandpass \
                    --onsets springer --beat-points 500 --keep-low-quality
load/pcg-r-peaks    load_data --raw-dir data/raw/simulated --jobs 1 --cache-dir data/other --onsets ecg
load/pcg-strict     load_data --raw-dir data/raw/simulated --jobs 1 --cache-dir data/strict --strict
load/cohort         load_data --raw-dir own/cohort --jobs 1 --cache-dir data/cohort
load/second         load_data --simulate --raw-dir data/raw/second --cache-dir data/second \
                    --simulation.seed 3 --simulation.persons 2 --simulation.sessions 4 \
                    --simulation.recordings 1 --jobs 1
load/drawn-patients load_data ecg-multimodal --simulate --simulation.patients 45 --image-width 340 \
                    --signal-rate 50 --jobs 1 --cache-dir data/xlsx
load/patients       load_data ecg-multimodal --raw-dir own/patients --image-width 340 --signal-rate 50 \
                    --jobs 1
load/patients-dry   load_data ecg-multimodal --raw-dir own/patients --dry-run
load/sheets         load_data ecg-multimodal --simulate --simulation.patients 3 --sheet --image-width 340 \
                    --raw-dir data/raw/sheets --cache-dir data/sheets-xlsx --rotation 2 --noise 0.1 --jobs 1
load/pairs          load_data ecg-mae --simulate --patients 40 $VIEWS
load/pairs-dry      load_data cmr-mae --simulate --patients 40 $VIEWS --dry-run
load/files          load_data ecg-phenotypes --simulate --patients 4 --simulation.seed 5 $VIEWS --long-axis \
                    --raw-dir data/raw/pairs --cache-dir data/files
load/files-check    load_data ecg-to-cmr --raw-dir data/raw/pairs --check $VIEWS --cache-dir data/files

train/pcg           training $ONE $PCG --folds 0 1 --run-name pcg
train/pcg-resume    training $ONE $PCG --folds 0 1 --run-name pcg --resume
train/pcg-there     training $ONE $PCG --folds 0 1 --run-name pcg
train/pcg-other     training $ONE $PCG --folds 0 1 --run-name pcg --resume --epochs 2
train/pcg-dry       training $ONE $PCG --folds 0 1 --dry-run
train/subsets       training $ONE $PCG --folds 0 --modality-dropout 0.5 --run-name subsets
train/paper         training $ONE $PCG --folds 0 --protocol paper
train/recording     training $ONE $PCG --folds 0 --protocol recording --optimizer adam \
                    --schedule plateau --early-stop 2 --epochs 2 --attention parallel --run-name recording
train/beat          training $ONE $PCG --folds 0 --protocol beat --zeroed pcg --layout plain
train/final         training $ONE $PCG --folds none --run-name final
train/ecg-network   training $ONE $PCG --folds 0 --model ecg-network
train/pcg-network   training $ONE $PCG --folds 0 --model pcg-network
train/early         training $ONE $PCG --folds 0 --model early-fusion
train/late          training $ONE $PCG --folds 0 --model late-fusion
train/last          training $ONE $PCG --folds 0 --model last-fusion --dry-run
train/concatenation training $ONE $PCG --folds 0 --model concatenation
train/spatial       training $ONE $PCG --folds 0 --model spatial-attention --dry-run
train/cross         training $ONE $PCG --folds 0 --model cross-attention
train/linear        training $ONE --folds 0 --model linear --run-name linear
train/linear-dry    training $ONE --folds 0 --model linear --dry-run --run-name dry
train/phase-fusion  training $ONE --folds 0 --model phase-fusion --run-name phase-fusion
train/views         training ecg-multimodal $ONE $PATIENTS --folds 0 1 --run-name views
train/views-late    training ecg-multimodal $ONE $PATIENTS --folds 0 --fusion late --modulation 0.5
train/views-side    training ecg-multimodal $ONE $PATIENTS --folds 0 --fusion concatenation
train/signal        training ecg-multimodal $ONE $PATIENTS --folds 0 --views signal --modality-dropout 0
train/ecg           training ecg-mae $ONE $STAGE --run-name ecg
train/cmr           training cmr-mae $ONE $STAGE --run-name cmr
train/both          training ecg-cmr-contrast $ONE $STAGE --run-name both --local \
                    --init-ecg checkpoints/ecg --init-cmr checkpoints/cmr
train/function      training ecg-phenotypes $ONE $STAGE --run-name function --init-ecg checkpoints/both
train/late-seed     training ecg-phenotypes $ONE $STAGE --init-ecg checkpoints/ecg --seed 7
train/cine          training ecg-phenotypes $ONE $STAGE --run-name cine --reads cmr \
                    --init-cmr checkpoints/cmr
train/few           training ecg-phenotypes $ONE $STAGE --run-name few --label-fraction 0.5 \
                    --token-dropout 0.5 --no-covariates --freeze-encoder
train/frames        training cine-autoencoder $ONE $STAGE $FRAMES --run-name frames
train/drawn         training ecg-to-cmr $ONE $STAGE $SAME --run-name drawn --init-ecg checkpoints/both \
                    --init-cmr checkpoints/both --init-autoencoder checkpoints/frames
train/noise         training ecg-to-cmr $ONE $STAGE $SAME --run-name noise --init-ecg checkpoints/both \
                    --init-autoencoder checkpoints/frames --objective noise --tokens leads --shuffle-pairs

evaluate/pcg           evaluate $RUNS/pcg --prevalence 0.1
evaluate/pcg-dry       evaluate $RUNS/pcg --dry-run
evaluate/threshold     evaluate $RUNS/pcg/fold_1/best.pt --threshold validation --compact --results-dir one
evaluate/external      evaluate $RUNS/pcg --cache @1:data/second/*-???????? --compact
evaluate/subsets       evaluate $RUNS/subsets --without ecg --compact
evaluate/pcg-without   evaluate $RUNS/pcg --without ecg
evaluate/paper         evaluate $RUNS/ecg-pcg-pacfnet-paper-small-seed42 --compact
evaluate/final         evaluate $RUNS/final
evaluate/linear        evaluate $RUNS/linear --compact
evaluate/phase-fusion  evaluate $RUNS/phase-fusion --without pcg --compact
evaluate/compare       evaluate --compare results/pcg results/linear --bootstrap-draws 20 --threads 1
evaluate/audit         evaluate --audit --threads 1 --cache @1:data/cache/*physionet2016-*
evaluate/views         evaluate $RUNS/views
evaluate/views-without evaluate $RUNS/views --without image+clinical --compact
evaluate/ecg           evaluate $RUNS/ecg
evaluate/cmr           evaluate $RUNS/cmr
evaluate/both          evaluate $RUNS/both
evaluate/function      evaluate $RUNS/function
evaluate/cine          evaluate $RUNS/cine --compact
evaluate/frames        evaluate $RUNS/frames --patients 6
evaluate/drawn         evaluate $RUNS/drawn $SAMPLED
evaluate/stress        evaluate $RUNS/views --stress

predict/shipped     predict @1:$SOUND/*.hea --threads 1
predict/shipped-json predict @3:$SOUND/*.hea --threads 1 --json --prevalence 0.05
predict/sound       predict @1:$SOUND/*.wav --threads 1 --out predicted/sound
predict/sound-ecg   predict @1:$SOUND/*.wav --ecg @1:$SOUND/*.hea --threads 1 --json
predict/own         predict own/cohort --threads 1 --checkpoint checkpoints/linear
predict/some        predict own/bad.wav @1:$SOUND/*.hea --threads 1 --checkpoint checkpoints/linear --json
predict/pcg         predict @1:$SOUND/*.hea --threads 1 --out predicted/pcg --checkpoint checkpoints/pcg
predict/subsets     predict @1:$SOUND/*.wav --threads 1 --checkpoint checkpoints/subsets --json
predict/final       predict @1:$SOUND/*.hea --threads 1 --checkpoint checkpoints/final --json
predict/phase       predict @2:$SOUND/*.hea --threads 1 --checkpoint checkpoints/phase-fusion --json
predict/views       predict data/raw/sheets --threads 1 --checkpoint checkpoints/views --out predicted/views
predict/views-json  predict data/raw/sheets --threads 1 --checkpoint checkpoints/views --json \
                    --prevalence 0.05
predict/function    predict --ecg @1:data/raw/pairs/ecg/*.hea --checkpoint checkpoints/function --threads 1 \
                    --age 54 --sex female --out predicted/function
predict/functions   predict data/raw/pairs/ecg --checkpoint checkpoints/function --threads 1 --json \
                    --patients data/raw/pairs/pairs.csv
predict/drawn       predict --ecg @1:data/raw/pairs/ecg/*.hea --checkpoint checkpoints/drawn --threads 1 \
                    --steps 2 --samples 2 --out predicted/drawn
predict/drawn-json  predict --ecg @1:data/raw/pairs/ecg/*.hea --checkpoint checkpoints/noise --threads 1 \
                    --steps 2 --samples 2 --out predicted/noise --guidance 2 --json

export/onnx         export --checkpoint checkpoints/pcg --fold 1 --out exported/pcg.onnx --threads 1
export/torch        export --checkpoint checkpoints/subsets --out exported/subsets.pt2 --threads 1
export/dry          export --checkpoint checkpoints/final --threads 1 --dry-run
export/folds        export --checkpoint checkpoints/pcg --threads 1 --dry-run
export/linear       export --checkpoint checkpoints/linear --fold 0 --threads 1
export/views        export --checkpoint checkpoints/views --fold 0 --threads 1
export/ending       export --checkpoint checkpoints/pcg --fold 0 --out a.bin --threads 1

error/option        training --epoch 3
error/task          training ecg-pgc
error/choice        training --protocol people
error/model         training $ONE --model pacnet
error/width         training ecg-multimodal $ONE --width 12
error/no-cache      training ecg-multimodal $ONE --cache-dir nowhere
error/wrong-cache   training ecg-multimodal $ONE --cache @1:data/cache/*physionet2016-*
error/device        training $ONE $PCG --device tpu
error/folds         training $ONE $PCG --folds 9
error/orphan        training ecg-to-cmr $ONE $STAGE
error/parent        training ecg-phenotypes $ONE $STAGE --init-ecg checkpoints/cmr
error/no-data       load_data
error/no-folder     load_data --raw-dir elsewhere
error/no-pairs      load_data ecg-mae --raw-dir own
error/duration      load_data --simulate --simulation.duration 2
error/exclude       load_data --simulate --download
error/no-run        evaluate --checkpoint-dir nowhere
error/no-checkpoint evaluate --checkpoint checkpoints/nothing
error/not-evaluated evaluate --compare results/pcg results/nothing
error/nothing       predict
error/prevalence    predict X --prevalence 1.5
error/bad-sound     predict own/bad.wav --threads 1
error/gone          predict own/gone.wav --threads 1 --json
error/no-torch-file predict own/gone.wav --checkpoint own/bad.wav
error/no-predictor  predict own/bad.wav --checkpoint checkpoints/ecg
error/draws-nothing predict --ecg own/gone.npy --checkpoint checkpoints/ecg --out predicted
error/format        export --checkpoint checkpoints/pcg --format tensorflow
"""
SCRIPTS = ("load_data", "training", "evaluate", "predict", "export")
TASKS = (
    *("ecg-pcg", "ecg-multimodal", "ecg-mae", "cmr-mae", "ecg-cmr-contrast", "ecg-phenotypes"),
    *("cine-autoencoder", "ecg-to-cmr"),
)


def all_calls() -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, script and words of every call; words may still hold patterns of file names."""
    for script in SCRIPTS:
        for task in ("", *TASKS) if script in ("load_data", "training") else ("",):
            yield f"help/{script}{'-' * bool(task)}{task}", script, [*([task] if task else []), "--help"]
    for line in Template(CALLS.replace("\\\n", " ")).substitute(WORDS).splitlines():
        if line.strip():
            name, script, *words = shlex.split(line)
            yield name, script, words


def found(words: Sequence[str]) -> list[str]:
    """Return words in which ``@N:PATTERN`` is replaced by the first N files of that pattern."""
    given = []
    for word in words:
        count, colon, pattern = word.removeprefix("@").partition(":")
        named = word.startswith("@") and colon
        given += sorted(str(path) for path in Path().glob(pattern))[: int(count)] if named else [word]
    return given


# --- how it is called ---------------------------------------------------------------------------------


def call(tree: Path, script: str, words: Sequence[str], place: Path) -> str:
    """Run a script as ``python script.py words`` would, in a forked process; return all that it said."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        become(tree / f"{script}.py", words, place)
    _, status = os.waitpid(child, 0)
    said = "".join(f"--- {name}\n{(place / name).read_text()}\n" for name in ("stdout", "stderr"))
    for name in ("stdout", "stderr"):
        (place / name).unlink()  # helpers that outlive a script may still write to it
    return f"$ {script} {shlex.join(words)}\nexit {os.waitstatus_to_exitcode(status)}\n{said}"


def become(script: Path, words: Sequence[str], place: Path) -> None:
    """Be that script from here on; never return."""
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for stream, name in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        os.environ["PYTHONPATH"] = sys.path[0] = str(script.parent)
        sys.argv = [str(script), *words]
        runpy.run_path(str(script), run_name="__main__")
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):  # as any script ends: helpers are told to stop, their files are removed
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def copy_tree(tree: Path, copy: Path) -> None:
    """Copy what git knows of a checkout, and what it would add, as it lies there."""
    words = ["git", "-C", str(tree), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    for name in filter(None, dict.fromkeys(listed.split("\0"))):
        if (tree / name).is_file() and not name.startswith("results/"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / name, copy / name)


def own_cohort() -> None:
    """Write a cohort as users have it, out of simulated recordings, and a file that is no sound."""
    cohort = Path("own/cohort")
    cohort.mkdir(parents=True)
    Path("own/bad.wav").write_bytes(b"no sound")
    rows = ["recording,person,label,diagnosis,site,quality"]
    for number, header in enumerate(sorted(Path("data/raw/simulated/training-a").glob("*.hea"))[:6]):
        for path in header.parent.glob(f"{header.stem}.*"):
            shutil.copy(path, cohort)
        label = "abnormal" if "Abnormal" in header.read_text() else "normal"
        rows.append(f"{header.stem},P-{number // 2},{label},,Apex,1")
    (cohort / "labels.csv").write_text("\n".join(rows) + "\n")


def own_patients() -> None:
    """Copy simulated patients with their tables as .csv, since an .xlsx knows when it was written."""
    pandas = importlib.import_module("pandas")
    shutil.copytree("data/raw/simulated-patients", "own/patients")
    for path in Path("own/patients").glob("*.xlsx"):
        pandas.read_excel(path).to_csv(path.with_suffix(".csv"), index=False)
        path.unlink()


PREPARED = {"load/pcg": own_cohort, "load/drawn-patients": own_patients}
"""What is done after some calls."""


# --- what is kept -------------------------------------------------------------------------------------

NUMBER = re.compile(
    r"\b[0-9a-f]{64}\b|(?<![\w.])[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w)", re.ASCII
)
BAR = re.compile(r".*?\d+%\|.*?\[.*?\]")
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
MASKS = (
    (r"data:image/\w+;base64,[A-Za-z0-9+/=]+", "<image>"),
    (r"<TREE>/\S+?\.py:\d+", "<TREE>/<file>.py:<line>"),
    (r"(xlsx/patients)-[0-9a-f]{8}", r"\1-<digest>"),
)
"""What differs between two recordings of the same code, everywhere."""
TIMES = (
    (r"\d+(\.\d+)? (s|min|h|MB|GB|kB)\b", r"<number> \2"),
    (r"\d[\d,.]* samples/s", "<number> samples/s"),
    (r"torch \d[\w.+]*, Python \d[\w.]*", "torch <version>, Python <version>"),
)
"""The same, and versions, in what load_data.py, training.py, evaluate.py and export.py say."""
VOLATILE = {"provenance", "versions", "created", "trained_with", "exported_with", "samples_per_second"}
"""Keys of JSON and checkpoints that are left out."""
DATED = {"identity", "source_files"}
"""Those of a cache made from .xlsx, which know when they were written."""


class Item(NamedTuple):
    """Normalized content, and the numbers in it as they follow one another."""

    content: str
    numbers: str


def digest(data: bytes) -> str:
    """Return the SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


class Keeper:
    """Turns what was said and written into items; digests of checkpoints are replaced by their names.

    A checkpoint holds versions and a commit, so that its own digest tells nothing.
    """

    def __init__(self, tree: Path) -> None:
        self.places = {str(tree): "<TREE>", str(Path.cwd()): "<WORK>", sys.prefix: "<PYTHON>"}
        checkpoints = sorted(Path().rglob("*.pt"), reverse=True)
        self.named = {digest(path.read_bytes()): f"<SHA-256 of {path.as_posix()}>" for path in checkpoints}

    def masked(self, text: str, more: Sequence[tuple[str, str]] = ()) -> str:
        """Return text without what is masked."""
        for place, name in self.places.items():
            text = text.replace(place, name)
        for pattern, word in (*MASKS, *more):
            text = re.sub(pattern, word, text)
        return DIGEST.sub(lambda match: self.named.get(match[0], match[0]), text)

    def text(self, text: str, more: Sequence[tuple[str, str]] = ()) -> Item:
        """Return an item of text."""
        content = self.masked(text, more)
        return Item(content, " ".join(NUMBER.findall(content)))

    def nested(self, value: Any) -> Item:
        """Return an item sorted by key; its numbers follow the order in which they were written."""
        content, values = json.dumps(value, indent=1, sort_keys=True), json.dumps(values_of(value))
        found = re.findall(f"{NUMBER.pattern}|true|false|null", self.masked(values), re.ASCII)
        return Item(self.masked(content) + "\n", " ".join(found))

    def table(self, text: str, more: Sequence[tuple[str, str]] = ()) -> Item:
        """Return an item of a table: whatever is below its first line, who is in which part too, counts."""
        content = self.masked(text, more)
        return Item(content, content.partition("\n")[2])

    def said(self, name: str, text: str) -> Item:
        """Return what a call said, without bars of progress and places in the code."""
        lines = [BAR.sub("", line).rstrip() for line in re.split(r"[\r\n]", text)]
        lines = [line for line in lines if line]
        if any(line.startswith("Traceback") for line in lines):
            lines = [line for line in lines if not line.startswith("  ")]
        return self.text("\n".join(lines) + "\n", () if name.startswith(("predict", "help")) else TIMES)

    def file(self, path: Path) -> Item:
        """Return what is kept of a file that a call has written."""
        dated = DATED if "xlsx/" in path.as_posix() else set()
        if "tfevents" in path.name:
            return self.nested(events_of(path))
        if path.suffix in READERS:
            return self.nested(plain(READERS[path.suffix](path), VOLATILE | dated))
        if path.suffix == ".html":  # what a reader sees: tags and style may be written in other ways
            page = re.sub(r"(?s)<style>.*?</style>|<[^>]*>", " ", path.read_text(encoding="utf-8"))
            return self.text(
                "\n".join(line.strip() for line in html.unescape(page).splitlines() if line.strip())
            )
        if path.suffix in (".csv", ".md", ".txt"):
            more = [(r"patients-\w{8}", "patients-<digest>")] if dated else []
            keep = self.table if path.suffix == ".csv" else self.text
            return keep(path.read_text(encoding="utf-8"), more)
        if path.suffix in (".png", ".xlsx"):
            return Item("a file\n", "")
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        return self.text(f"{len(data)} bytes, {digest(data)}\n")

    def files(self) -> dict[str, Item]:
        """Return all files below the working folder; event files have the name of their folder."""
        items = {}
        for path in sorted(path for path in Path().rglob("*") if path.is_file() and path.parts[0] != "own"):
            name = path.parent / "events" if "tfevents" in path.name else path
            items[f"file/{self.masked(name.as_posix())}"] = self.file(path)
        return items


def plain(value: Any, left_out: set[str]) -> Any:
    """Return a value of JSON or of a checkpoint without some keys; tensors by dtype, shape and digest."""
    if isinstance(value, dict):
        return {str(key): plain(item, left_out) for key, item in value.items() if key not in left_out}
    if isinstance(value, list | tuple):
        return [plain(item, left_out) for item in value]
    if hasattr(value, "untyped_storage"):
        data = value.detach().flatten().contiguous().view(importlib.import_module("torch").uint8)
        return f"{value.dtype} {list(value.shape)} {digest(data.numpy().tobytes())}"
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


def values_of(value: Any) -> list[Any]:
    """Return the values in a nested value, without keys."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [one for item in parts for one in values_of(item)]
    return [value]


def events_of(path: Path) -> Any:
    """Return tags and values of an event file of TensorBoard."""
    module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = module.EventAccumulator(str(path), {"scalars": 0, "tensors": 0, "images": 1}).Reload()
    tags, texts = events.Tags(), {}
    for tag in tags["tensors"]:
        found = [value for event in events.Tensors(tag) for value in event.tensor_proto.string_val]
        texts[tag] = [value.decode() for value in found]
    steady = [tag for tag in tags["scalars"] if "per_second" not in tag]
    scalars = {tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in steady}
    return {"scalars": scalars, "texts": texts, "images": tags["images"]}


def read_onnx(path: Path) -> Any:
    """Return what an exported network says of itself, and the names and sizes of what goes in and out."""
    network = importlib.import_module("onnx").load(str(path))
    ends = {"in": network.graph.input, "out": network.graph.output}
    facts: dict[str, Any] = {item.key: item.value for item in network.metadata_props}
    for way, values in ends.items():
        sizes = {value.name: value.type.tensor_type.shape.dim for value in values}
        facts[way] = {name: [one.dim_param or one.dim_value for one in size] for name, size in sizes.items()}
    return facts


def read_program(path: Path) -> Any:
    """Return what an exported program of torch says of itself."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("facts.json"))
        return json.loads(archive.read(name))


def read_checkpoint(path: Path) -> Any:
    """Return a checkpoint."""
    return importlib.import_module("torch").load(path, map_location="cpu", weights_only=True)


READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    **{".pt": read_checkpoint, ".onnx": read_onnx, ".pt2": read_program},
}


def record(tree: Path, out: Path) -> None:
    """Call everything with the code of a tree, and write down what was said and written."""
    out, before, started = out.resolve(), Path.cwd(), time.perf_counter()
    root = tempfile.mkdtemp(prefix="goldens-")  # no TemporaryDirectory: forked processes would take it away
    copy, work, place = (Path(root) / name for name in ("tree", "work", "said"))
    try:
        copy_tree(tree.resolve(), copy)
        work.mkdir()
        place.mkdir()
        os.chdir(work)
        said = call_everything(copy, place)
        keeper = Keeper(copy)
        items = {f"call/{name}": keeper.said(name, text) for name, text in said.items()} | keeper.files()
    finally:
        os.chdir(before)
        shutil.rmtree(root, ignore_errors=True)
    write(out, items)
    print(f"{len(items)} items in {out}, {time.perf_counter() - started:.0f} s.")


def call_everything(tree: Path, place: Path) -> dict[str, str]:
    """Call every script with all its words; return what was said.

    Help comes first, from processes that import all that a script needs; the others start from one that has.
    """
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    said: dict[str, str] = {}
    search = list(sys.path)
    for name, script, words in all_calls():
        if not name.startswith("help") and sys.path == search:
            sys.path[0] = str(tree)
            for warm in SCRIPTS:
                runpy.run_path(str(tree / f"{warm}.py"), run_name="warm")
        started = time.perf_counter()
        said[name] = call(tree, script, found(words), place)
        print(f"{time.perf_counter() - started:6.1f} s  {name}: {said[name].splitlines()[1]}", flush=True)
        PREPARED.get(name, lambda: None)()
    return said


def write(out: Path, items: dict[str, Item]) -> None:
    """Write goldens.json, and the contents beside it."""
    shutil.rmtree(out / "content", ignore_errors=True)
    table = {}
    for name, item in items.items():
        path = out / "content" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(item.content, encoding="utf-8")
        table[name] = {"content": digest(item.content.encode()), "numbers": digest(item.numbers.encode())}
    (out / "goldens.json").write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


# --- how two recordings differ ------------------------------------------------------------------------

WORSE = ("DIFFERENT", "missing")


def verdict(old: dict[str, str] | None, new: dict[str, str] | None) -> str:
    """Return how an item of one recording stands to that of another."""
    if old is None or new is None:
        return "new" if old is None else "missing"
    if old["content"] == new["content"]:
        return "same"
    return "words differ, numbers same" if old["numbers"] == new["numbers"] else "DIFFERENT"


def compare(old: Path, new: Path, *, every: bool = False) -> bool:
    """Print how two recordings differ; return whether nothing is different or missing."""
    tables = [json.loads((place / "goldens.json").read_text(encoding="utf-8")) for place in (old, new)]
    names = sorted(set(tables[0]) | set(tables[1]))
    verdicts = {name: verdict(*(table.get(name) for table in tables)) for name in names}
    for name, word in verdicts.items():
        if every or word != "same":
            print(f"{word:27} {name}")
    counts = {word: list(verdicts.values()).count(word) for word in dict.fromkeys(verdicts.values())}
    print(f"{len(names)} items: " + ", ".join(f"{count} {word}" for word, count in counts.items()) + ".")
    return not any(word in WORSE for word in verdicts.values())


def show_difference(old: Path, new: Path, name: str) -> bool:
    """Print the difference of one item; return whether there is none."""
    paths = [place / "content" / f"{name}.txt" for place in (old, new)]
    texts = [path.read_text(encoding="utf-8").splitlines() if path.is_file() else [] for path in paths]
    lines = list(difflib.unified_diff(texts[0], texts[1], str(old), str(new), lineterm=""))
    print("\n".join(lines) or "No difference.")
    return not lines


def against(revision: str) -> bool:
    """Record a revision and the working tree that this file lies in, and compare them."""
    here = Path(__file__).resolve().parents[1]
    root = Path(tempfile.mkdtemp(prefix="goldens-against-"))
    git = ["git", "-C", str(here), "worktree"]
    subprocess.run([*git, "add", "--detach", "--quiet", str(root / "tree"), revision], check=True)
    again = [
        sys.executable,
        str(Path(__file__).resolve()),
        "record",
    ]  # a process has modules of one tree only
    try:
        subprocess.run([*again, str(root / "tree"), str(root / "old")], check=True)
    finally:
        subprocess.run([*git, "remove", "--force", str(root / "tree")], check=True)
    subprocess.run([*again, str(here), str(root / "new")], check=True)
    print(f"Recordings: {root / 'old'} {root / 'new'}")
    return compare(root / "old", root / "new")


def main() -> None:
    """Do what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record")
    one.add_argument("tree", type=Path)
    one.add_argument("out", type=Path)
    two = commands.add_parser("compare")
    two.add_argument("old", type=Path)
    two.add_argument("new", type=Path)
    two.add_argument("--diff", metavar="NAME", help="show how one item differs")
    two.add_argument("--all", action="store_true", help="list what is the same, too")
    commands.add_parser("against").add_argument("revision")
    given = parser.parse_args()
    if given.command != "compare" and any(os.environ.get(key) != value for key, value in ENVIRONMENT.items()):
        kept = {key: value for key, value in os.environ.items() if key not in FOREIGN}
        os.execve(sys.executable, [sys.executable, *sys.argv], kept | ENVIRONMENT)
    if given.command == "record":
        record(given.tree, given.out)
    elif given.command == "against":
        sys.exit(not against(given.revision))
    elif given.diff:
        sys.exit(not show_difference(given.old, given.new, given.diff))
    else:
        sys.exit(not compare(given.old, given.new, every=given.all))


if __name__ == "__main__":
    main()
