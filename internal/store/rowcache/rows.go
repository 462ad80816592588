package rowcache

import "container/list"

// Rows keeps a value for each of some rows, by the row's key. It is safe for concurrent
// use. A nil Rows keeps nothing.
type Rows[K comparable, V any] struct {
	budget *Budget

	// All below is guarded by the budget's mutex.
	byKey map[K]*list.Element // of *node[K, V]
	stats Stats
}

// Stats are the numbers of a Rows since it was made.
type Stats struct {
	// Hits is how often a value was found, and Misses how often it was not, or was of
	// another version.
	Hits, Misses uint64

	// Evictions is how many values were forgotten because the budget was taken.
	Evictions uint64

	// Bytes is how much of the budget is taken now.
	Bytes int64
}

// NewRows returns a Rows within a budget, which it may share with others.
func NewRows[K comparable, V any](budget *Budget) *Rows[K, V] {
	return &Rows[K, V]{budget: budget, byKey: map[K]*list.Element{}}
}

// A node is the entry of a row.
type node[K comparable, V any] struct {
	rows    *Rows[K, V]
	key     K
	value   V
	version Version
	seen    Moment
	bytes   int64
}

// drop implements entry.
func (n *node[K, V]) drop(evicted bool) int64 {
	delete(n.rows.byKey, n.key)
	n.rows.stats.Bytes -= n.bytes
	if evicted {
		n.rows.stats.Evictions++
	}
	return n.bytes
}

// Peek returns the value of a row in some version, which need not be there any more. The
// caller must not use what depends on the version before Get has returned it.
func (r *Rows[K, V]) Peek(key K) (value V, ok bool) {
	if r == nil {
		return value, false
	}
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	at, ok := r.byKey[key]
	if !ok {
		return value, false
	}
	return at.Value.(*node[K, V]).value, true
}

// Get returns the value of a row that a snapshot has in a version. It forgets a value of
// another version, unless the snapshot is older than that.
func (r *Rows[K, V]) Get(key K, version Version, now Moment) (value V, ok bool) {
	if r == nil {
		return value, false
	}
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	at, ok := r.byKey[key]
	if !ok {
		r.stats.Misses++
		return value, false
	}
	n := at.Value.(*node[K, V])
	if !n.version.same(version, n.seen, now) {
		r.stats.Misses++
		if !now.sameRun(n.seen) || now.Oldest >= n.seen.Oldest {
			r.budget.remove(at, false)
		}
		return value, false
	}
	r.stats.Hits++
	r.budget.recent.MoveToFront(at)
	if now.Oldest > n.seen.Oldest { // the later, the fewer ids are between it and the next one
		n.seen = now
	}
	return n.value, true
}

// Put keeps a value that was made of a version of a row that a snapshot has, instead of
// what was kept for the row. Bytes is the size of the key and the value. A value larger
// than a small part of the budget is not kept. The caller must not change the value.
func (r *Rows[K, V]) Put(key K, value V, version Version, now Moment, bytes int) {
	if r == nil {
		return
	}
	b := r.budget
	size := int64(bytes) + entryBytes
	b.mu.Lock()
	defer b.mu.Unlock()
	if at, ok := r.byKey[key]; ok {
		b.remove(at, false)
	}
	if size > b.size/maxShare {
		return
	}
	r.byKey[key] = b.recent.PushFront(&node[K, V]{r, key, value, version, now, size})
	r.stats.Bytes += size
	for b.taken += size; b.taken > b.size; {
		b.remove(b.recent.Back(), true)
	}
}

// Stats returns the numbers of the Rows. They are zero for nil.
func (r *Rows[K, V]) Stats() Stats {
	if r == nil {
		return Stats{}
	}
	r.budget.mu.Lock()
	defer r.budget.mu.Unlock()
	return r.stats
}
