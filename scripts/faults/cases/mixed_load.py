"""Each partition of one topic gets two small records and is left alone; another topic is written on and on.

Memory stays within --memory, and a GB of the busy topic costs what it does without the idle one. Wants LOADGEN, or
loadgen beside the broker.
"""

import os
import pathlib
import re
import subprocess

from case import Skipped

COST_FACTOR = 1.4


def mixed(memory):
    def mixed_load(c):
        loadgen = os.environ.get("LOADGEN") or pathlib.Path(c.binary).parent / "loadgen"
        if not os.access(loadgen, os.X_OK):
            raise Skipped(f"there is no {loadgen}")
        broker = c.start(memory=memory, journal=None)

        def run(topic, *words):
            command = [
                loadgen,
                "produce",
                "--bootstrap",
                f"127.0.0.1:{broker.port}",
                "--topic",
                topic,
                "--duration",
                "2",
                "--warmup",
                "0.5",
                "--quiet",
                "--broker-pid",
                str(broker.process.pid),
                *words,
            ]
            said = subprocess.run(command, capture_output=True, text=True, timeout=120)
            cost = re.search(r"broker CPU.*?([\d.]+) CPU-s/GB", said.stdout + said.stderr)
            return float(cost[1]) if cost else None

        def busy():
            cost = run(
                "busy", "--create", "24", "--record-bytes", "4000", "--batch-bytes", "500000", "--connections", "8"
            )
            assert cost, f"loadgen ended; {broker.last_words()}"
            return cost

        alone = busy()
        run(
            "idle",
            "--create",
            "400",
            "--record-bytes",
            "100",
            "--batch-records",
            "1",
            "--connections",
            "64",
            "--records",
            "800",
        )
        beside = [busy() for _ in range(4)]
        c.check(
            "a GB costs no more beside an idle topic",
            beside[-1] <= COST_FACTOR * alone,
            f"CPU-s/GB alone {alone:.2f}, beside an idle topic {' '.join(f'{cost:.2f}' for cost in beside)}",
            timing=True,
        )

    return mixed_load


VARIANTS = {"512": mixed(512), "256": mixed(256)}
