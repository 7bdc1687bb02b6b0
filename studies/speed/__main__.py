"""Run the benchmark: ``python -m studies.speed``."""

from common.script import run_script


def main() -> None:
    """Import torch only now: how its threads wait is set before."""
    from studies.speed import benchmark

    benchmark.main()


if __name__ == "__main__":
    run_script(main)
