"""Run the benchmark: ``python -m studies.speed``."""

from common.script import run_script
from studies.speed.benchmark import main

if __name__ == "__main__":
    run_script(main)
