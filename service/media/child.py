"""What every media child does first: bound itself, and never outlive its parent."""

from __future__ import annotations

import os
import resource
import sys
import threading


def confine(memory_bytes: int) -> None:
    """Bound address space, files and core dumps. Called before any byte of an upload is looked at."""
    _lower(resource.RLIMIT_AS, memory_bytes)
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 1024**2)  # standard error may be a file
    _lower(resource.RLIMIT_NOFILE, 64)


def allow_cpu(seconds: float) -> None:
    """Grant this process that much CPU time from now on; beyond it the kernel ends it."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))


def exit_with_parent() -> None:
    """End when standard input closes, which the kernel does when the parent dies, however it dies.

    PR_SET_PDEATHSIG would fire when the *thread* that started us ends, and exists on Linux only.
    """
    threading.Thread(target=_wait_for_end_of_input, name="parent-watch", daemon=True).start()


def _wait_for_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def _lower(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (bounded, bounded))
