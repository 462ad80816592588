package console

import (
	"net/http"
	"net/url"
	"strings"

	"lethe/internal/operator"
)

// listedHolds is the most holds of a page. HTML writes a quotation mark with five bytes, and
// the ids and the reason of a hold can be full of them.
const listedHolds = 30

// A holdsPage is the list of held rooms.
type holdsPage struct {
	frame
	Holds []operator.Hold

	// Room is the part of a room's id that was looked for, and Released says that lifted
	// holds are listed too.
	Room     string
	Released bool

	// More is how many further holds match.
	More int

	// Said is a sentence about what the user has just done, "" for nothing.
	Said string
}

func (c *Console) holdsPage(v *visit) error {
	query := v.r.URL.Query()
	page := holdsPage{
		frame: v.frame("Holds").in("holds"), Room: strings.TrimSpace(query.Get("room")), Released: query.Get("released") == "true",
	}
	switch query.Get("done") {
	case "place":
		page.Said = "The room is held. Nothing of it is deleted until the hold is lifted."
	case "lift":
		page.Said = "The hold is lifted. Jobs of the room go on."
	}
	asked := url.Values{}
	if page.Released {
		asked.Set("released", "true")
	}
	var list operator.Holds
	if err := c.get(v.r.Context(), v.session.User, "/holds", asked, &list); err != nil {
		return err
	}
	for _, hold := range list.Holds {
		switch {
		case !strings.Contains(hold.Room, page.Room):
		case len(page.Holds) == listedHolds:
			page.More++
		default:
			page.Holds = append(page.Holds, hold)
		}
	}
	return v.render(http.StatusOK, "holds", page)
}

// A holdPage asks about a hold before it is placed or lifted.
type holdPage struct {
	frame

	// Lift says that the hold is to be lifted, and Hold which one. Room is that of one to be
	// placed, "" if the user has not said which.
	Lift bool
	Hold operator.Hold
	Room string
}

func (c *Console) placePage(v *visit) error {
	if v.reads {
		return errReads
	}
	return v.render(http.StatusOK, "hold", holdPage{frame: v.frame("Hold a room").in("holds"), Room: v.r.URL.Query().Get("room")})
}

func (c *Console) liftPage(v *visit) error {
	if v.reads {
		return errReads
	}
	page := holdPage{frame: v.frame("Lift a hold").in("holds"), Lift: true}
	err := c.api.Call(v.r.Context(), v.session.User, operator.Call{
		Method: http.MethodGet, Path: "/holds/{room_id}", Parameters: map[string]string{"room_id": v.r.URL.Query().Get("room")},
	}, &page.Hold)
	if err != nil {
		return err
	}
	return v.render(http.StatusOK, "hold", page)
}

func (c *Console) place(v *visit) error {
	return c.setHold(v, "place", operator.Call{
		Method: http.MethodPut, Path: "/holds/{room_id}", Body: operator.HoldRequest{Reason: strings.TrimSpace(v.r.PostForm.Get("reason"))},
	})
}

func (c *Console) lift(v *visit) error {
	return c.setHold(v, "lift", operator.Call{Method: http.MethodDelete, Path: "/holds/{room_id}"})
}

// setHold changes the hold of the form's room by a call.
func (c *Console) setHold(v *visit, done string, call operator.Call) error {
	call.Parameters = map[string]string{"room_id": strings.TrimSpace(v.r.PostForm.Get("room"))}
	if err := c.api.Call(v.r.Context(), v.session.User, call, &operator.Hold{}); err != nil {
		return err
	}
	return v.redirect(Root + "/holds?done=" + done)
}
