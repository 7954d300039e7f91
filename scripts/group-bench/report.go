// What is written about a run: the machine, each turn, and the table.
package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

func processors() int { return runtime.NumCPU() }

func write(name string, content []byte) {
	if err := os.WriteFile(filepath.Join(opt.out, name), content, 0o644); err != nil {
		fail("%v", err)
	}
}

func firstLine(text []byte, containing string) string {
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, containing) {
			return strings.TrimSpace(line)
		}
	}
	return "?"
}

func environment() {
	file := func(path string) []byte {
		text, _ := os.ReadFile(path)
		return text
	}
	output := func(words ...string) []byte {
		text, _ := exec.Command(words[0], words[1:]...).CombinedOutput()
		return text
	}
	_, cpu, _ := strings.Cut(firstLine(file("/proc/cpuinfo"), "model name"), ": ")
	kafka, _ := filepath.Glob(filepath.Join(opt.libs, "kafka-server-4*.jar"))
	lines := []string{
		"date        " + time.Now().Format("2006-01-02 15:04"),
		"commit      " + opt.commit,
		fmt.Sprintf("cpu         %d x %s", processors(), cpu),
		firstLine(file("/proc/meminfo"), "MemTotal"),
		"kernel      " + strings.TrimSpace(string(file("/proc/sys/kernel/osrelease"))),
		"disk        " + strings.TrimSpace(string(output("findmnt", "-n", "-o", "SOURCE,FSTYPE", "-T", opt.data))),
		"client      franz-go v1.22.2, " + runtime.Version() + ", all members in one process",
		fmt.Sprintf("kafka       %s, %s, heap 1 GiB", base(kafka), firstLine(output("java", "-version"), "version")),
		"both        " + strings.Join(groupSettings(), " "),
		fmt.Sprintf("classic     session.timeout.ms=%d heartbeat.interval.ms=%d rebalance timeout 60 s",
			opt.session.Milliseconds(), heartbeat.Milliseconds()),
		fmt.Sprintf("group       %d members, %d partitions, %.0f records/s, segment.index.bytes=65536", opt.members, opt.partitions,
			float64(opt.partitions)/sendEvery.Seconds()),
		fmt.Sprintf("runs        %d rounds of a start and %d times a join, a leave and a kill; stable after %.0f s without a change",
			opt.rounds, opt.events, opt.quiet.Seconds()),
		fmt.Sprintf("priority    nice %d for brokers and clients alike", opt.nice),
		"load        " + strings.TrimSpace(string(file("/proc/loadavg"))) + " before",
	}
	write("environment.txt", []byte(strings.Join(lines, "\n")+"\n"))
}

func base(paths []string) string {
	if len(paths) == 0 {
		return "?"
	}
	return filepath.Base(paths[0])
}

// save writes the turn's raw data.
func (t *turn) save() {
	t.ledger.mu.Lock()
	defer t.ledger.mu.Unlock()
	text, err := json.Marshal(map[string]any{"protocol": t.protocol, "broker": t.broker.name, "round": t.round,
		"events": t.events, "client_errors": t.ledger.errors})
	if err != nil {
		fail("%v", err)
	}
	// One event a line.
	text = []byte(strings.ReplaceAll(string(text), `{"number"`, "\n"+`{"number"`) + "\n")
	write(fmt.Sprintf("raw/%s-%s-%d.json", t.protocol, t.broker.name, t.round), text)
}

var columns = []string{"protocol", "broker", "round", "number", "kind", "stable", "seconds", "seconds_beyond_session", "moved",
	"kept", "members_stopped", "kept_pause_ms", "moved_pause_ms", "quiet_pause_ms", "doubled", "broker_cpu_s", "others_busy"}

func (e *event) row(t *turn) []string {
	beyond := ""
	if e.Beyond != nil {
		beyond = fmt.Sprintf("%.3f", *e.Beyond)
	}
	values := []any{t.protocol, t.broker.name, t.round, e.Number, e.Kind, e.Stable, e.Seconds, beyond, e.Moved, e.Kept,
		e.Stopped, e.KeptPause, e.MovedPause, e.QuietPause, e.Doubled, e.Processor, e.Others}
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = fmt.Sprint(value)
		if number, is := value.(float64); is {
			words[i] = fmt.Sprintf("%.3f", number)
		}
	}
	return words
}

// report writes all events and the table; false if a group did not get stable, or a partition had two owners.
func report(all []*turn) bool {
	var rows strings.Builder
	writer := csv.NewWriter(&rows)
	writer.Write(columns)
	good := true
	for _, t := range all {
		for _, e := range t.events {
			writer.Write(e.row(t))
			good = good && e.Stable && e.Doubled == 0
		}
		for err, count := range t.ledger.errors {
			fmt.Printf("%s %s: %d times: %s\n", t.broker.name, t.topic, count, err)
		}
	}
	writer.Flush()
	write("results.csv", []byte(rows.String()))
	table := table(all)
	write("table.md", []byte(table))
	fmt.Printf("\n%s\n", table)
	if !good {
		fmt.Println("a group did not get stable, or a partition had two owners: see results.csv")
	}
	return good
}

// spread is a median with the least and the most.
func spread(values []float64, format string) (string, float64) {
	if len(values) == 0 {
		return "–", 0
	}
	slices.Sort(values)
	middle := (values[(len(values)-1)/2] + values[len(values)/2]) / 2
	one := func(value float64) string { return fmt.Sprintf(format, value) }
	return fmt.Sprintf("%s (%s–%s)", one(middle), one(values[0]), one(values[len(values)-1])), middle
}

func table(all []*turn) string {
	figures := []struct {
		name, format string
		of           func(*event) float64
	}{
		{"s until stable", "%.2f", func(e *event) float64 { return e.Seconds }},
		{"partitions moved", "%.0f", func(e *event) float64 { return float64(e.Moved) }},
		{"members that stopped with what they kept", "%.0f", func(e *event) float64 { return float64(e.Stopped) }},
		{"longest wait of a record, partitions kept, ms", "%.0f", func(e *event) float64 { return e.KeptPause }},
		{"the same, partitions moved, ms", "%.0f", func(e *event) float64 { return e.MovedPause }},
		{"the same, when nothing happens, ms", "%.0f", func(e *event) float64 { return e.QuietPause }},
		{"broker, CPU-s", "%.2f", func(e *event) float64 { return e.Processor }},
	}
	var out strings.Builder
	out.WriteString("| protocol | event | median (least–most) | corelog | kafka | ratio |\n|---|---|---|---|---|---|\n")
	for _, protocol := range opt.protocols {
		for _, kind := range []string{"start", "join", "leave", "kill"} {
			for i, figure := range figures {
				if kind == "start" && i > 0 && i < len(figures)-2 {
					continue // they read what was written before they came
				}
				row := func(name, format string, of func(*event) float64) {
					ours, a := spread(pick(all, protocol, kind, "corelog", of), format)
					theirs, b := spread(pick(all, protocol, kind, "kafka", of), format)
					ratio := ""
					if b > 0 {
						ratio = fmt.Sprintf("%.2f", a/b)
					}
					fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s |\n", protocol, kind, name, ours, theirs, ratio)
				}
				if kind == "kill" && i == 0 {
					row("s until stable, less what was left of the session", figure.format, func(e *event) float64 {
						if e.Beyond == nil {
							return 0
						}
						return *e.Beyond
					})
					continue
				}
				row(figure.name, figure.format, figure.of)
			}
		}
	}
	return out.String()
}

func pick(all []*turn, protocol, kind, broker string, of func(*event) float64) []float64 {
	var values []float64
	for _, t := range all {
		for _, e := range t.events {
			if t.protocol == protocol && t.broker.name == broker && e.Kind == kind && e.Stable {
				values = append(values, of(e))
			}
		}
	}
	return values
}
