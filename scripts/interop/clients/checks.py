"""What the checks of the Python clients share: how they are run and judged.

A check prints one line, "pass NAME" or "FAIL NAME: WHY"; the program prints "end" last.
"""

import os
import re
import sys
import time
import traceback

PATIENCE_S = 60


def run(client, checks):
    """Runs [(name, function)], those that INTEROP_ONLY asks for."""
    only = re.compile(os.environ.get("INTEROP_ONLY", ""))
    for name, function in checks:
        if not only.search(f"{client}: {name}"):
            continue
        try:
            function()
            print("pass", name, flush=True)
        except Exception as error:
            frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "clients" in frame.filename]
            line = frames[-1].lineno if frames else 0
            why = f"{type(error).__name__}: {error}".replace("\n", " ")[:600]
            print(f"FAIL {name}: {why} (line {line})", flush=True)
    print("end", flush=True)
    sys.stdout.flush()
    os._exit(0)


def same(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: got {got!r}, wanted {wanted!r}"[:600])


def holds(what, condition):
    if not condition:
        raise AssertionError(f"not so: {what}")


def until(what, done, step):
    """Does `step` until `done`."""
    end = time.monotonic() + PATIENCE_S
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"not so: {what}")
        step()


def fails(what, action, *kinds):
    try:
        action()
    except kinds:
        return
    raise AssertionError(f"it did not fail: {what}")


def is_shared_out(partitions, assignments):
    """Whether each of `partitions` partitions has one owner and no owner has more than its share."""
    owned = [partition for assignment in assignments for partition in assignment]
    most = -(-partitions // len(assignments))
    return sorted(owned) == list(range(partitions)) and all(len(a) <= most for a in assignments)
