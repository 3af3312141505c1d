"""How many processors there are for this process."""

from __future__ import annotations

import os


def cores() -> int:
    """Those it may use, where the system tells; a container or a scheduler may give it fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
