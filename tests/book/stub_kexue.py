"""The command line ``kexue`` whose regressions use :mod:`stub_runner`; ``limit=BYTES`` first: no file grows beyond."""

from __future__ import annotations

import resource
import signal
import sys
from functools import partial

from kexue_lib.book import cli
from kexue_lib.book.regress import command

if __name__ == "__main__":
    if sys.argv[1].startswith("limit="):
        # What a full disk does: a write comes back short, the next one fails.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        size = int(sys.argv.pop(1).removeprefix("limit="))
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    command.Settings = partial(command.Settings, module="stub_runner")  # type: ignore[assignment,misc]
    cli.main()
