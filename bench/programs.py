"""`python -m bench.programs --shape react --count 100 --out react.jsonl.gz`: write programs as a trace file."""

import argparse

from bench.statistics import describe
from sim import trace
from sim.programs import SHAPES, mix


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.programs", description=__doc__)
    parser.add_argument("--shape", choices=(*SHAPES, "all"), default="all")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=1.0, help="programs per second")
    parser.add_argument("--out", help="trace file to write; without it only the statistics are shown")
    arguments = parser.parse_args()
    shapes = SHAPES if arguments.shape == "all" else (arguments.shape,)
    programs = mix(arguments.count, arguments.seed, arguments.rate, shapes)
    if arguments.out:
        trace.write(arguments.out, programs)
    for shape in shapes:
        print(f"{shape}: {describe([program for program in programs if program.workload == shape])}")


if __name__ == "__main__":
    main()
