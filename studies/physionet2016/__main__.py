"""Run the benchmark: ``python -m studies.physionet2016``."""

from common.script import run_script
from studies.physionet2016.benchmark import main

if __name__ == "__main__":
    run_script(main)
