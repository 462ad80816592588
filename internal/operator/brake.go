package operator

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/labstack/echo/v4"

	"lethe/internal/brake"
	"lethe/internal/store/control"
	"lethe/internal/wire"
)

// brake is GET /_lethe/v1/brake.
func (o *Operator) brake(c echo.Context, _ string) error {
	ctx := c.Request().Context()
	set, err := o.control.BrakeLimits(ctx)
	if err != nil {
		return err
	}
	answer := Brake{}
	var states map[string]brake.State
	if o.options.Brakes != nil {
		if states, err = o.options.Brakes(ctx); err != nil {
			return fmt.Errorf("list the brakes: %w", err)
		}
		answer.Workers = new(workersOf(states))
	}
	for _, signal := range brake.Signals() {
		shown := signalOf(signal, set)
		for _, state := range states {
			shown.worst(state)
		}
		answer.Signals = append(answer.Signals, shown)
	}
	return wire.AnswerOK(c, answer, nil)
}

func workersOf(states map[string]brake.State) []BrakeWorker {
	workers := make([]BrakeWorker, 0, len(states))
	for name, state := range states {
		workers = append(workers, BrakeWorker{Name: name, Share: state.Share, Reason: state.Reason, At: milliseconds(state.At)})
	}
	slices.SortFunc(workers, func(a, b BrakeWorker) int { return cmp.Compare(a.Name, b.Name) })
	return workers
}

// signalOf returns a signal with its limits.
func signalOf(signal brake.Signal, set map[string]control.BrakeLimit) BrakeSignal {
	if own, ok := set[string(signal)]; ok {
		return BrakeSignal{Signal: string(signal), Soft: own.Soft, Hard: own.Hard, Who: own.Who, Set: milliseconds(own.Set)}
	}
	limits := brake.Default(signal)
	return BrakeSignal{Signal: string(signal), Soft: limits.Soft, Hard: limits.Hard, Default: true}
}

// worst takes the value that the state has for the signal, if it is worse, and the limits
// that hold without a setting.
func (s *BrakeSignal) worst(state brake.State) {
	for _, reading := range state.Readings {
		if string(reading.Signal) == s.Signal && s.Default {
			s.Soft, s.Hard = reading.Limits.Soft, reading.Limits.Hard // which depend on the server
		}
		if string(reading.Signal) == s.Signal && reading.Value != nil &&
			(s.Value == nil || brake.Worse(reading.Signal, *reading.Value, *s.Value)) {
			s.Value, s.Says = reading.Value, reading.Says
		}
	}
}

// setBrake is PUT /_lethe/v1/brake/{signal}.
func (o *Operator) setBrake(c echo.Context, who string) error {
	var body BrakeRequest
	// A body that was lost on its way would take all limits of the signal away.
	if err := wire.ReadSomeBody(c, &body); err != nil {
		return err
	}
	signal, err := o.signal(c)
	if err != nil {
		return err
	}
	if err := (brake.Limits{Soft: body.Soft, Hard: body.Hard}).Check(signal); err != nil {
		return wire.InvalidParam(err.Error())
	}
	set, err := o.control.SetBrakeLimit(c.Request().Context(), control.BrakeLimit{
		Signal: string(signal), Soft: body.Soft, Hard: body.Hard, Who: who,
	})
	return wire.AnswerOK(c, signalOf(signal, map[string]control.BrakeLimit{string(signal): set}), err)
}

// resetBrake is DELETE /_lethe/v1/brake/{signal}.
func (o *Operator) resetBrake(c echo.Context, who string) error {
	signal, err := o.signal(c)
	if err != nil {
		return err
	}
	err = o.control.ResetBrakeLimit(c.Request().Context(), string(signal), who)
	return wire.AnswerOK(c, signalOf(signal, nil), err)
}

// signal returns the signal in the path.
func (o *Operator) signal(c echo.Context) (brake.Signal, error) {
	signal, err := brake.ParseSignal(wire.Segment(c, "signal"))
	if err != nil {
		return "", wire.NotFound("There is no signal of that name: " + err.Error())
	}
	return signal, nil
}
