"""The downloader against a small server on this machine that serves, breaks and lies on demand."""

import errno
import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from datasets.sources import DataError
from systems.ecg_pcg.sources.download import download_physionet2016

RECORDINGS = {"a": ("a0001", "a0002", "a0003"), "b": ("b0001", "b0002")}


def make_release(root: Path) -> Path:
    """Write a tiny release in the published layout, with both kinds of checksum lists."""
    for letter, names in RECORDINGS.items():
        folder = f"training-{letter}"
        files = {f"{folder}/{name}.hea": f"{name} 1 2000 9\n" for name in names}
        files |= {f"{folder}/{name}.wav": name * 200 for name in names}
        files |= {f"{folder}/RECORDS": "\n".join(names), f"{folder}/REFERENCE.csv": "".join(names)}
        write_files(root, files)
        (root / folder / "SHA256SUMS").write_text(sums_of(root / folder, sorted((root / folder).iterdir())))
        extra = {f"{folder}/REFERENCE-SQI.csv": f"{letter},1,1"}
        extra |= {
            f"annotations/hand_corrected/{folder}_StateAns/{n}_StateAns.mat": f"hand {n}" for n in names
        }
        extra |= {f"annotations/springer_alg/{folder}-Aut/{n}_StateAns0.mat": f"auto {n}" for n in names}
        write_files(
            root, extra | {f"annotations/updated/{folder}/REFERENCE_withSQI.csv": f"updated {letter}"}
        )
    tables = ("training_set", "Diagnosis_meanings")
    files = {f"annotations/Online_Appendix_{name}.csv": name for name in tables}
    write_files(root, files | {"validation/a0001.wav": "not asked for"})
    (root / "SHA256SUMS.txt").write_text(sums_of(root, sorted(p for p in root.rglob("*") if p.is_file())))
    return root


def write_files(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def sums_of(root: Path, files: list[Path]) -> str:
    return "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()} {f.relative_to(root)}\n" for f in files)


def tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


class Site:
    """A server; `faults` maps a path to what it does instead of answering, once for each entry."""

    broken_after: int | None = None

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: Counter[str] = Counter()
        self.faults: dict[str, list[Callable]] = {}
        site = self

        class Handler(SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def __init__(self, *arguments):
                super().__init__(*arguments, directory=str(site.root))

            def do_GET(self):
                name = self.path.lstrip("/")
                site.requests[name] += 1
                if site.broken_after is not None and sum(site.requests.values()) > site.broken_after:
                    self.send_error(503)
                elif site.faults.get(name):
                    site.faults[name].pop(0)(self)
                else:
                    super().do_GET()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def fetch(self, raw_dir: Path, sets="a", **options):
        options = {"pause": 0.001, "timeout": 5, "progress": False, **options}
        return download_physionet2016(raw_dir, sets, self.url, **options)


def status(code):
    return lambda handler: handler.send_error(code)


def body(content: bytes, announced: int | None = None):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if announced is None else announced))
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = True

    return answer


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site(make_release(tmp_path / "release"))
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def raw(tmp_path):
    return tmp_path / "deep" / "raw"


def test_a_set_arrives_complete_and_without_the_others(site, raw):
    assert site.fetch(raw) == []
    expected = {n: c for n, c in tree(site.root).items() if "validation" not in n and "training-b" not in n}
    assert tree(raw) | {"SHA256SUMS.txt": expected["SHA256SUMS.txt"]} == expected
    assert len(expected) == 20


def test_two_sets_arrive_in_one_go(site, raw):
    assert site.fetch(raw, ["b", "a"]) == []
    assert {p.name for p in (raw / "training-b").glob("*.wav")} == {"b0001.wav", "b0002.wav"}
    assert {p.name for p in raw.glob("annotations/springer_alg/*")} == {"training-a-Aut", "training-b-Aut"}


def test_a_second_run_fetches_nothing_but_the_list(site, raw):
    site.fetch(raw)
    site.requests.clear()
    assert site.fetch(raw) == []
    assert site.requests == {"SHA256SUMS.txt": 1}


def test_an_interrupted_download_resumes_where_it_stopped(site, raw):
    site.broken_after = 9
    with pytest.raises(DataError, match="run the same command again"):
        site.fetch(raw, jobs=1)
    assert sum(site.requests.values()) <= 9 + 3 * 4  # the others are not even tried
    kept = tree(raw)
    assert len(kept) == 8
    assert not any(name.endswith(".tmp") for name in kept)
    site.broken_after = None
    site.requests.clear()
    assert site.fetch(raw) == []
    assert not set(site.requests) & set(kept)
    assert sum(site.requests.values()) == 1 + 19 - 8


@pytest.mark.parametrize("damage", [b"", b"a0001", b"x" * 1000, b"a0001" * 200 + b"more"])
def test_a_damaged_file_is_fetched_again_and_nothing_else(site, raw, damage):
    site.fetch(raw)
    (raw / "training-a" / "a0001.wav").write_bytes(damage)
    site.requests.clear()
    assert site.fetch(raw) == []
    assert (raw / "training-a" / "a0001.wav").read_bytes() == b"a0001" * 200
    assert site.requests == {"SHA256SUMS.txt": 1, "training-a/a0001.wav": 1}


def test_a_wrong_checksum_is_named_and_the_file_is_not_kept(site, raw):
    site.fetch(raw)
    for root in (site.root, raw):
        (root / "training-a" / "a0002.wav").write_text("not what was published")
    (problem,) = site.fetch(raw)
    assert problem.where == "training-a/a0002.wav"
    assert "SHA-256" in problem.what
    assert not (raw / "training-a" / "a0002.wav").exists()
    assert (raw / "training-a" / "a0003.wav").exists()
    assert site.requests["training-a/a0002.wav"] == 1 + 2


def test_a_checksum_that_is_wrong_once_is_no_problem(site, raw):
    site.faults["training-a/a0001.wav"] = [body(b"garbled on the way")]
    assert site.fetch(raw) == []
    assert (raw / "training-a" / "a0001.wav").read_bytes() == b"a0001" * 200


@pytest.mark.parametrize("fault", [status(503), status(500), status(429), body(b"a0001", announced=1000)])
def test_a_transient_fault_is_survived(site, raw, fault):
    site.faults = {"training-a/a0001.wav": [fault, fault], "SHA256SUMS.txt": [status(502)]}
    assert site.fetch(raw) == []
    assert (raw / "training-a" / "a0001.wav").read_bytes() == b"a0001" * 200
    assert site.requests["training-a/a0001.wav"] == 3


@pytest.mark.parametrize(("code", "asked"), [(503, 3), (403, 1), (410, 1)])
def test_a_lasting_error_says_what_and_where(site, raw, code, asked):
    site.faults["training-a/a0001.wav"] = [status(code)] * 9
    with pytest.raises(DataError, match=rf"127\.0\.0\.1:\d+/training-a/a0001\.wav: {code}"):
        site.fetch(raw, attempts=3)
    assert site.requests["training-a/a0001.wav"] == asked
    assert not (raw / "training-a" / "a0001.wav").exists()


def test_a_file_the_server_lacks_is_named_and_the_rest_arrives(site, raw):
    (site.root / "annotations/springer_alg/training-a-Aut/a0002_StateAns0.mat").unlink()
    (problem,) = site.fetch(raw)
    assert problem.where == "annotations/springer_alg/training-a-Aut/a0002_StateAns0.mat"
    assert len(tree(raw)) == 18


def test_a_server_that_is_down_says_so(site, raw):
    site.server.shutdown()
    site.server.server_close()
    with pytest.raises(DataError, match=r"no connection to the server.*again"):
        site.fetch(raw, attempts=2)
    assert not raw.exists()


def test_a_silent_server_does_not_hold_for_ever(site, raw):
    give_up, waited = threading.Event(), []
    site.faults["SHA256SUMS.txt"] = [lambda _: waited.append(give_up.wait(120))] * 2
    with pytest.raises(DataError, match="in time"):
        site.fetch(raw, timeout=0.1, attempts=2)
    assert not waited, "the server is silent still"
    give_up.set()


def test_a_wrong_address_is_a_clear_error(site, raw):
    site.url += "/elsewhere"
    with pytest.raises(DataError, match=r"neither SHA256SUMS\.txt nor training-a/SHA256SUMS.*official"):
        site.fetch(raw)


def test_a_page_in_place_of_the_list_is_a_clear_error(site, raw):
    (site.root / "SHA256SUMS.txt").write_text("<html>Please log in</html>")
    with pytest.raises(DataError, match=r"Not a list of SHA-256 sums: line 1.*log in"):
        site.fetch(raw)


EVIL = ["../evil.txt", "training-a/../../evil.txt", "/etc/evil.txt", "training-a/..\\evil.txt", "C:/evil.txt"]


@pytest.mark.parametrize("path", EVIL)
@pytest.mark.parametrize("table", ["SHA256SUMS.txt", "training-a/SHA256SUMS"])
def test_a_path_that_leaves_the_folder_is_refused(site, raw, tmp_path, path, table):
    if table != "SHA256SUMS.txt":
        (site.root / "SHA256SUMS.txt").unlink()
    with (site.root / table).open("a") as file:
        file.write(f"{hashlib.sha256(b'evil').hexdigest()}  {path}\n")
    with pytest.raises(DataError, match=r"Refused: line \d+ of .*evil"):
        site.fetch(raw)
    assert not raw.exists()
    assert not list(tmp_path.rglob("evil.txt"))


def test_without_the_release_list_the_folder_list_and_the_recordings_are_enough(site, raw):
    site.fetch(raw)
    complete = tree(raw)
    (site.root / "SHA256SUMS.txt").unlink()
    (problem,) = site.fetch(other := raw.parent / "other")
    assert tree(other) == complete
    assert problem.where == "annotations"
    assert "could not be verified" in problem.what
    (other / "training-a" / "a0001.wav").write_bytes(b"damaged")
    site.fetch(other)
    assert tree(other) == complete


def test_a_full_disk_stops_with_one_sentence_and_leaves_no_rest(site, raw, monkeypatch):
    write = Path.write_bytes

    def write_half(path, content):
        write(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(DataError, match=r"No space left for .*again to continue"):
        site.fetch(raw)
    assert tree(raw) == {}


def test_a_folder_that_cannot_be_made_is_named(site, raw):
    raw.parent.mkdir(parents=True)
    raw.write_text("a file is in the way")
    with pytest.raises(DataError, match=r"Cannot write .*raw.*--raw-dir"):
        site.fetch(raw)


@pytest.mark.parametrize("sets", [[], ["g"], ["training-b"]])
def test_unknown_sets_are_refused(raw, sets):
    with pytest.raises(ValueError, match="choose from a, b, c, d, e, f"):
        download_physionet2016(raw, sets)


def test_the_bar_counts_files(site, raw, capsys):
    site.fetch(raw, progress=True)
    assert "19/19" in capsys.readouterr().err
