// What is to be said about one event of a group's life.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// event is what a group had to cope with, and how it did. Times are in seconds from the event on, pauses in milliseconds.
type event struct {
	Number int    `json:"number"`
	Kind   string `json:"kind"`
	Stable bool   `json:"stable"`
	// Until the last change of anybody's partitions.
	Seconds float64 `json:"seconds"`
	// That, less what was left of the killed member's session.
	Beyond *float64 `json:"seconds_beyond_session,omitempty"`
	// Partitions that changed hands, and that stayed.
	Moved int `json:"moved"`
	Kept  int `json:"kept"`
	// Members that had to give up a partition which they had again in the end.
	Stopped int `json:"members_stopped"`
	// The longest that a record waited to be read: of partitions that stayed, of those that moved, and of any
	// between the last change and the next event.
	KeptPause  float64 `json:"kept_pause_ms"`
	MovedPause float64 `json:"moved_pause_ms"`
	QuietPause float64 `json:"quiet_pause_ms"`
	// How often a partition was given to a member while another had it.
	Doubled int `json:"doubled"`
	// Of the broker, in seconds; and of others than the brokers and this program, as a share of the machine.
	Processor float64 `json:"broker_cpu_s"`
	Others    float64 `json:"others_busy"`
	// Milliseconds from the event on, and how many partitions a member got or lost then.
	Changes [][2]int64 `json:"changes"`

	lastSign time.Duration
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (e *event) judge(l *ledger, before mark, last time.Duration) {
	changes, reads := l.since(before)
	after := l.mark()
	e.Doubled, l.doubled = l.doubled, 0
	e.Seconds = max(0, last-before.at).Seconds()
	if e.lastSign > 0 {
		beyond := (last - (e.lastSign + opt.session)).Seconds()
		e.Beyond = &beyond
	}
	stayed := make([]bool, len(after.owners))
	for p, owner := range after.owners {
		stayed[p] = owner >= 0 && owner == before.owners[p]
		if stayed[p] {
			e.Kept++
		} else {
			e.Moved++
		}
	}
	stopped := map[int]bool{}
	for _, c := range changes {
		count := int64(len(c.partitions))
		if !c.gained {
			count = -count
			if slices.ContainsFunc(c.partitions, func(p int32) bool { return after.owners[p] == c.member }) {
				stopped[c.member] = true
			}
		}
		e.Changes = append(e.Changes, [2]int64{(c.at - before.at).Milliseconds(), count})
	}
	e.Stopped = len(stopped)
	// What a broker does right after the last change is still the event's.
	calm := last + opt.quiet/3
	for _, r := range reads {
		late := milliseconds(r.late)
		switch {
		case stayed[r.partition]:
			e.KeptPause = max(e.KeptPause, late)
		default:
			e.MovedPause = max(e.MovedPause, late)
		}
		if r.at > calm {
			e.QuietPause = max(e.QuietPause, late)
		}
	}
}

func (e *event) line(t *turn) string {
	text := fmt.Sprintf("%-11s %-7s round %d  %-5s %6.2f s", t.protocol, t.broker.name, t.round, e.Kind, e.Seconds)
	if e.Beyond != nil {
		text += fmt.Sprintf(" (%+.2f s beyond the session)", *e.Beyond)
	}
	text += fmt.Sprintf("  moved %d, stopped %d members, kept paused %.0f ms, moved %.0f ms (quiet: %.0f ms)", e.Moved,
		e.Stopped, e.KeptPause, e.MovedPause, e.QuietPause)
	text += fmt.Sprintf("  cpu %.2f s, others %.2f", e.Processor, e.Others)
	if e.Doubled > 0 {
		text += fmt.Sprintf("  %d TIMES TWO OWNERS", e.Doubled)
	}
	if !e.Stable {
		text += "  NOT STABLE"
	}
	return text
}

// --- processor time ---------------------------------------------------------------------------------------------------

// ticksPerSecond is what Linux counts processor time in, on every architecture that it tells programs about.
const ticksPerSecond = 100

// processor is processor time so far, in seconds.
type processor struct {
	at                    time.Duration
	machine, ours, broker float64
}

func (b *broker) processor() processor {
	p := processor{at: now(), machine: machineBusy(), broker: processBusy(b.process.Process.Pid)}
	p.ours = processBusy(os.Getpid())
	for _, other := range running {
		p.ours += processBusy(other.process.Process.Pid)
	}
	return p
}

func (e *event) judgeProcessor(from, to processor) {
	e.Processor = to.broker - from.broker
	others := (to.machine - from.machine) - (to.ours - from.ours)
	e.Others = max(0, others) / (to.at - from.at).Seconds() / float64(processors())
}

func numbers(words []string) []float64 {
	all := make([]float64, len(words))
	for i, word := range words {
		all[i], _ = strconv.ParseFloat(word, 64)
	}
	return all
}

// machineBusy leaves out idle, waiting for the disk, and what is counted twice.
func machineBusy() float64 {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	fields := numbers(strings.Fields(line)[1:])
	return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / ticksPerSecond
}

func processBusy(pid int) float64 {
	text, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	// The command's name may hold anything, but for a last parenthesis.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	times := numbers(fields[11:13])
	return (times[0] + times[1]) / ticksPerSecond
}
