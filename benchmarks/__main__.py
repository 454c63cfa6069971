"""``python -m benchmarks``: all operations of all files."""

import sys

import benchmarks
from benchmarks.command import main
from benchmarks.registry import discover

if __name__ == "__main__":
    discover()
    sys.exit(main(description=benchmarks.__doc__))
