// Who has which partition, and when each record was read.
package main

import (
	"slices"
	"sync"
	"time"
)

var origin = time.Now()

// now is the one clock of this program: monotonic, the same for all members and for the producer.
func now() time.Duration { return time.Since(origin) }

// change is a member's being told of partitions that it has from now on, or no longer.
type change struct {
	at         time.Duration
	member     int
	gained     bool
	partitions []int32
}

// read is the first reading of a record.
type read struct {
	at        time.Duration
	late      time.Duration // since it was sent
	partition int32
}

type ledger struct {
	mu      sync.Mutex
	owners  [][]int // of each partition
	gone    map[int]bool
	next    []int64 // of each partition, the first offset that nobody has read
	changes []change
	reads   []read
	doubled int // how often a partition was given to a member while another had it
	errors  map[string]int
}

func newLedger(partitions int) *ledger {
	return &ledger{owners: make([][]int, partitions), next: make([]int64, partitions), gone: map[int]bool{}, errors: map[string]int{}}
}

func (l *ledger) note(member int, gained bool, partitions []int32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone[member] || len(partitions) == 0 {
		return
	}
	l.changes = append(l.changes, change{now(), member, gained, slices.Clone(partitions)})
	for _, p := range partitions {
		l.owners[p] = slices.DeleteFunc(l.owners[p], func(other int) bool { return other == member })
		if gained {
			if len(l.owners[p]) > 0 {
				l.doubled++
			}
			l.owners[p] = append(l.owners[p], member)
		}
	}
}

// vanish has a member own nothing, whatever it goes on to believe.
func (l *ledger) vanish(member int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[member] = true
	for p := range l.owners {
		l.owners[p] = slices.DeleteFunc(l.owners[p], func(other int) bool { return other == member })
	}
}

func (l *ledger) noteRead(at time.Duration, partition int32, offset int64, sent time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset >= l.next[partition] {
		l.next[partition] = offset + 1
		l.reads = append(l.reads, read{at, at - sent, partition})
	}
}

func (l *ledger) noteError(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.errors[err.Error()]++
}

// mark is a place in the ledger.
type mark struct {
	at             time.Duration
	owners         []int // -1 for none, or for more than one
	changes, reads int
}

func (l *ledger) mark() mark {
	l.mu.Lock()
	defer l.mu.Unlock()
	return mark{now(), l.soleOwners(), len(l.changes), len(l.reads)}
}

func (l *ledger) soleOwners() []int {
	owners := make([]int, len(l.owners))
	for p, all := range l.owners {
		owners[p] = -1
		if len(all) == 1 {
			owners[p] = all[0]
		}
	}
	return owners
}

// settled tells whether each partition has one owner and each of the members, and nobody else, has a partition; and
// when the last change was.
func (l *ledger) settled(members []int) (bool, time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := time.Duration(0)
	if len(l.changes) > 0 {
		last = l.changes[len(l.changes)-1].at
	}
	owners := l.soleOwners()
	slices.Sort(owners)
	wanted := slices.Sorted(slices.Values(members))
	return slices.Equal(slices.Compact(owners), wanted), last
}

func (l *ledger) since(m mark) ([]change, []read) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.changes[m.changes:]), slices.Clone(l.reads[m.reads:])
}
