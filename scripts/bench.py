"""The body of bench.sh, which see: starts the brokers, runs loadgen against them in turn, keeps what it reports."""

import csv, json, os, platform, shutil, signal, socket, statistics, subprocess, sys, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(os.environ["BENCH_BIN"])
LIBS = os.environ["KAFKA_LIBS"]
CPUS = os.cpu_count()
SECONDS = float(os.environ.get("SECONDS_EACH", 5))
WARMUP = float(os.environ.get("WARMUP_EACH", 2))
ROUNDS = int(os.environ.get("ROUNDS", 2))
MEMORY = os.environ.get("MEMORY")
QUIET_WAIT = float(os.environ.get("QUIET_WAIT", 15))
DATA = Path(os.environ.get("DATA", Path(os.environ.get("TMPDIR", "/tmp")) / "corelog-bench"))
OUT = Path(os.environ.get("OUT", ROOT / "bench-results" / f"{time.strftime('%Y-%m-%d')}-{CPUS}cpus"))
NICE = int(os.environ.get("NICE", 0))
# A run during which others use more of the machine than this is repeated, up to so many tries.
DISTURBED = 0.3
TRIES = int(os.environ.get("TRIES", 3))
TICKS = os.sysconf("SC_CLK_TCK")

# What loadgen is told to produce.
PRODUCE = {
    "large": "--create 6 --record-bytes 1024 --batch-bytes 65536 --connections 4 --in-flight 20",
    "small100": "--create 6 --record-bytes 100 --batch-bytes 16384 --connections 4 --in-flight 5",
    "small": "--create 96 --record-bytes 100 --batch-records 1 --connections 64 --in-flight 5",
}
COLUMNS = ["workload", "contestant", "round", "what", "ok", "records_per_s", "mb_per_s", "cpu_s_per_gb",
           "cpu_s_per_million", "p50_ms", "p99_ms", "p99_9_ms", "max_ms", "n", "loadgen_cpu_s_per_gb", "others_busy"]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def answers(port):
    with socket.socket() as s:
        s.settimeout(1)
        return s.connect_ex(("127.0.0.1", port)) == 0


def prioritise(pid):
    """Gives a session's group of processes NICE too: where Linux schedules by session, a nice level counts only within."""
    group = Path(f"/proc/{pid}/autogroup")
    if NICE and group.exists():
        group.write_text(str(NICE))


class Broker:
    """A broker's process, in its own directory; topics get `topic_config`."""

    def __init__(self, name, topic_config=None):
        self.name, self.topic_config, self.process = name, topic_config, None
        self.dir = DATA / name
        self.port = free_port()

    def start(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        log = open(self.dir / "log", "w")
        self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, start_new_session=True)
        prioritise(self.process.pid)
        for _ in range(300):
            if self.process.poll() is not None:
                sys.exit(f"{self.name} does not start:\n{(self.dir / 'log').read_text()[-2000:]}")
            if answers(self.port):
                return
            time.sleep(0.2)
        sys.exit(f"{self.name} does not listen within a minute")

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        shutil.rmtree(self.dir, ignore_errors=True)
        # What the filesystem still has to free would slow the next workload's flushes.
        os.sync()


class Corelog(Broker):
    def command(self):
        memory = ["--memory", MEMORY] if MEMORY else []
        return [BIN / "corelog", "--data-dir", self.dir / "data", "--listen", f"127.0.0.1:{self.port}", *memory]


class Kafka(Broker):
    def command(self):
        controller = free_port()
        properties = {
            "process.roles": "broker,controller", "node.id": 1,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}", "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}", "log.dirs": self.dir / "data",
            "offsets.topic.replication.factor": 1,
        }
        path = self.dir / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in properties.items()))
        java = ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{LIBS}/*"]
        cluster = subprocess.run(java + ["kafka.tools.StorageTool", "random-uuid"], capture_output=True, text=True)
        subprocess.run(java + ["kafka.tools.StorageTool", "format", "-t", cluster.stdout.strip(), "-c", path,
                               "--standalone"], check=True, capture_output=True)
        # The flags of Kafka's own kafka-server-start.sh.
        return java[:1] + ["-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
                           "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent"] \
            + java[1:] + ["kafka.Kafka", path]


def machine_busy():
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / TICKS


def wait_for_quiet():
    end = time.monotonic() + QUIET_WAIT
    while True:
        busy, begun = machine_busy(), time.monotonic()
        time.sleep(1)
        share = (machine_busy() - busy) / (time.monotonic() - begun) / CPUS
        if share < 0.15 or time.monotonic() > end:
            return


def loadgen(broker, command, topic, options, tag, quiet=True):
    """Starts one loadgen; gives its process and the report's path."""
    path = OUT / "raw" / f"{tag}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    words = [BIN / "loadgen", command, "--bootstrap", f"127.0.0.1:{broker.port}", "--topic", topic, "--quiet",
             "--broker-pid", str(broker.process.pid), "--json", path, *options.split()]
    if command == "produce" and broker.topic_config and "--create" in options:
        words += ["--topic-config", broker.topic_config]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True), path


def finish(started):
    process, path = started
    output, _ = process.communicate()
    text = path.read_text() if path.exists() else '{"ok": false}'
    if not text:
        sys.exit(f"loadgen's report is empty: {OUT} or {DATA} has no space left; give another OUT or DATA")
    report = json.loads(text)
    # The file paths of this machine are nobody's business.
    report["command_line"] = ["loadgen", *[w for w in report.get("command_line", [])[1:] if "/" not in str(w)]]
    report.get("settings", {}).pop("json", None)
    report.get("settings", {}).pop("hgrm", None)
    path.write_text(json.dumps(report, indent=1) + "\n")
    if not report["ok"]:
        print(output, file=sys.stderr)
    return report


class Results:
    def __init__(self):
        self.rows = []

    def add(self, workload, contestant, number, what, report, others):
        latency, cpu, own = (report.get(key) or {} for key in ("latency", "broker_cpu", "own_cpu"))
        row = [workload, contestant, number, what, report["ok"], report.get("records_per_s"), report.get("mb_per_s"),
               cpu.get("per_gb"), cpu.get("per_million_records"), latency.get("p50_ms"), latency.get("p99_ms"),
               latency.get("p99_9_ms"), latency.get("max_ms"), latency.get("n"), own.get("per_gb"), others]
        self.rows.append(dict(zip(COLUMNS, row)))
        short = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in row]
        print("  ".join(short), flush=True)

    def save(self):
        path = OUT / "results.csv"
        old = list(csv.DictReader(path.open())) if path.exists() else []
        new = {(row["workload"]) for row in self.rows}
        rows = [row for row in old if row["workload"] not in new] + self.rows
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            number = lambda value: f"{value:.4g}" if isinstance(value, float) else value
            writer.writerows({key: number(value) for key, value in row.items()} for row in rows)

    def median(self, workload, contestant, column, what="produce"):
        values = [row[column] for row in self.rows if (row["workload"], row["contestant"], row["what"]) ==
                  (workload, contestant, what) and row[column] is not None and row["ok"]]
        return statistics.median(values) if values else None


def attempt(start):
    """Runs what `start` starts; the reports, and the share of the machine that others used meanwhile."""
    wait_for_quiet()
    busy, begun = machine_busy(), time.monotonic()
    reports = [finish(started) for started in start()]
    seconds = time.monotonic() - begun
    ours = sum((report.get("own_cpu") or {}).get("seconds") or 0 for report in reports)
    ours += (reports[-1].get("broker_cpu") or {}).get("seconds") or 0
    # loadgen counts only the measured part; the warm-up is taken to have cost as much for its time.
    measured_share = max(0.1, min(1.0, (reports[-1].get("seconds") or seconds) / seconds))
    return reports, max(0.0, machine_busy() - busy - ours / measured_share) / seconds / CPUS


def measured(results, workload, broker, number, what, start):
    """One run, or where others disturbed it the least disturbed of a few; `what` names each report."""
    tries = []
    while not tries or (len(tries) < TRIES and tries[-1][1] > DISTURBED):
        tries.append(attempt(start))
    reports, others = min(tries, key=lambda tried: tried[1])
    for name, report in zip(what, reports):
        results.add(workload, broker.name, number, name, report, round(others, 2))


def warm_up(broker, options):
    """Until the JVM has compiled and memory has been touched; counts for nothing."""
    finish(loadgen(broker, "produce", "warm", f"{options} --duration 8", "warm"))
    (OUT / "raw" / "warm.json").unlink()


def saturated(results, workload, contestants, readback):
    options = PRODUCE[workload]
    for broker in contestants:
        broker.start()
    try:
        for broker in contestants:
            warm_up(broker, options)
        for number in range(1, ROUNDS + 1):
            for broker in contestants:
                topic, tag = f"{workload}-{number}", f"{workload}-{broker.name}-{number}"
                run = f"{options} --duration {SECONDS} --warmup {WARMUP}"
                measured(results, workload, broker, number, ["produce"],
                         lambda: [loadgen(broker, "produce", topic, run, tag)])
                if readback:
                    measured(results, workload, broker, number, ["consume"],
                             lambda: [loadgen(broker, "consume", topic, "--until-end --connections 2", f"{tag}-consume")])
    finally:
        for broker in contestants:
            broker.stop()


def open_loop(results, workload, contestants, rate, tail):
    options = f"{PRODUCE['large']} --rate {rate:.0f} --arrival poisson"
    for broker in contestants:
        broker.start()
    try:
        for broker in contestants:
            warm_up(broker, PRODUCE["large"])
        for number in range(1, ROUNDS + 1):
            for broker in contestants:
                topic, tag = f"{workload}-{number}", f"{workload}-{broker.name}-{number}"
                hgrm = OUT / "raw" / f"{tag}.hgrm"
                run = f"{options} --duration {2 * SECONDS} --warmup {WARMUP} --hgrm {hgrm}"

                def start():
                    producer = loadgen(broker, "produce", topic, run, tag)
                    if not tail:
                        return [producer]
                    time.sleep(1.0)
                    reading = f"--from latest --duration {2 * SECONDS - 1} --warmup {WARMUP - 1} --connections 2"
                    return [producer, loadgen(broker, "consume", topic, reading, f"{tag}-consume")]

                measured(results, workload, broker, number, ["produce", "consume"] if tail else ["produce"], start)
    finally:
        for broker in contestants:
            broker.stop()


def profile():
    """perf of the broker under `large`."""
    broker = Corelog("corelog")
    broker.start()
    try:
        load = loadgen(broker, "produce", "profiled", f"{PRODUCE['large']} --duration {SECONDS + 6}", "profiled")
        time.sleep(4)
        data = DATA / "perf.data"
        subprocess.run(["perf", "record", "-q", "-F", "999", "-p", str(broker.process.pid), "-o", data, "--", "sleep", "4"],
                       check=True, stderr=subprocess.DEVNULL)
        finish(load)
        (OUT / "raw" / "profiled.json").unlink()
        report = subprocess.run(["perf", "report", "-i", data, "--stdio", "-s", "symbol", "--percent-limit", "0.5"],
                                capture_output=True, text=True, check=True).stdout
        lines = [line.rstrip(" -") for line in report.split("\n") if line.strip() and not line.startswith("#")]
        (OUT / "profile-large.txt").write_text("\n".join(lines) + "\n")
    finally:
        broker.stop()


def engine():
    out = subprocess.run([BIN / "journal-bench", "--dir", DATA / "journal-bench"], check=True, capture_output=True, text=True)
    (OUT / "engine.csv").write_text(out.stdout)
    print(out.stdout)


def disk():
    if not shutil.which("fio"):
        return print("fio is not installed: no disk figures")
    path = DATA / "fio"
    rows = ["write,MB_per_s,p50_us,p99_us"]
    for name, more in [("128 KiB direct, depth 8", ["--bs=128k", "--iodepth=8"]),
                       ("128 KiB direct durable, depth 8", ["--bs=128k", "--iodepth=8", "--sync=dsync"]),
                       ("4 KiB direct durable, depth 1", ["--bs=4k", "--iodepth=1", "--sync=dsync"])]:
        job = ["fio", "--name=w", f"--filename={path}", "--rw=write", "--direct=1", "--ioengine=io_uring", "--size=2g",
               "--overwrite=1", "--time_based", "--runtime=5", "--output-format=json", *more]
        write = json.loads(subprocess.run(job, check=True, capture_output=True, text=True).stdout)["jobs"][0]["write"]
        percentile = write["clat_ns"]["percentile"]
        rows.append(f"{name},{write['bw_bytes'] / 1e6:.0f},{percentile['50.000000'] / 1e3:.0f},{percentile['99.000000'] / 1e3:.0f}")
    path.unlink()
    (OUT / "disk.csv").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


def environment():
    run = lambda *words: subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().split("\n") if "model name" in line), "?")
    where = run("findmnt", "-n", "-o", "SOURCE,FSTYPE,OPTIONS", "-T", str(DATA)).stdout.strip()
    device = where.split()[0].rsplit("/", 1)[-1] if where else ""
    cache = Path(f"/sys/block/{device}/queue/write_cache")
    memory = next(line for line in Path("/proc/meminfo").read_text().split("\n") if line.startswith("MemTotal"))
    java = run("java", "-version").stderr.split("\n")[0]
    kafka = next((p.name for p in Path(LIBS).glob("kafka-server-4*.jar")), "?")
    commit = run("git", "rev-parse", "--short", "HEAD").stdout.strip()
    lines = [f"date        {time.strftime('%Y-%m-%d %H:%M')}", f"commit      {commit}", f"cpu         {CPUS} x {cpu}", memory,
             f"kernel      {platform.release()}", f"disk        {where}",
             f"write cache {cache.read_text().strip() if cache.exists() else '?'}",
             f"huge pages  {Path('/sys/kernel/mm/transparent_hugepage/enabled').read_text().strip()}",
             f"kafka       {kafka}, {java}, heap 1 GiB, stock settings", f"corelog     {'--memory ' + MEMORY if MEMORY else 'stock settings'}",
             f"runs        {ROUNDS} rounds of {WARMUP} s warm-up and {SECONDS} s measured, after 8 s that are not counted",
             f"priority    nice {NICE} for brokers and loadgen alike", f"load        {os.getloadavg()} before"]
    (OUT / "environment.txt").write_text("\n".join(lines) + "\n")


def main():
    known = ["large", "small100", "small", "latency", "tail", "profile", "engine", "disk"]
    wanted = sys.argv[1:] or known
    unknown = [name for name in wanted if name not in known]
    if unknown:
        sys.exit(f"there is no workload {unknown[0]}; there are {' '.join(known)}")
    if NICE:
        os.nice(NICE)  # inherited by the brokers and loadgen alike
        prioritise("self")
    OUT.mkdir(parents=True, exist_ok=True)
    DATA.mkdir(parents=True, exist_ok=True)
    environment()
    results = Results()
    three = lambda: [Corelog("corelog"), Kafka("kafka"), Kafka("kafka-flush", "flush.messages=1")]
    print("  ".join(COLUMNS))
    for workload in ["large", "small100", "small"]:
        if workload in wanted:
            saturated(results, workload, three(), workload == "large")
            results.save()
    rate = results.median("large", "kafka", "records_per_s") or saved_rate()
    for workload, share in [("latency", 2), ("tail", 4)]:
        if workload in wanted:
            open_loop(results, workload, three(), rate / share, workload == "tail")
            results.save()
    for name, body in [("profile", profile), ("engine", engine), ("disk", disk)]:
        if name in wanted:
            body()
    with (OUT / "environment.txt").open("a") as file:
        file.write(f"load        {os.getloadavg()} after\n")
    shutil.rmtree(DATA, ignore_errors=True)


def saved_rate():
    """Kafka's rate in an earlier run of `large` into the same directory."""
    path = OUT / "results.csv"
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    rates = [float(row["records_per_s"]) for row in rows
             if (row["workload"], row["contestant"], row["what"]) == ("large", "kafka", "produce") and row["records_per_s"]]
    return statistics.median(rates) if rates else 100_000.0


if __name__ == "__main__":
    # So that the brokers are stopped too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    main()
