"""Run the benchmark: ``python -m studies.generalization``."""

from common.script import run_script
from studies.generalization.benchmark import main

if __name__ == "__main__":
    run_script(main)
