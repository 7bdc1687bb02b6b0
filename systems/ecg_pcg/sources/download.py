"""Fetch PhysioNet/CinC Challenge 2016: checked against the published checksums, resumable.

`wfdb` does the transfer; this file adds what it leaves out: a checksum for every file, no file under
its final name before it is complete and right, a time limit, retries, and resuming.
"""

from __future__ import annotations

import errno
import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter
from tqdm import tqdm
from wfdb.io import _url

from common.files import replacing
from datasets.sources import DataError, Problem

_PHYSIONET2016_URL = "https://physionet.org/files/challenge-2016/1.0.0"
_SETS = ("a", "b", "c", "d", "e", "f")
_RELEASE_SUMS = "SHA256SUMS.txt"
_FOLDER_SUMS = "SHA256SUMS"
_SUMS_LINE = re.compile(r"(?P<sum>[0-9a-fA-F]{64})[ \t]+\*?(?P<name>\S.*?)\s*")
_ANNOTATION_TABLES = (
    "annotations/Online_Appendix_training_set.csv",
    "annotations/Online_Appendix_Diagnosis_meanings.csv",
)
_SET_TABLES = ("training-{set}/REFERENCE-SQI.csv", "annotations/updated/training-{set}/REFERENCE_withSQI.csv")
_RECORDING_ANNOTATIONS = (
    "annotations/hand_corrected/training-{set}_StateAns/{recording}_StateAns.mat",
    "annotations/springer_alg/training-{set}-Aut/{recording}_StateAns0.mat",
)
_RERUN = "What was fetched is kept: run the same command again to continue."
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_BUSY = (408, 425, 429)  # beside all from 500: answers after which asking again makes sense


@dataclass(frozen=True)
class _Server:
    """Where files come from, and how patiently to ask."""

    base_url: str  # address of the release, without a slash at the end
    attempts: int  # how often a file is asked for before giving up
    pause: float  # seconds before the second attempt, doubled for each further one

    def address(self, name: str) -> str:
        """Return the address of a file of the release."""
        return f"{self.base_url}/{quote(name)}"

    def read(self, name: str) -> bytes:
        """Return the content of a file, asking again when the server is busy or the line is cut.

        Raises
        ------
        FileNotFoundError
            If the server does not have the file.
        DataError
            If the server cannot be reached, or refuses.
        """
        reason = "nothing was tried"
        for attempt in range(self.attempts):
            time.sleep(self.pause * 2 ** (attempt - 1) if attempt else 0)
            try:
                with _url.openurl(self.address(name), "rb") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                raise
            except OSError as error:  # the errors of wfdb and of requests are all of this kind
                reason = _reason(error)
                status = getattr(error, "status_code", None)
                if status is not None and status < 500 and status not in _BUSY:
                    break
        raise DataError(f"Could not fetch {self.address(name)}: {reason}. {_RERUN}")


class _TimeLimit(HTTPAdapter):
    """Transport with a time limit; `wfdb` sets none, so a silent server would hold it for ever."""

    def __init__(self, seconds: float, connections: int) -> None:
        self.seconds = seconds
        super().__init__(pool_maxsize=connections, pool_block=True)

    def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        return super().send(request, *arguments, **{**options, "timeout": self.seconds})


def _reason(error: OSError) -> str:
    """Say in a few words what went wrong on the way."""
    if getattr(error, "status_code", None) is not None:
        return str(error).split(" for url")[0]
    if isinstance(error, requests.Timeout):
        return "the server does not answer in time"
    if isinstance(error, requests.ConnectionError) and not isinstance(error, requests.exceptions.SSLError):
        return "no connection to the server"
    return f"the transfer failed ({error})"


def download_physionet2016(
    raw_dir: Path,
    sets: Sequence[str],
    base_url: str = _PHYSIONET2016_URL,
    *,
    jobs: int = 2,
    attempts: int = 4,
    pause: float = 1.0,
    timeout: float = 60.0,
    progress: bool = True,
) -> list[Problem]:
    """Fetch training sets and their annotations, in the layout of the release.

    Files that are present with the right checksum are not fetched again. A file whose checksum is
    wrong is replaced; if the server's own copy is wrong too, it is removed and named.

    Parameters
    ----------
    raw_dir : pathlib.Path
        Folder that gets ``training-a`` ... and ``annotations``; made if it is absent.
    sets : sequence of str
        Letters of the sets, ``a`` to ``f``.
    base_url : str
        Address of the release.
    jobs : int
        Files fetched at the same time (PhysioNet's own client uses two).
    attempts, pause : int, float
        How often each file is asked for, and the seconds before the second attempt (then doubled).
    timeout : float
        Seconds without any answer after which an attempt has failed.
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of Problem
        Files that could not be had or not be verified; everything else is complete.

    Raises
    ------
    DataError
        If the server cannot be reached, lacks a set, lists unsafe paths, or the disk refuses.
    """
    unknown = sorted(set(sets) - set(_SETS))
    if unknown or not sets:
        raise ValueError(f"Unknown sets {unknown or list(sets)}: choose from {', '.join(_SETS)}.")
    server = _Server(base_url.rstrip("/"), attempts, pause)
    _url._get_session().mount(server.base_url, _TimeLimit(timeout, jobs))
    sums, problems = _expected_files(server, sorted(set(sets)))

    def task(name: str) -> Problem | None:
        return _fetch(server, raw_dir, name, sums[name])

    return problems + _in_parallel(task, sorted(sums), jobs, progress)


def _expected_files(server: _Server, sets: Sequence[str]) -> tuple[dict[str, str], list[Problem]]:
    """Return the checksum of each file to have; an empty one where the server publishes none."""
    release = _read_sums(server, _RELEASE_SUMS)
    sums: dict[str, str] = {}
    for letter in sets:
        inside = f"training-{letter}/"
        own = {name: value for name, value in release.items() if name.startswith(inside)}
        sums |= own or _folder_files(server, inside)
    annotations = {name: value for name, value in release.items() if _annotates(name, sets)}
    if annotations:
        return sums | annotations, []
    names = _guess_names(sums, sets)
    what = f"The server has no {_RELEASE_SUMS}, so {len(names)} files could not be verified."
    unverified = Problem("annotations", what, f"Where it matters, fetch them from {_PHYSIONET2016_URL}")
    return dict.fromkeys(names, "") | sums, [unverified]


def _read_sums(server: _Server, name: str) -> dict[str, str]:
    """Return the list of checksums by file, empty if the server has none; refuse unsafe paths."""
    try:
        content = server.read(name)
    except FileNotFoundError:
        return {}
    sums: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
        matched, where = _SUMS_LINE.fullmatch(line), f"line {number} of {server.address(name)}"
        if not line.strip():
            continue
        if not matched:
            raise DataError(f"Not a list of SHA-256 sums: {where} is {line[:60]!r}. Check the address.")
        path = matched["name"].removeprefix("./")
        if not _is_safe(path):
            raise DataError(f"Refused: {where} names {path!r}, which leads out of the data folder.")
        sums[path] = matched["sum"].lower()
    return sums


def _is_safe(name: str) -> bool:
    """Tell whether a path stays inside the folder it is appended to, on any system."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and not re.search(r"[\\:\x00-\x1f]", name)


def _folder_files(server: _Server, inside: str) -> dict[str, str]:
    """Return the checksums that a set's own list gives."""
    own = _read_sums(server, inside + _FOLDER_SUMS)
    if not own:
        lists = f"neither {_RELEASE_SUMS} nor {inside}{_FOLDER_SUMS}"
        raise DataError(f"{server.base_url} has {lists}: check the address (official: {_PHYSIONET2016_URL}).")
    return {inside + name: value for name, value in own.items()} | {inside + _FOLDER_SUMS: ""}


def _annotates(name: str, sets: Sequence[str]) -> bool:
    """Tell whether a file belongs to the annotations of these sets, or to those of all sets."""
    if not name.startswith("annotations/"):
        return False
    letter = re.search(r"/training-([a-z])(?![a-z])", name)
    return letter is None or letter[1] in sets


def _guess_names(sums: dict[str, str], sets: Sequence[str]) -> list[str]:
    """Return the files that a set's own list leaves out, named after its recordings."""
    names = list(_ANNOTATION_TABLES)
    for letter in sets:
        headers = [name for name in sums if re.fullmatch(rf"training-{letter}/[^/]+\.hea", name)]
        for recording in (Path(header).stem for header in headers):
            names += [pattern.format(set=letter, recording=recording) for pattern in _RECORDING_ANNOTATIONS]
        names += [pattern.format(set=letter) for pattern in _SET_TABLES]
    return names


def _fetch(server: _Server, raw_dir: Path, name: str, expected: str) -> Problem | None:
    """Make sure that one file is there, complete and right."""
    path = raw_dir / name
    with _disk_errors(path):
        if path.is_file() and expected in ("", _sha256(path.read_bytes())):
            return None
        path.unlink(missing_ok=True)
    for _ in range(2):
        try:
            content = server.read(name)
        except FileNotFoundError:
            return Problem(name, f"The server has no such file: {server.address(name)}", "Try again later.")
        if expected in ("", _sha256(content)):
            with _disk_errors(path), replacing(path) as unfinished:
                unfinished.write_bytes(content)
            return None
    return Problem(
        name,
        "The server's file does not have the published SHA-256 sum, twice; it was not kept.",
        "Run the same command again later, or fetch the file from another mirror.",
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn the disk's refusals into one clear sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL_DISK:
            raise DataError(f"No space left for {path}: free some space. {_RERUN}") from error
        raise DataError(f"Cannot write {path}: {error.strerror}. Choose another --raw-dir.") from error


def _in_parallel(
    task: Callable[[str], Problem | None], names: Sequence[str], jobs: int, progress: bool
) -> list[Problem]:
    """Run the task for each name; the first error stops the rest."""
    problems = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            running = [pool.submit(task, name) for name in names]
            done = as_completed(running)
            for future in tqdm(done, "download", len(names), unit="file", disable=not progress):
                problems.append(future.result())
        except BaseException:  # an interrupt too: what has not begun is not begun
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return sorted((problem for problem in problems if problem), key=lambda problem: problem.where)
