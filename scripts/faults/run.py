"""Runs the cases of run.sh one after another, each in a process of its own, and counts verdicts.

A case is a file of `cases/`; its docstring says what happens there. Its functions are its variants, in `VARIANTS` with
their arguments by name; a case with one variant has none. The status of a case's process is its verdict.
"""

import importlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "cases")]
PASSED, FAILED, FAILED_IN_TIME, SKIPPED = 0, 1, 3, 77


def names():
    """Every variant of every case, such as few_fds.connections."""
    for file in sorted((HERE / "cases").glob("*.py")):
        for variant in importlib.import_module(file.stem).VARIANTS:
            yield f"{file.stem}.{variant}" if variant else file.stem


def run_here(name, binary):
    """Runs one case in this process and prints its line."""
    from case import Case, Ended, OutOfTime, Skipped, many_descriptors

    def out_of_time(*_):
        raise OutOfTime("the time for the case is up")

    signal.signal(signal.SIGINT, out_of_time)
    many_descriptors()
    module, _, variant = name.partition(".")
    case = Case(name, binary)
    try:
        importlib.import_module(module).VARIANTS[variant](case)
    except Ended:
        pass
    except Skipped as reason:
        print(f"SKIP {name}: {reason}")
        return SKIPPED
    except Exception as error:  # A case that cannot go on is red, whatever the reason.
        time.sleep(0.5)
        where = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(where) if frame.filename.endswith(f"{module}.py")), 0)
        case.check("the case runs to its end", False, f"{type(error).__name__} {error}, line {line}")
    finally:
        try:
            case.finish()
        finally:
            case.clean_up()
    if case.broken:
        print(f"FAIL {name}: {'; '.join(case.broken)}" + (f" | {', '.join(case.figures)}" if case.figures else ""))
        return FAILED_IN_TIME if case.only_timing else FAILED
    print(f"PASS {name}: {', '.join(case.figures)}")
    return PASSED


def run_apart(name, limit):
    """Runs one case in a process of its own; its line and status."""
    child = subprocess.Popen(
        [sys.executable, __file__, "--one", name],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = child.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGINT)
        try:
            said, _ = child.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            said, _ = child.communicate()
            said = f"FAIL {name}: not done after {limit} s; {said.strip()}"
        return said.strip(), FAILED
    if not re.match(r"(PASS|FAIL|SKIP) ", said):
        return f"FAIL {name}: {said.strip()}", FAILED
    return said.strip(), child.returncode if child.returncode in (PASSED, FAILED_IN_TIME, SKIPPED) else FAILED


def main(wanted):
    every = list(names())
    chosen = [name for name in every if not wanted or any(re.match(f"{word}($|\\.)", name) for word in wanted)]
    unknown = [word for word in wanted if not any(re.match(f"{word}($|\\.)", name) for name in every)]
    if unknown:
        print(f"there is no {', '.join(unknown)}; there are: {' '.join(every)}")
        return 2
    limit = int(os.environ.get("LIMIT", 1200 if os.environ.get("LONG") == "1" else 240))
    tally = {PASSED: 0, FAILED: 0, SKIPPED: 0}
    for name in chosen:
        began = time.monotonic()
        line, verdict = run_apart(name, limit)
        if verdict == FAILED_IN_TIME:
            first = line
            line, verdict = run_apart(name, limit)
            line += f" | at the first try {first.partition(': ')[2].partition(' | ')[0]}"
        print(f"{line} [{time.monotonic() - began:.0f} s]", flush=True)
        tally[FAILED if verdict == FAILED_IN_TIME else verdict] += 1
    skipped = f", {tally[SKIPPED]} skipped" if tally[SKIPPED] else ""
    print(f"faults: {tally[PASSED]} passed, {tally[FAILED]} failed{skipped}")
    return 1 if tally[FAILED] or not tally[PASSED] else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        sys.exit(run_here(sys.argv[2], os.environ["BROKER"]))
    if sys.argv[1:2] == ["--list"]:
        print("\n".join(names()))
        sys.exit(0)
    sys.exit(main(sys.argv[1:]))
