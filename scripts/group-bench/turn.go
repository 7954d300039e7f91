// One group's life on one broker: it starts, members join and leave, some are killed.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Records are sent to each partition at this interval.
const sendEvery = 500 * time.Millisecond

type turn struct {
	broker   *broker
	protocol string
	round    int
	topic    string // and the group's name
	ledger   *ledger
	members  []*member
	joined   int // ever
	admin    *kgo.Client
	events   []*event
}

// run has the group live its life; round 0 is a short one.
func (t *turn) run() {
	t.topic = fmt.Sprintf("%s-%d", t.protocol, t.round)
	t.ledger = newLedger(opt.partitions)
	var err error
	t.admin, err = kgo.NewClient(kgo.SeedBrokers(t.broker.address()), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err == nil {
		err = t.createTopic()
	}
	if err != nil {
		fail("%s: the topic cannot be made: %v", t.broker.name, err)
	}
	stopSending := t.send()
	// The same members for both brokers.
	random := rand.New(rand.NewSource(int64(t.round)))
	t.live(random)
	for _, m := range t.members {
		go m.leave()
	}
	for _, m := range t.members {
		<-m.done
	}
	stopSending()
	t.deleteTopic()
	t.admin.Close()
}

func (t *turn) live(random *rand.Rand) {
	// Spread over one heartbeat's interval, as the members of a real group are: with KIP-848 each keeps the beat that it
	// began with, and were that one beat for all, whether a change is seen now or an interval later would be chance.
	start := func() error {
		for range opt.members {
			if err := t.join(); err != nil {
				return err
			}
			time.Sleep(consumerHeartbeat / time.Duration(opt.members))
		}
		return nil
	}
	leave := func() error {
		m := t.remove(random)
		go m.leave()
		return nil
	}
	kill := func() error {
		t.events[len(t.events)-1].lastSign = t.remove(random).vanish()
		return nil
	}
	if !t.event("start", start) {
		return
	}
	events := opt.events
	if t.round == 0 {
		events, kill = 1, nil
	}
	// At any moment of the members' beats, not always as long after the last change.
	then := func(kind string, happen func() error) bool {
		time.Sleep(time.Duration(random.Int63n(int64(consumerHeartbeat))))
		return t.event(kind, happen)
	}
	for range events {
		if !then("join", t.join) || !then("leave", leave) || (kill != nil && !then("kill", kill)) {
			return
		}
	}
}

func (t *turn) join() error {
	m, err := join(t, t.joined)
	if err == nil {
		t.members = append(t.members, m)
		t.joined++
	}
	return err
}

func (t *turn) remove(random *rand.Rand) *member {
	place := random.Intn(len(t.members))
	m := t.members[place]
	t.members = slices.Delete(t.members, place, place+1)
	return m
}

// event has something happen, waits until the group is stable again, and notes how that went; false if it never is.
func (t *turn) event(kind string, happen func() error) bool {
	before, processor := t.ledger.mark(), t.broker.processor()
	e := &event{Kind: kind, Number: len(t.events) + 1}
	t.events = append(t.events, e)
	if err := happen(); err != nil {
		fail("%s: %s: %v", t.topic, kind, err)
	}
	ids := make([]int, len(t.members))
	for i, m := range t.members {
		ids[i] = m.id
	}
	patience := opt.patience
	if kind == "kill" {
		patience += opt.session
	}
	var settled bool
	var last time.Duration
	for {
		time.Sleep(50 * time.Millisecond)
		settled, last = t.ledger.settled(ids)
		if settled && now()-max(last, before.at) >= opt.quiet {
			break
		}
		if !t.broker.alive() {
			fail("%s ended:\n%s", t.broker.name, t.broker.log())
		}
		if now()-before.at > patience {
			settled = false
			break
		}
	}
	e.Stable = settled
	e.judge(t.ledger, before, last)
	e.judgeProcessor(processor, t.broker.processor())
	if t.round > 0 {
		fmt.Println(e.line(t))
	}
	return settled
}

// --- the topic and its records --------------------------------------------------------------------------------------

func (t *turn) createTopic() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	request := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = t.topic, int32(opt.partitions), 1
	// Kafka maps the index files of a segment, 10 MiB each, into memory. Where the kernel keeps files in large folios
	// (ext4 in Linux 6.18), each write to a part that was written back costs 20 ms and dirties megabytes, and the
	// partitions of this topic, which grow alike, all do it at the same time: 16 s without a record. It says nothing
	// about groups, so the files are small.
	small := kmsg.NewCreateTopicsRequestTopicConfig()
	small.Name, small.Value = "segment.index.bytes", kmsg.StringPtr("65536")
	topic.Configs = append(topic.Configs, small)
	request.Topics = append(request.Topics, topic)
	response, err := request.RequestWith(ctx, t.admin)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(response.Topics[0].ErrorCode); err != nil {
		return err
	}
	// Until every partition takes records.
	for p := range opt.partitions {
		t.admin.Produce(ctx, t.record(p), nil)
	}
	return t.admin.Flush(ctx)
}

func (t *turn) deleteTopic() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request := kmsg.NewPtrDeleteTopicsRequest()
	topic := kmsg.NewDeleteTopicsRequestTopic()
	topic.Topic = kmsg.StringPtr(t.topic)
	request.Topics, request.TopicNames = append(request.Topics, topic), []string{t.topic}
	if _, err := request.RequestWith(ctx, t.admin); err != nil {
		fail("%s: the topic cannot be deleted: %v", t.broker.name, err)
	}
}

func (t *turn) record(partition int) *kgo.Record {
	value := binary.BigEndian.AppendUint64(nil, uint64(now()))
	return &kgo.Record{Topic: t.topic, Partition: int32(partition), Value: value}
}

// send writes to each partition at intervals, a few at a time, until what it returns is called.
func (t *turn) send() func() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		const tick = 10 * time.Millisecond
		ticker := time.NewTicker(tick)
		defer ticker.Stop()
		begun, sent := now(), 0
		for ctx.Err() == nil {
			<-ticker.C
			due := int((now() - begun) * time.Duration(opt.partitions) / sendEvery)
			for ; sent < due; sent++ {
				t.admin.Produce(ctx, t.record(sent%opt.partitions), func(_ *kgo.Record, err error) {
					if err != nil && ctx.Err() == nil {
						t.ledger.noteError(fmt.Errorf("produce: %w", err))
					}
				})
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
