// A member of the group: a client of its own that polls all the time.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// protocols are the ways to share partitions out, by name.
var protocols = map[string][]kgo.Opt{
	"eager":       {kgo.Balancers(kgo.RangeBalancer())},
	"cooperative": {kgo.Balancers(kgo.CooperativeStickyBalancer())},
	// The sticky balancer is what makes this client ask for the broker's uniform assignor.
	"consumer": {kgo.ServerSideBalancer(), kgo.Balancers(kgo.StickyBalancer())},
}

func protocolNames() []string { return []string{"eager", "cooperative", "consumer"} }

// heartbeat is the interval of the classic protocol, Kafka's default.
const heartbeat = 3 * time.Second

type member struct {
	id     int
	client *kgo.Client
	ledger *ledger
	wire   wire
	// When it last told the coordinator that it lives, as `now`.
	lastSign atomic.Int64
	done     chan struct{}
}

func join(t *turn, id int) (*member, error) {
	m := &member{id: id, ledger: t.ledger, done: make(chan struct{})}
	told := func(gained bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, topics map[string][]int32) {
			m.ledger.note(id, gained, topics[t.topic])
		}
	}
	client, err := kgo.NewClient(slices.Concat(protocols[t.protocol], []kgo.Opt{
		kgo.SeedBrokers(t.broker.address()), kgo.ConsumerGroup(t.topic), kgo.ConsumeTopics(t.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(opt.session), kgo.HeartbeatInterval(heartbeat),
		kgo.OnPartitionsAssigned(told(true)), kgo.OnPartitionsRevoked(told(false)), kgo.OnPartitionsLost(told(false)),
		kgo.Dialer(m.wire.dial), kgo.WithHooks(m),
	})...)
	if err != nil {
		return nil, err
	}
	m.client = client
	go m.poll()
	return m, nil
}

func (m *member) poll() {
	defer close(m.done)
	for {
		fetches := m.client.PollFetches(context.Background())
		if fetches.IsClientClosed() {
			return
		}
		at := now()
		fetches.EachError(func(_ string, _ int32, err error) {
			if !m.wire.isCut() && !errors.Is(err, context.Canceled) {
				m.ledger.noteError(err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) {
			m.ledger.noteRead(at, r.Partition, r.Offset, time.Duration(binary.BigEndian.Uint64(r.Value)))
		})
	}
}

// OnBrokerWrite is called with every request that is sent.
func (m *member) OnBrokerWrite(_ kgo.BrokerMetadata, key int16, _ int, _, _ time.Duration, err error) {
	const joinGroup, heartbeat, syncGroup, consumerGroupHeartbeat = 11, 12, 14, 68
	if err == nil && (key == joinGroup || key == heartbeat || key == syncGroup || key == consumerGroupHeartbeat) {
		m.lastSign.Store(int64(now()))
	}
}

// leave says farewell, as a client does that is closed.
func (m *member) leave() {
	m.client.Close()
	<-m.done
}

// vanish is as if the process were killed: the connections end, and nothing more is said. Returns when the member
// last told the coordinator that it lives.
func (m *member) vanish() time.Duration {
	m.ledger.vanish(m.id)
	m.wire.cut()
	go m.client.Close() // has nobody to talk to any more
	return time.Duration(m.lastSign.Load())
}

// wire is a member's connections, which can be cut for good.
type wire struct {
	mu          sync.Mutex
	isOut       bool
	connections []net.Conn
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if w.isCut() {
		return nil, net.ErrClosed
	}
	var dialer net.Dialer
	connection, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isOut {
		connection.Close()
		return nil, net.ErrClosed
	}
	w.connections = append(w.connections, connection)
	return connection, nil
}

func (w *wire) isCut() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isOut
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isOut = true
	for _, connection := range w.connections {
		connection.Close()
	}
}
