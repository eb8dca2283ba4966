"""Peak memory of this process."""

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_bytes() -> int:
    """Largest resident size since the start, or since `reset_peak`.

    Linux's VmHWM where there is one: `ru_maxrss` of a child starts with the size of the process that started it.
    """
    if STATUS.exists():
        return _status("VmHWM")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def private_bytes() -> int:
    """What is resident now and not mapped from a file (Linux; elsewhere the peak)."""
    return _status("RssAnon") if STATUS.exists() else peak_bytes()


def _status(name: str) -> int:
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    return 1024 * int(fields[name].split()[0])
