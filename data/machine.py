"""What there is of this machine to work with: processor cores and memory."""

import math
import os
from pathlib import Path

# Where Linux tells a container's memory: (folder, limit, used, what of it gives way), v2 and v1.
CONTAINER_FILES = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)


def usable_cores():
    """Cores this process may run on; all of the machine's where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory():
    """Bytes that this process can still take; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return min(sizes["MemAvailable"] + sizes.get("SwapFree", 0), _left_to_container())
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _left_to_container():
    for folder, limit, used, reclaimable in CONTAINER_FILES:
        try:
            most = int((folder / limit).read_text())  # a word where there is no limit
            lines = (folder / "memory.stat").read_text().splitlines()
            reclaimed = int(dict(map(str.split, lines))[reclaimable])  # files read lately
            return most - int((folder / used).read_text()) + reclaimed
        except (OSError, KeyError, ValueError):
            continue
    return math.inf
