//go:build !race

package lockmodel

import (
	"fmt"
	"slices"
	"strings"
)

// A step is a change of the state that may happen next. An action is what happens, for
// people.
type step struct {
	to     state
	action string

	// wrong says which rule the step breaks, "" if it breaks none.
	wrong string
}

// An explored is all states that can be reached.
type explored struct {
	model  model
	states []state

	// from is the index of the state from which each was reached first.
	from []int32

	// steps are the steps from each state to another, as indexes, in the order of the
	// states from which they lead.
	steps [][2]int32
}

// explore reaches all states from the first one. It returns an error with the way to the
// first state in which a rule is broken, and fails for more states than the limit.
func (m model) explore(limit int) (*explored, error) {
	first := m.first()
	all := &explored{model: m, states: []state{first}, from: []int32{-1}}
	index := map[state]int32{first: 0}
	var next []step
	for i := 0; i < len(all.states); i++ {
		next = m.next(all.states[i], next[:0])
		for _, step := range next {
			if step.wrong == "" {
				step.wrong = m.broken(step.to)
			}
			if step.wrong != "" {
				return nil, fmt.Errorf("%s:\n%s\n%s", step.wrong, all.way(int32(i)), m.action(all.states[i], step.to))
			}
			to, known := index[step.to]
			if !known {
				if to = int32(len(all.states)); int(to) >= limit {
					return nil, fmt.Errorf("more than %d states", limit)
				}
				index[step.to] = to
				all.states, all.from = append(all.states, step.to), append(all.from, int32(i))
			}
			if to != int32(i) {
				all.steps = append(all.steps, [2]int32{int32(i), to})
			}
		}
	}
	return all, nil
}

// way returns the actions that lead to a state.
func (e *explored) way(i int32) string {
	var actions []string
	for ; i > 0; i = e.from[i] {
		actions = append(actions, e.model.action(e.states[e.from[i]], e.states[i]))
	}
	slices.Reverse(actions)
	return strings.Join(actions, "\n")
}

// action returns what leads from one state to another.
func (m model) action(from, to state) string {
	m.named = true
	for _, step := range m.next(from, nil) {
		if step.to == to {
			return step.action
		}
	}
	return "?"
}

// stuck returns the way to a state from which a process that is not dead never gets in
// again, whatever happens.
func (e *explored) stuck(p int) (way string, found bool) {
	in := uint8(inside)
	if e.model.isWriter(p) {
		in = committed
	}
	// The steps that lead to each state, side by side.
	begin := make([]int32, len(e.states)+1)
	for _, step := range e.steps {
		begin[step[1]+1]++
	}
	for i := range e.states {
		begin[i+1] += begin[i]
	}
	before, at := make([]int32, len(e.steps)), slices.Clone(begin)
	for _, step := range e.steps {
		before[at[step[1]]] = step[0]
		at[step[1]]++
	}
	can := make([]bool, len(e.states))
	var todo []int32
	for i, s := range e.states {
		if s.at[p] == in {
			can[i] = true
			todo = append(todo, int32(i))
		}
	}
	for len(todo) > 0 {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, from := range before[begin[i]:begin[i+1]] {
			if !can[from] {
				can[from] = true
				todo = append(todo, from)
			}
		}
	}
	for i, s := range e.states {
		if !can[i] && s.at[p] != dead {
			return e.way(int32(i)), true
		}
	}
	return "", false
}
