"""What a case stands on: brokers of its own, what it checks, and the rules that hold for every case.

A case calls `check` for each rule of its own. `finish` adds those that hold everywhere: each broker is alive until the
case ends it, stays within its memory, and starts in time.
"""

import ctypes
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from others import Others
from wire import Client

# What every case is held to.
MEMORY_FACTOR, MEMORY_SLACK_MIB = 1.1, 32
START_SECONDS = 2.0
WAIT_SECONDS = 1.0

LONG = os.environ.get("LONG") == "1"
CORES = ",".join(str(core) for core in sorted(os.sched_getaffinity(0))[:2])


class Ended(Exception):
    """The case cannot go on; its checks say why."""


class OutOfTime(Exception):
    """The case took longer than it may."""


class Skipped(Exception):
    """This machine lacks what the case needs."""


class Case:
    def __init__(self, name, binary):
        self.name, self.binary = name, binary
        self.work = pathlib.Path(tempfile.mkdtemp(prefix="corelog-faults-"))
        self.brokers, self.clients, self.figures, self.broken = [], [], [], []
        self.starts, self.undo = [], []
        self.only_timing = True
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        """A broker that dies takes its watermark along: it is read now and then."""
        while True:
            for broker in list(self.brokers):
                broker.watermark()
            time.sleep(0.2)

    def note(self, figure):
        self.figures.append(figure)

    def check(self, rule, holds, figure="", *, otherwise="", timing=False):
        """`otherwise` is shown if it does not hold. `timing`: a busy machine can break it, a second try decides."""
        if not holds:
            why = ", ".join(filter(None, (figure, otherwise)))
            self.broken.append(f"{rule} ({why})" if why else rule)
            self.only_timing &= timing
        elif figure:
            self.note(figure)

    def start(self, memory=256, journal=64, *, data=None, timed=True, must=True, wait=30, **more):
        """A broker; memory and journal in MiB. `timed`: the start is held to its bound. `must`: else the case ends."""
        broker = Broker(self, data or self.work / "data", memory, journal, wait=wait, **more)
        self.brokers.append(broker)
        if not broker.ready and must:
            how = (
                broker.ending()
                if broker.ended()
                else f"it does not listen after {wait} s, and said: {broker.last_words()}"
            )
            self.check("the broker starts", False, how)
            broker.given_up = True
            raise Ended
        if broker.ready and timed:
            self.starts.append(broker.start_seconds)
        return broker

    def again(self, broker, **changes):
        """The next life of a broker, on the same data and with the same flags but for `changes`."""
        return self.start(**{**broker.how, **changes})

    def client(self, broker, **how):
        client = Client(broker.port, **how)
        self.clients.append(client)
        return client

    def others(self, broker, **how):
        """Clients that have nothing to do with the case, and must not notice it."""
        return Others(self, broker.port, **how)

    def finish(self):
        for broker in self.brokers:
            if not broker.given_up:
                broker.kill()
        if self.starts:
            self.check(
                "a start takes 2 s at most",
                max(self.starts) <= START_SECONDS,
                f"start {max(self.starts):.2f} s",
                timing=True,
            )
        worst = max(self.brokers, key=lambda broker: broker.peak / broker.bound, default=None)
        if worst:
            self.check(
                "memory stays within 1.1 x --memory + 32 MiB",
                worst.peak <= worst.bound,
                f"peak {worst.peak:.0f} of {worst.bound:.0f} MiB",
            )
        died = [broker.died for broker in self.brokers if broker.died]
        self.check("the broker is alive to the end", not died, otherwise="; ".join(died[:1]))

    def clean_up(self):
        for broker in self.brokers:
            broker.end()
        for step in reversed(self.undo):
            step()
        shutil.rmtree(self.work, ignore_errors=True)

    def disk(self, size):
        """An ext4 of its own on a loop device, which can run full; its mount point."""
        if os.geteuid() != 0:
            raise Skipped("loop devices need root")
        image, mount = self.work / "image", self.work / "disk"
        mount.mkdir()
        try:
            sh("truncate", "-s", size, image)
            sh("mkfs.ext4", "-q", "-F", "-m", "0", image)
            device = sh("losetup", "-f", "--show", image)
            self.undo.append(lambda: sh("losetup", "-d", device))
            sh("mount", device, mount)
            self.undo.append(lambda: sh("umount", mount))
        except (OSError, subprocess.CalledProcessError) as error:
            raise Skipped(f"there is no loop device: {error}") from error
        return mount


class Broker:
    def __init__(self, case, data, memory, journal, *, wait, flags=(), descriptors=None, cores=None, settings=()):
        self.how = dict(
            memory=memory,
            journal=journal,
            data=data,
            flags=flags,
            descriptors=descriptors,
            cores=cores,
            settings=settings,
        )
        self.bound = MEMORY_FACTOR * memory + MEMORY_SLACK_MIB
        self.data, self.port, self.peak, self.died, self.given_up = data, free_port(), 0.0, None, False
        self.log = case.work / f"log-{len(case.brokers)}"
        command = [case.binary, "serve", "--data-dir", data, "--listen", f"127.0.0.1:{self.port}"]
        command += ["--cores", cores or CORES, "--memory", f"{memory}MiB"]
        command += ["--journal", f"{journal}MiB"] if journal else []
        for setting in ("group.initial.rebalance.delay.ms=0", *settings):
            command += ["--set", setting]
        began = time.monotonic()
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [*map(str, command), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "CORELOG_LOG": "info"},
                preexec_fn=lambda: begin(descriptors),
            )
        self.ready = False
        while not self.ready and not self.ended() and time.monotonic() - began < wait:
            time.sleep(0.01)
            self.ready = "listening on" in self.said()
        self.start_seconds = time.monotonic() - began

    def ended(self):
        return self.process.poll() is not None

    def status(self, key):
        try:
            for line in open(f"/proc/{self.process.pid}/status"):
                if line.startswith(key + ":"):
                    return int(line.split()[1]) / 1024
        except (FileNotFoundError, ProcessLookupError):
            pass
        return 0.0

    def memory(self):
        """Resident now, in MiB."""
        return self.status("VmRSS")

    def watermark(self):
        """The most it ever had resident, in MiB."""
        self.peak = max(self.peak, self.status("VmHWM"))
        return self.peak

    def cpu(self):
        """Processor time so far, in seconds."""
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def said(self):
        return self.log.read_text(errors="replace")

    def last_words(self):
        """What it said last that is worth a person's eye: a panic, its parting sentence, a warning."""
        lines = self.said().splitlines() or ["nothing"]
        for at, line in enumerate(lines):
            if "panicked at" in line:
                return " ".join(lines[at : at + 2])[:300]
        worth = [line for line in lines if line.startswith("corelog: ") or " ERROR " in line or " WARN " in line]
        return (worth or lines)[-1].strip()[-300:]

    def ending(self):
        return f"status {self.process.poll()}, its last words: {self.last_words()}"

    def kill(self):
        """kill -9; that it was still alive is checked at the end."""
        self.watermark()
        if self.ended():
            self.died = self.ending()
        self.given_up = True
        self.end()

    def stop(self, patience=60):
        """SIGTERM; its exit status, None if it does not end."""
        self.watermark()
        if self.ended():
            self.died = self.ending()
        self.given_up = True
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.end()
            return None

    def end(self):
        self.process.kill()
        self.process.wait()


def begin(descriptors):
    """In the broker's process: it ends with the case. `descriptors` are its soft and its hard limit."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if descriptors:
        resource.setrlimit(resource.RLIMIT_NOFILE, descriptors)


def many_descriptors():
    """This process gets as many as it may have: some cases hold thousands of connections."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def sh(*command):
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def size_mib(folder):
    """What a folder takes on the disk; files may go meanwhile."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                pass
    return total / 2**20
