package expiring

import "container/heap"

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
