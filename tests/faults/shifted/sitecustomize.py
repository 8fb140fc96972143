"""Imported by every Python that finds it on its path: shifts that process's wall clock by CHAOS_CLOCK_OFFSET_S seconds."""

import os
import time

_offset = float(os.environ.get("CHAOS_CLOCK_OFFSET_S") or 0)
if _offset:
    _time, _time_ns = time.time, time.time_ns
    time.time = lambda: _time() + _offset
    time.time_ns = lambda: _time_ns() + int(_offset * 1e9)
