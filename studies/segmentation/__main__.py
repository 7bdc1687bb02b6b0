"""Run the benchmark: ``python -m studies.segmentation``."""

from common.script import run_script
from studies.segmentation.benchmark import main

if __name__ == "__main__":
    run_script(main)
