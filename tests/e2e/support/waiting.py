"""Waiting with a deadline."""

import time

# Long enough for a debug build on a busy machine with two cores; a passing test never waits this long.
DEADLINE = 15.0


def eventually(probe, what, timeout=DEADLINE):
    """Calls `probe` until it returns something true, which is returned; fails after `timeout` seconds.

    For facts nobody announces (a process is gone, a file has appeared). What a queue or a log announces is waited for
    there.
    """
    end = time.monotonic() + timeout
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what} (last seen: {value!r})")
        time.sleep(0.01)
