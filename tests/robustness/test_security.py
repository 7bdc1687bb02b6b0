"""Security: no input is executed, one file uses the network, and versions are pinned."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not any(
        part.startswith((".", "__")) or part in ("data", "checkpoints", "runs")
        for part in path.relative_to(ROOT).parts
    )
]
PRODUCT = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]
BANNED_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "shelve",
    "marshal",
    "yaml",
    "tarfile",
}
"""Readers that execute their input; ``zipfile`` is only for its error (see below)."""
BANNED_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "pd.read_pickle",
    "pandas.read_pickle",
    "joblib.load",
    "joblib.dump",
    "os.system",
    "os.popen",
    "torch.hub.load",
    "zipfile.ZipFile",
    "shutil.unpack_archive",
    "tempfile.mktemp",
    "np.fromregex",
}
READERS = {
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
}
"""Readers that are safe with one option only, and not by default everywhere."""


def dotted(node: ast.expr) -> str:
    """Return the name of what is called, such as ``np.load``."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults_of(source: str) -> list[str]:
    """Return what a source does and should not."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [
                f"imports {name.name}" for name in node.names if name.name.split(".")[0] in BANNED_MODULES
            ]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in BANNED_MODULES:
            found.append(f"imports {node.module}")
        if isinstance(node, ast.Call):
            found += [f"line {node.lineno}: {fault}" for fault in call_faults(node)]
    return found


def call_faults(node: ast.Call) -> list[str]:
    """Return what is wrong with one call."""
    name = dotted(node.func)
    options = {item.arg: item.value for item in node.keywords}

    def is_set(option: str, value: bool) -> bool:
        given = options.get(option)
        return isinstance(given, ast.Constant) and given.value is value

    found = [f"calls {name}"] if name in BANNED_CALLS else []
    if name in READERS and not is_set(*READERS[name]):
        found.append(f"{name} without {READERS[name][0]}={READERS[name][1]}")
    if "shell" in options and not is_set("shell", False):
        found.append(f"{name} with a shell")
    if is_set("allow_pickle", True) or is_set("verify", False):
        found.append(f"{name} with an unsafe option")
    return found


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_input_is_executed(path):
    assert faults_of(path.read_text(encoding="utf-8")) == []


def test_all_sources_are_checked():
    names = {path.relative_to(ROOT).as_posix() for path in PRODUCT}
    assert {
        "training.py",
        "evaluate.py",
        "load_data.py",
        "datasets/cache.py",
        "learning/checkpoint.py",
    } <= names


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import yaml.reader",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=safe)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.savez(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "eval(text)",
        "subprocess.run(command, shell=True)",
        "subprocess.run(command, shell=flag)",
        "requests.get(address, verify=False)",
        "zipfile.ZipFile(path).extractall()",
    ],
)
def test_the_search_finds_what_it_is_for(source):
    assert len(faults_of(source)) >= 1


def test_the_search_lets_safe_calls_pass():
    safe = [
        "torch.load(p, weights_only=True)",
        "np.load(p, mmap_mode='r', allow_pickle=False)",
        "model.eval()",
    ]
    assert faults_of("; ".join([*safe, "re.compile('a')", "subprocess.run(['git'])"])) == []


# What is fetched, and what is depended on -----------------------------------------------------------


def test_only_the_downloader_uses_the_network():
    """Whoever opens a connection has to check paths and sums as systems/ecg_pcg/sources/download.py does."""
    network = {"requests", "urllib", "http", "socket", "ftplib", "wfdb.io"}
    talking = set()
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            talking |= {path.relative_to(ROOT).as_posix() for name in names if name.split(".")[0] in network}
    # the lock of a run names the machine; a process that is reported to end wakes its own thread by sockets
    assert talking <= {"systems/ecg_pcg/sources/download.py", "learning/runs.py", "learning/distributed.py"}


REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+(\[[\w,]+\])?>=\d[\w.]*,<\d[\w.]*")


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda path: path.name)
def test_requirements_are_pinned_from_below_and_above(path):
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    requested = [line for line in lines if line and not line.startswith("-r ")]
    assert requested
    assert [line for line in requested if not REQUIREMENT.fullmatch(line)] == []


def test_every_package_that_is_imported_is_required():
    """A package that comes along with another today may not tomorrow."""
    import sys

    required = set()
    for path in ROOT.glob("requirements*.txt"):
        required |= {
            re.split(r"[\[>=<]", line)[0].lower()
            for line in path.read_text().splitlines()
            if line[:1].isalpha()
        }
    import_names = {"scikit-learn": "sklearn", "pillow": "PIL", "pytest-xdist": "xdist"}
    allowed = {import_names.get(name, name) for name in required} | sys.stdlib_module_names
    allowed |= {path.stem for path in ROOT.glob("*.py")} | {
        path.name for path in ROOT.iterdir() if path.is_dir()
    }
    imported: dict[str, str] = {}
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            imported |= {name.split(".")[0]: path.name for name in names}
    assert {name: where for name, where in imported.items() if name not in allowed} == {}
