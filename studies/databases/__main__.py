"""Run the study: ``python -m studies.databases``."""

from common.script import run_script
from studies.databases.benchmark import main

if __name__ == "__main__":
    run_script(main)
