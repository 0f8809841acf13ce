"""How many processor cores there are to work with."""

import os


def usable_cores():
    """Cores this process may run on; all of the machine's where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
