// The body of group-bench.sh, which see: starts both brokers, then has a group live on each of them in turn, and
// writes what became of it.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// options are the settings of a run; group-bench.sh says what they are for.
type options struct {
	corelog, libs, out, data, commit, hold    string
	members, partitions, rounds, events, nice int
	session, quiet, patience                  time.Duration
	protocols                                 []string
}

var opt options

func seconds(name string, fallback int, usage string) func() time.Duration {
	value := flag.Float64(name, float64(fallback), usage+", in seconds")
	return func() time.Duration { return time.Duration(*value * float64(time.Second)) }
}

func parse() {
	flag.StringVar(&opt.corelog, "corelog", "", "the broker's binary")
	flag.StringVar(&opt.libs, "kafka-libs", "", "folder of Kafka's jars")
	flag.StringVar(&opt.out, "out", "", "where results go")
	flag.StringVar(&opt.data, "data", "", "where the brokers' data goes")
	flag.StringVar(&opt.commit, "commit", "?", "the commit that the binary is of")
	flag.StringVar(&opt.hold, "hold", "", "no turn begins while this file exists")
	flag.IntVar(&opt.members, "members", 200, "members of the group")
	flag.IntVar(&opt.partitions, "partitions", 400, "partitions of the topic")
	flag.IntVar(&opt.rounds, "rounds", 3, "turns of each broker with each protocol")
	flag.IntVar(&opt.events, "events", 3, "joins, leaves and kills in each turn")
	flag.IntVar(&opt.nice, "nice", 0, "the nice level that this runs with; only noted")
	session := seconds("session", 10, "session timeout")
	quiet := seconds("quiet", 7, "without a change until the group counts as stable")
	patience := seconds("patience", 120, "until a group counts as never getting stable")
	brokers := flag.String("brokers", "corelog kafka", "which brokers, in which order")
	names := flag.String("protocols", strings.Join(protocolNames(), " "), "which protocols")
	flag.Parse()
	opt.session, opt.quiet, opt.patience = session(), quiet(), patience()
	opt.protocols = strings.Fields(*names)
	for _, name := range opt.protocols {
		if _, known := protocols[name]; !known {
			fail("there is no protocol %s; there are %s", name, strings.Join(protocolNames(), " "))
		}
	}
	for _, name := range strings.Fields(*brokers) {
		switch name {
		case "corelog":
			running = append(running, corelog())
		case "kafka":
			running = append(running, kafka())
		default:
			fail("there is no broker %s; there are corelog and kafka", name)
		}
	}
	if opt.members < 2 || opt.partitions <= opt.members {
		fail("there must be two members, and more partitions than members, so that each has work")
	}
}

// running is what fail has to stop.
var running []*broker

func fail(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, "group-bench: "+format+"\n", arguments...)
	for _, b := range running {
		b.stop()
	}
	os.Exit(1)
}

func main() {
	// The kernel ends the brokers with the thread that started them: it must be the one that lasts.
	runtime.LockOSThread()
	parse()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		fail("ended by %v", <-stop)
	}()
	for _, dir := range []string{filepath.Join(opt.out, "raw"), opt.data} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			fail("%v", err)
		}
	}
	for _, b := range running {
		if err := b.start(); err != nil {
			fail("%v", err)
		}
	}
	environment()
	for _, b := range running {
		fmt.Printf("%s: warming up, not counted\n", b.name)
		(&turn{broker: b, protocol: opt.protocols[0], round: 0}).run()
	}
	var all []*turn
	for round := 1; round <= opt.rounds; round++ {
		for _, name := range opt.protocols {
			for _, b := range running {
				hold()
				t := &turn{broker: b, protocol: name, round: round}
				t.run()
				all = append(all, t)
				t.save()
			}
		}
	}
	for _, b := range running {
		b.stop()
	}
	if !report(all) {
		os.Exit(1)
	}
}

// hold waits until others on the machine no longer ask for it.
func hold() {
	for opt.hold != "" {
		if _, err := os.Stat(opt.hold); err != nil {
			return
		}
		time.Sleep(2 * time.Second)
	}
}
