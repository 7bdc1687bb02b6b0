"""Run the benchmark: ``python -m studies.speed``."""

from collections.abc import Sequence

from common.script import run_script


def main(arguments: Sequence[str] | None = None) -> None:
    """Import torch only now: how its threads wait is set before."""
    from studies.speed import benchmark

    benchmark.main(arguments)


if __name__ == "__main__":
    run_script(main)
