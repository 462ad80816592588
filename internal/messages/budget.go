package messages

import (
	"errors"
	"sync/atomic"
)

// ErrBusy is returned when the pages that are being made or written need all memory of the
// [Budget].
var ErrBusy = errors.New("the pages that are being read need all memory that pages may take")

// A Budget is the memory that all pages may take together, in bytes. It is safe for
// concurrent use.
type Budget struct {
	size  int64
	taken atomic.Int64
}

// NewBudget returns a Budget of a number of bytes.
func NewBudget(bytes int) *Budget { return &Budget{size: int64(bytes)} }

// Taken returns the number of bytes that are taken.
func (b *Budget) Taken() int64 { return b.taken.Load() }

// A share is the part of a budget that a page has taken. A share of no budget is never
// refused.
type share struct {
	budget *Budget
	taken  int64
}

// resize takes or gives back memory until the share has a number of bytes. It reports
// false, and changes nothing, if the budget does not have as many.
func (s *share) resize(bytes int) bool {
	more := int64(bytes) - s.taken
	if s.budget == nil || more == 0 {
		return true
	}
	if now := s.budget.taken.Add(more); more > 0 && now > s.budget.size {
		s.budget.taken.Add(-more)
		return false
	}
	s.taken += more
	return true
}

// set is resize for what is in memory already, so it is never refused.
func (s *share) set(bytes int) {
	if s.budget != nil {
		s.budget.taken.Add(int64(bytes) - s.taken)
		s.taken = int64(bytes)
	}
}
