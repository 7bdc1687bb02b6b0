"""One case: damage a good workspace, prepare it, and check the outcome."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from common.errors import UserError
from tests.robustness import (
    folder_mutations,
    header_mutations,
    onset_mutations,
    signal_mutations,
    table_mutations,
)
from tests.robustness.mutations import LEFT_OUT, REFUSED, SAFE, USED, Case, Expect, Target
from tests.robustness.workspaces import Prepared, Workspace, prepare

REGISTERED = folder_mutations, header_mutations, onset_mutations, signal_mutations, table_mutations
Digests = dict[str, str]


def run_case(case: Case, workspace: Workspace, good: Digests, folder: Path) -> str:
    """Return the outcome of a case; assert that it is the expected one, and that nothing else was lost.

    Parameters
    ----------
    case : Case
    workspace : Workspace
        The good recordings; not changed.
    good : dict of str to str
        Digest of the beats of each of them.
    folder : pathlib.Path
        Where the damaged copy and its caches may lie; removed.
    """
    try:
        target, expect = case.apply(workspace.copy(folder / "workspace"))
        prepared = prepare(target.workspace, folder / "cache", *expect.options)
        _assert_nothing_outside(prepared.opened, target.workspace)
        outcome = _check(prepared, target, expect, good)
        if outcome in (LEFT_OUT, REFUSED):
            _check_strict(target, expect, folder / "strict")
        if prepared.error is not None:
            _assert_nothing_left(folder / "cache")
        return outcome
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _assert_nothing_outside(opened: list[str], workspace: Workspace) -> None:
    """Assert that no file was opened that lies beside the raw recordings."""
    secret = workspace.secret.resolve()
    outside = {path for path in opened if Path(os.path.realpath(path)).is_relative_to(secret)}
    assert not outside, f"opened {outside}"
    assert "/etc/passwd" not in opened


def _check(prepared: Prepared, target: Target, expect: Expect, good: Digests) -> str:
    """Return the outcome; assert that it is the one expected."""
    if prepared.error is not None:
        assert expect.outcome == REFUSED, f"refused: {prepared.error}"
        assert re.search(expect.reason, str(prepared.error)), prepared.error
        return REFUSED
    assert expect.outcome != REFUSED, "was not refused"
    cache = prepared.cache
    assert cache is not None
    beats, skipped = prepared.beats(), cache.table("skipped")
    concerned = set(expect.names or (target.name,))
    others = set(good) - concerned - {target.name}
    assert {name: beats.get(name) for name in others} == {name: good[name] for name in others}
    assert expect.lost or set(skipped["recording"]) <= concerned | _nameless_rows(skipped["recording"])
    assert (skipped["reason"].str.len() > 0).all()
    return _outcome(prepared, target, expect, good, concerned)


def _nameless_rows(listed: list[str]) -> set[str]:
    """Return the rows of a table that are listed by their number, as they name no recording."""
    return {name for name in listed if re.search(r", (line|row) \d+$|^\s*$|[/ ?\x1b\x00:]|x{20}", name)}


def _outcome(prepared: Prepared, target: Target, expect: Expect, good: Digests, concerned: set[str]) -> str:
    """Return whether the recordings concerned were used or left out, all of them alike."""
    cache = prepared.cache
    assert cache is not None
    beats, skipped = prepared.beats(), cache.table("skipped").set_index("recording")["reason"]
    used = {name for name in concerned if name in beats}
    if not used:
        assert expect.outcome in (LEFT_OUT, SAFE), f"left out: {skipped.to_dict()}"
        for name in concerned:
            assert name in skipped.index, f"{name} is nowhere: {skipped.to_dict()}"
            assert re.search(expect.reason, str(skipped[name])), skipped[name]
        return LEFT_OUT
    assert used == concerned
    assert expect.outcome in (USED, SAFE), "was used"
    same = expect.names or all(beats[name] == good[name] for name in concerned)
    warned = any(name in warning for name in concerned for warning in cache.manifest["warnings"])
    assert same or warned or expect.changed, "used with other beats, without a warning"
    if expect.outcome == USED and not expect.changed:
        assert same, "the beats differ"
    if expect.check is not None:
        expect.check(cache)
    return USED


def _check_strict(target: Target, expect: Expect, cache_dir: Path) -> None:
    """Assert that --strict stops, in a sentence, and leaves nothing."""
    stopped = prepare(target.workspace, cache_dir, "--strict", *expect.options)
    assert isinstance(stopped.error, UserError), "--strict went on"
    _assert_nothing_left(cache_dir)


def _assert_nothing_left(cache_dir: Path) -> None:
    """Assert that a preparation that was refused left no cache, and no half of one."""
    assert not cache_dir.exists() or list(cache_dir.iterdir()) == []
