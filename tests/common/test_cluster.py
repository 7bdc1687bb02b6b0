"""Preparation on a Dask cluster of two workers gives the very files that one process gives."""

import importlib
import sys
from typing import Any

import pytest

from common import cluster as module
from common.errors import UserError
from load_data import main

distributed = pytest.importorskip("distributed")
QUIET: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "silence_logs": 50}


@pytest.fixture(scope="module")
def cluster():
    """Return a cluster of two processes on this machine."""
    with distributed.LocalCluster(n_workers=2, processes=True, threads_per_worker=1, **QUIET) as running:
        yield running


def arrays_and_tables(path):
    """Return what was prepared, without what other tests derived from it since."""
    files = [file for file in path.iterdir() if not file.name.startswith(("manifest", "derived"))]
    return {file.name: file.read_bytes() for file in files}


def test_the_cache_is_the_same_file_by_file(cluster, simulated_raw, simulated_cache, tmp_path, capsys):
    options = ["--raw-dir", str(simulated_raw), "--cache-dir", str(tmp_path)]
    path = main([*options, "--dask", cluster.scheduler_address])
    assert "30 recordings kept" in capsys.readouterr().out
    assert arrays_and_tables(path) == arrays_and_tables(simulated_cache.path)
    assert path.name == simulated_cache.path.name
    done = [key for key, _, end, *_ in cluster.scheduler.transition_log if end == "memory"]
    assert sum("prepare_recording" in str(key) for key in done) >= 8, done  # the work was done there


def test_another_task_is_prepared_there_too(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--simulation.patients", "6", "--simulate", "--cache-dir", str(tmp_path / "cache")]
    there = main(["ecg-multimodal", *options, "--raw-dir", "raw", "--dask", cluster.scheduler_address])
    here = main(["ecg-multimodal", *options[:-1], str(tmp_path / "other"), "--raw-dir", "raw", "--jobs", "1"])
    assert arrays_and_tables(there) == arrays_and_tables(here)


def test_a_cluster_needs_a_folder_it_can_see(cluster, tmp_path):
    with pytest.raises(UserError, match="--dask needs --raw-dir PATH"):
        main(["--dask", cluster.scheduler_address])


def test_workers_that_do_not_see_the_folder_are_named(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(module.os.path, "isdir", blind)
    with (
        pytest.raises(UserError, match=rf"2 of 2 workers .* see no folder {tmp_path} "),
        module.dask_cluster(cluster.scheduler_address, tmp_path),
    ):
        pass


class Absent:
    """A function that nobody but this process can unpack."""

    def __call__(self):
        return "here"

    def __reduce__(self):
        return importlib.import_module, ("no_such_module_there",)


def blind(path):
    return False


@pytest.mark.parametrize(
    "address", ["tcp://127.0.0.1:1", "nonsense://x:1", "tcp://no.such.host.invalid:8786"]
)
def test_an_address_where_nothing_answers(monkeypatch, address, tmp_path):
    monkeypatch.setattr(module, "PATIENCE", 1)
    with pytest.raises(UserError, match=f"No Dask scheduler answers at {address}"):
        main(["--dask", address, "--raw-dir", str(tmp_path)])


def test_a_scheduler_without_workers(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "PATIENCE", 1)
    with (
        distributed.LocalCluster(n_workers=0, **QUIET) as empty,
        pytest.raises(UserError, match="has no workers"),
    ):
        main(["--dask", empty.scheduler_address, "--raw-dir", str(tmp_path)])


def test_a_cluster_that_is_lost_is_reported_in_a_sentence(simulated_raw):
    with (
        distributed.LocalCluster(n_workers=1, processes=False, **QUIET) as lost,
        pytest.raises(UserError, match="lost its workers, or itself"),
        module.dask_cluster(lost.scheduler_address, simulated_raw),
    ):
        raise distributed.CancelledError("scheduler-connection-lost")


def test_a_cluster_without_this_project_says_how_to_start_one(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_project", Absent())
    with (
        pytest.raises(UserError, match=r"cannot import this project .* PYTHONPATH"),
        module.dask_cluster(cluster.scheduler_address, tmp_path),
    ):
        pass


def test_without_dask_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match="pip install dask distributed"):
        main(["--dask", "tcp://127.0.0.1:8786", "--raw-dir", str(tmp_path)])
