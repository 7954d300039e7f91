// Groups of both protocols and transactions through franz-go. Prints "pass NAME" or "FAIL NAME: WHY" for each check,
// and "end" last.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const patience = time.Minute

var (
	bootstrap, run = os.Args[1], os.Args[2]
	admin          = kadm.NewClient(client())
	bg             = context.Background()
)

// failed is what a check that does not hold panics with.
type failed string

func main() {
	only := regexp.MustCompile(os.Getenv("INTEROP_ONLY"))
	check := func(name string, body func()) {
		if !only.MatchString("franz-go: " + name) {
			return
		}
		defer func() {
			if why := recover(); why != nil {
				text := strings.ReplaceAll(fmt.Sprint(why), "\n", " ")
				lines := regexp.MustCompile(`main\.go:\d+`).FindAllString(string(debug.Stack()), -1)
				fmt.Printf("FAIL %s: %.500s %v\n", name, text, lines)
				return
			}
			fmt.Println("pass", name)
		}()
		body()
	}
	for _, protocol := range []string{"classic", "consumer"} {
		check("group "+protocol+": shared out, taken over, resumed", func() { group(protocol) })
	}
	check("transactions: commit, abort, read_committed", commitAndAbort)
	check("transactions: a fenced producer leaves nothing", fencing)
	for _, protocol := range []string{"classic", "consumer"} {
		check("transactions: offsets with the records, group "+protocol, func() { offsetsInTransaction(protocol) })
	}
	fmt.Println("end")
}

// --- groups ---------------------------------------------------------------------------------------------------------

// member polls in a goroutine of its own until it is closed.
type member struct {
	client *kgo.Client
	done   chan struct{}
	mu     sync.Mutex
	read   []int
	owned  map[int32]bool
}

func join(group, protocol, topic string) *member {
	m := &member{owned: map[int32]bool{}, done: make(chan struct{})}
	set := func(owned bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, cl *kgo.Client, topics map[string][]int32) {
			if !owned && cl != nil {
				check(cl.CommitUncommittedOffsets(bg)) // so that nothing is read again
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, partition := range topics[topic] {
				if owned {
					m.owned[partition] = true
				} else {
					delete(m.owned, partition)
				}
			}
		}
	}
	options := []kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(200 * time.Millisecond),
		kgo.OnPartitionsAssigned(set(true)), kgo.OnPartitionsRevoked(set(false)),
	}
	if protocol == "consumer" {
		options = append(options, kgo.ServerSideBalancer())
	}
	m.client = client(options...)
	go m.poll()
	return m
}

func (m *member) poll() {
	defer close(m.done)
	for {
		fetches := m.client.PollFetches(bg)
		if fetches.IsClientClosed() {
			return
		}
		m.mu.Lock()
		fetches.EachRecord(func(record *kgo.Record) { m.read = append(m.read, number(record)) })
		m.mu.Unlock()
		m.client.AllowRebalance()
	}
}

func (m *member) values() []int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.read)
}

func (m *member) leave() {
	m.client.CloseAllowingRebalance()
	<-m.done
}

func group(protocol string) {
	topic, name := create("group-"+protocol, 6), "go-"+protocol+"-"+run
	produce(topic, 6, 0, 600)
	members := []*member{join(name, protocol, topic), join(name, protocol, topic), join(name, protocol, topic)}
	until("three share six partitions", func() bool { return isSharedOut(6, members) })
	left := members[2]
	members = members[:2]
	left.leave()
	until("two take over", func() bool { return isSharedOut(6, members) })
	produce(topic, 6, 600, 1200)
	read := func() []int {
		all := left.values()
		for _, m := range members {
			all = append(all, m.values()...)
		}
		slices.Sort(all)
		return all
	}
	until("all is read", func() bool { return len(read()) >= 1200 })
	same("each record once", read(), numbers(0, 1200))
	for _, m := range members {
		check(m.client.CommitUncommittedOffsets(bg))
	}
	same("committed", committed(name, topic), []int64{200, 200, 200, 200, 200, 200})
	if protocol == "classic" {
		described := must(admin.DescribeGroups(bg, name))[name]
		same("described", []any{described.State, len(described.Members)}, []any{"Stable", 2})
	}
	for _, m := range members {
		m.leave()
	}
	produce(topic, 6, 1200, 1260)
	next := join(name, protocol, topic)
	until("the rest is read", func() bool { return len(next.values()) >= 60 })
	rest := next.values()
	slices.Sort(rest)
	same("only the rest", rest, numbers(1200, 1260))
	next.leave()
	must(admin.DeleteGroup(bg, name))
}

func isSharedOut(partitions int, members []*member) bool {
	most := (partitions + len(members) - 1) / len(members)
	var owned []int
	for _, m := range members {
		m.mu.Lock()
		for partition := range m.owned {
			owned = append(owned, int(partition))
		}
		tooMany := len(m.owned) > most
		m.mu.Unlock()
		if tooMany {
			return false
		}
	}
	slices.Sort(owned)
	return slices.Equal(owned, numbers(0, partitions))
}

func committed(group, topic string) []int64 {
	offsets := must(admin.FetchOffsets(bg, group))
	var committed []int64
	for partition := int32(0); ; partition++ {
		offset, ok := offsets.Lookup(topic, partition)
		if !ok {
			return committed
		}
		committed = append(committed, offset.At)
	}
}

// --- transactions ---------------------------------------------------------------------------------------------------

func transactional(name string) *kgo.Client {
	return client(kgo.TransactionalID(name+"-go-"+run), kgo.RecordPartitioner(kgo.ManualPartitioner()))
}

func commitAndAbort() {
	topic, producer := create("txn", 2), transactional("txn")
	defer producer.Close()
	var wanted [2][]int
	for i := range 6 {
		check(producer.BeginTransaction())
		send(producer, topic, 2, 100*i, 100*i+100)
		check(producer.EndTransaction(bg, kgo.TransactionEndTry(i%2 == 0)))
		for n := 100 * i; i%2 == 0 && n < 100*i+100; n++ {
			wanted[n%2] = append(wanted[n%2], n)
		}
	}
	for partition := range int32(2) {
		same("committed, in order", readAll(topic, partition, kgo.ReadCommitted()), wanted[partition])
		same("all", len(readAll(topic, partition, kgo.ReadUncommitted())), 300)
	}
}

func fencing() {
	topic, first := create("fence", 1), transactional("fence")
	check(first.BeginTransaction())
	send(first, topic, 1, 0, 10)
	second := transactional("fence")
	check(second.BeginTransaction())
	send(second, topic, 1, 10, 20)
	err := first.EndTransaction(bg, kgo.TryCommit)
	fenced := errors.Is(err, kerr.ProducerFenced) || errors.Is(err, kerr.InvalidProducerEpoch)
	same(fmt.Sprint("the first is fenced: ", err), fenced, true)
	check(second.EndTransaction(bg, kgo.TryCommit))
	same("only the second's", readAll(topic, 0, kgo.ReadCommitted()), numbers(10, 20))
	first.Close()
	second.Close()
}

func offsetsInTransaction(protocol string) {
	from, to := create("from-"+protocol, 1), create("to-"+protocol, 1)
	name := "eos-" + protocol + "-go-" + run
	produce(from, 1, 0, 300)
	options := []kgo.Opt{
		kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(name), kgo.ConsumeTopics(from), kgo.TransactionalID(name),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.RequireStableFetchOffsets(), kgo.DefaultProduceTopic(to),
	}
	if protocol == "consumer" {
		options = append(options, kgo.ServerSideBalancer())
	}
	session := must(kgo.NewGroupTransactSession(options...))
	defer session.Close()
	// Every second transaction is aborted: its input is read again.
	ended := 0
	until("the copy is whole", func() bool {
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		fetches := session.PollRecords(ctx, 37)
		if fetches.NumRecords() == 0 {
			return slices.Equal(committed(name, from), []int64{300})
		}
		check(session.Begin())
		fetches.EachRecord(func(record *kgo.Record) {
			session.Produce(bg, kgo.KeySliceRecord(nil, record.Value), nil)
		})
		ended++
		must(session.End(bg, kgo.TransactionEndTry(ended%2 == 0)))
		return false
	})
	same("output", readAll(to, 0, kgo.ReadCommitted()), numbers(0, 300))
}

// readAll is what the partition holds up to its end for that isolation.
func readAll(topic string, partition int32, isolation kgo.IsolationLevel) []int {
	list := admin.ListEndOffsets
	if isolation == kgo.ReadCommitted() {
		list = admin.ListCommittedOffsets
	}
	end, _ := must(list(bg, topic)).Lookup(topic, partition)
	at := map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().AtStart()}}
	reader := client(kgo.ConsumePartitions(at), kgo.FetchIsolationLevel(isolation), kgo.KeepControlRecords())
	defer reader.Close()
	var read []int
	next := int64(0)
	until("the end", func() bool {
		if next >= end.Offset {
			return true
		}
		ctx, cancel := context.WithTimeout(bg, time.Second)
		defer cancel()
		reader.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
			next = record.Offset + 1
			if !record.Attrs.IsControl() {
				read = append(read, number(record))
			}
		})
		return false
	})
	return read
}

// --- helpers --------------------------------------------------------------------------------------------------------

func client(options ...kgo.Opt) *kgo.Client {
	return must(kgo.NewClient(append(options, kgo.SeedBrokers(bootstrap))...))
}

func create(name string, partitions int32) string {
	topic := name + "-go-" + run
	must(admin.CreateTopic(bg, partitions, 1, nil, topic))
	// a broker may answer a little earlier than it leads
	until("there are leaders", func() bool {
		offsets, err := admin.ListEndOffsets(bg, topic)
		return err == nil && offsets.Error() == nil && len(offsets[topic]) == int(partitions)
	})
	return topic
}

func produce(topic string, partitions, from, to int) {
	producer := client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	defer producer.Close()
	send(producer, topic, partitions, from, to)
}

func send(producer *kgo.Client, topic string, partitions, from, to int) {
	var records []*kgo.Record
	for n := from; n < to; n++ {
		value := []byte(strconv.Itoa(n))
		records = append(records, &kgo.Record{Topic: topic, Partition: int32(n % partitions), Value: value})
	}
	check(producer.ProduceSync(bg, records...).FirstErr())
}

func number(record *kgo.Record) int { return must(strconv.Atoi(string(record.Value))) }

func numbers(from, to int) []int {
	var all []int
	for n := from; n < to; n++ {
		all = append(all, n)
	}
	return all
}

func until(what string, done func() bool) {
	for end := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			panic(failed("not so: " + what))
		}
	}
}

func same(what string, got, wanted any) {
	if !reflect.DeepEqual(got, wanted) {
		panic(failed(fmt.Sprintf("%s: got %v, wanted %v", what, got, wanted)))
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}
