"""How a script ends: what the user reads, and the exit status that a program reads."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.script import run_script

ROOT = Path(__file__).parents[2]


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (UserError("There is no such run."), 2, "Error: There is no such run."),
        (OSError(errno.ENOSPC, "", "a.npy"), 2, "a.npy cannot be read or written: the disk is full."),
        (KeyboardInterrupt(), 130, "the same command with --resume goes on"),
    ],
)
def test_what_the_user_can_mend_is_said_without_a_traceback(capsys, error, status, said):
    with pytest.raises(SystemExit) as ended:
        run_script(raising(error))
    assert ended.value.code == status
    text = " ".join(capsys.readouterr().err.split())
    assert said in text and "Traceback" not in text


def test_a_fault_of_ours_is_not_hidden():
    with pytest.raises(OSError, match="odd"):
        run_script(raising(OSError(errno.EBADF, "odd")))


def test_a_reader_who_has_seen_enough_is_no_error():
    code = "from common.script import run_script\nrun_script(lambda: [print('x' * 999) for _ in range(9999)])"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read().decode()
        assert process.wait() == 0
    assert said == ""
