package expiring

import (
	"container/heap"
	"sync"
	"time"
)

// A Map holds a bounded number of entries, each for its time to live. It is safe
// for concurrent use.
type Map[K comparable, V any] struct {
	maxEntries int

	mu       sync.Mutex
	byKey    map[K]*entry[K, V]
	byExpiry expiryHeap[K, V] // the same entries
}

type entry[K comparable, V any] struct {
	key     K
	value   V
	expires time.Time
	index   int // in byExpiry
}

// New returns an empty Map for at most maxEntries entries. It panics if that is
// less than 1.
func New[K comparable, V any](maxEntries int) *Map[K, V] {
	if maxEntries < 1 {
		panic("expiring: a map needs room for an entry")
	}
	return &Map[K, V]{maxEntries: maxEntries, byKey: map[K]*entry[K, V]{}}
}

// Get returns the value of a key. It reports false if there is no entry for the
// key, or if the entry has expired.
func (m *Map[K, V]) Get(key K) (value V, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.byKey[key]
	if !ok || !time.Now().Before(e.expires) {
		return value, false
	}
	return e.value, true
}

// Put sets the value of a key for a time to live, which replaces the value and the
// time of an earlier Put. A time to live that is not positive deletes the key.
func (m *Map[K, V]) Put(key K, value V, ttl time.Duration) {
	if ttl <= 0 {
		m.Delete(key)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	if e, ok := m.byKey[key]; ok {
		e.value, e.expires = value, now.Add(ttl)
		heap.Fix(&m.byExpiry, e.index)
		return
	}
	for len(m.byExpiry) > 0 && !now.Before(m.byExpiry[0].expires) {
		m.remove(m.byExpiry[0])
	}
	if len(m.byExpiry) == m.maxEntries {
		m.remove(m.byExpiry[0])
	}
	e := &entry[K, V]{key: key, value: value, expires: now.Add(ttl)}
	m.byKey[key] = e
	heap.Push(&m.byExpiry, e)
}

// Delete removes the entry of a key, if there is one.
func (m *Map[K, V]) Delete(key K) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.byKey[key]; ok {
		m.remove(e)
	}
}

// remove removes an entry. The caller holds mu.
func (m *Map[K, V]) remove(e *entry[K, V]) {
	delete(m.byKey, e.key)
	heap.Remove(&m.byExpiry, e.index)
}

var _ heap.Interface = (*expiryHeap[string, int])(nil)

// An expiryHeap is a heap of entries. The first one expires first.
type expiryHeap[K comparable, V any] []*entry[K, V]

// Len implements [heap.Interface].
func (h expiryHeap[K, V]) Len() int { return len(h) }

// Less implements [heap.Interface].
func (h expiryHeap[K, V]) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }

// Swap implements [heap.Interface].
func (h expiryHeap[K, V]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push implements [heap.Interface]. Callers use [heap.Push].
func (h *expiryHeap[K, V]) Push(x any) {
	e := x.(*entry[K, V])
	e.index = len(*h)
	*h = append(*h, e)
}

// Pop implements [heap.Interface]. Callers use [heap.Remove].
func (h *expiryHeap[K, V]) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil // so that the entry can be collected
	*h = (*h)[:last]
	return e
}
