package console

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"lethe/internal/console/plot"
	"lethe/internal/jobs"
	"lethe/internal/operator"
	"lethe/internal/plan"
	"lethe/internal/store/footprint"
	"lethe/internal/wire"
)

const (
	// listedRooms is the number of rooms of a page of their list.
	listedRooms = 50

	// patience is the maximum time of a page for which a large database is read.
	patience = 5 * time.Minute

	// formTime is how a form writes a time, which is in UTC.
	formTime = "2006-01-02T15:04"
)

// patient gives a page more time.
func patient(page func(*visit) error) func(*visit) error {
	return func(v *visit) error {
		ctx, cancel := context.WithTimeout(v.sent, patience)
		v.r = v.r.WithContext(ctx)
		v.ends = append(v.ends, cancel) // the refusal of an error looks at the context
		v.w.readUntil(time.Now().Add(2 * patience))
		// Only connections in tests have no deadlines.
		_ = http.NewResponseController(v.w).SetWriteDeadline(time.Now().Add(2 * patience))
		return page(v)
	}
}

// A roomsPage is a page of the list of rooms.
type roomsPage struct {
	frame
	Rooms []footprint.Size

	// Search is what was searched for, "" for all rooms, the largest first. ID says that it
	// may be the whole id of a room.
	Search string
	ID     bool

	// Later says that it is not the first page, and Next is the query of the next one, "" on
	// the last.
	Later bool
	Next  string
}

func (c *Console) roomsPage(v *visit) error {
	asked := url.Values{"limit": {strconv.Itoa(listedRooms)}}
	page := roomsPage{frame: v.frame("Rooms").in("rooms"), Search: strings.TrimSpace(v.r.URL.Query().Get("search"))}
	chosen := url.Values{}
	if page.Search != "" {
		asked.Set("search", page.Search)
		chosen.Set("search", page.Search)
		page.ID = wire.CheckRoomID(page.Search) == nil
	}
	if from := v.r.URL.Query().Get("from"); from != "" {
		asked.Set("from", from)
		page.Later = true
	}
	var list operator.Rooms
	if err := c.get(v.r.Context(), v.session.User, "/rooms", asked, &list); err != nil {
		return err
	}
	page.Rooms = list.Rooms
	if list.Next != nil {
		chosen.Set("from", *list.Next)
		page.Next = "?" + chosen.Encode()
	}
	return v.render(http.StatusOK, "rooms", page)
}

// tableSize is what a table has of a room.
type tableSize struct {
	Table string
	footprint.Figure
}

func sizesOf(tables map[string]footprint.Figure) (sizes []tableSize) {
	for table, figure := range tables {
		if figure.Rows > 0 {
			sizes = append(sizes, tableSize{table, figure})
		}
	}
	slices.SortFunc(sizes, func(a, b tableSize) int {
		if a.EstimatedBytes != b.EstimatedBytes {
			return int(max(-1, min(1, b.EstimatedBytes-a.EstimatedBytes)))
		}
		return strings.Compare(a.Table, b.Table)
	})
	return sizes
}

// A roomPage is the page of a room.
type roomPage struct {
	frame
	Room   operator.Room
	Tables []tableSize

	// Months are the events by month, with Known whether they and the members were counted.
	Months plot.Months
	Known  bool

	// Said is a sentence about what the user has just done, "" for nothing.
	Said string

	// Before is the time that the form suggests as the end of a purge: a year ago.
	Before string
}

func (c *Console) roomPage(v *visit) error {
	now := time.Now().UTC()
	page := roomPage{Before: now.AddDate(-1, 0, 0).Format(formTime)}
	if err := c.readRoom(v, &page.Room); err != nil {
		return err
	}
	page.frame, page.Tables = v.frame("Room "+page.Room.ID).in("rooms"), sizesOf(page.Room.Tables)
	switch v.r.URL.Query().Get("done") {
	case "block":
		page.Said = "The room is blocked. Users of this server cannot join it."
	case "unblock":
		page.Said = "The room is not blocked any more."
	}
	if months := page.Room.Months; months != nil {
		var counts []plot.Count
		for _, month := range *months {
			counts = append(counts, plot.Count{Month: time.UnixMilli(month.Begin).UTC(), Events: month.Events})
		}
		page.Months, page.Known = plot.MonthsOf(counts, now), true
	}
	return v.render(http.StatusOK, "room", page)
}

// readRoom reads the room that the query names.
func (c *Console) readRoom(v *visit, room *operator.Room) error {
	return c.api.Call(v.r.Context(), v.session.User, operator.Call{
		Method: http.MethodGet, Path: "/rooms/{room_id}", Parameters: map[string]string{"room_id": strings.TrimSpace(v.r.URL.Query().Get("room"))},
	}, room)
}

// A blockPage asks whether a block is meant, or the end of one.
type blockPage struct {
	frame
	Room operator.Room
}

func (c *Console) blockPage(v *visit) error {
	if v.reads {
		return errReads
	}
	page := blockPage{}
	if err := c.readRoom(v, &page.Room); err != nil {
		return err
	}
	title := "Block a room"
	if page.Room.BlockedBy != "" {
		title = "End the block of a room"
	}
	page.frame = v.frame(title).in("rooms")
	return v.render(http.StatusOK, "block", page)
}

// block blocks the form's room, or ends its block.
func (c *Console) block(v *visit) error {
	form := v.r.PostForm
	room, done := form.Get("room"), form.Get("do")
	if done != "block" && done != "unblock" {
		return errForm
	}
	if err := c.api.Call(v.r.Context(), v.session.User, operator.Call{
		Method: http.MethodPut, Path: "/blocks/{room_id}", Parameters: map[string]string{"room_id": room},
		Body: operator.BlockRequest{Block: new(done == "block")},
	}, &operator.RoomBlock{}); err != nil {
		return err
	}
	return v.redirect(Root + "/room?" + url.Values{"room": {room}, "done": {done}}.Encode())
}

// A planPage shows what a purge or a delete would do, and asks whether it is meant.
type planPage struct {
	frame
	Plan   plan.Plan
	Tables []tableSize

	// Delete says that it is a delete. BeforeTime is the end of a purge in Unix milliseconds.
	Delete     bool
	BeforeTime int64
}

// requested reads from a form or a query what is to be planned or done.
func requested(form url.Values) (operator.PlanRequest, error) {
	request := operator.PlanRequest{Kind: form.Get("kind"), Room: strings.TrimSpace(form.Get("room"))}
	switch request.Kind {
	case string(jobs.DeleteRoom):
		return request, nil
	case string(jobs.PurgeHistory):
	default:
		return request, wire.InvalidParam("A plan is of a purge or a delete of a room")
	}
	request.DeleteLocal = form.Get("local") == "true"
	if ms := form.Get("before_ts"); ms != "" {
		n, err := strconv.ParseInt(ms, 10, 64)
		if err != nil {
			return request, errForm
		}
		request.BeforeTime = &n
		return request, nil
	}
	at, err := time.Parse(formTime, form.Get("before"))
	if err != nil {
		return request, wire.InvalidParam("The end of a purge must be a time such as 2026-01-31T12:00, in UTC")
	}
	request.BeforeTime = new(at.UnixMilli())
	return request, nil
}

func (c *Console) planPage(v *visit) error {
	request, err := requested(v.r.URL.Query())
	if err != nil {
		return err
	}
	page := planPage{Delete: request.Kind == string(jobs.DeleteRoom)}
	if err := c.api.Call(v.r.Context(), v.session.User, operator.Call{Method: http.MethodPost, Path: "/plans", Body: request}, &page.Plan); err != nil {
		return err
	}
	title := "Plan of a purge"
	if page.Delete {
		title = "Plan of a delete"
	} else {
		page.BeforeTime = *request.BeforeTime
	}
	page.frame, page.Tables = v.frame(title).in("rooms"), sizesOf(page.Plan.Tables)
	return v.render(http.StatusOK, "plan", page)
}

// apply asks for a job that is bound to the plan of the form.
func (c *Console) apply(v *visit) error {
	form := v.r.PostForm
	request, err := requested(form)
	if err != nil {
		return err
	}
	if form.Get("plan") == "" {
		return errForm
	}
	acceptance := operator.Acceptance{Plan: form.Get("plan"), Grace: form.Get("grace"), Reason: strings.TrimSpace(form.Get("reason"))}
	call := operator.Call{Method: http.MethodPost, Path: "/purges", Body: operator.PurgeRequest{
		Room: request.Room, BeforeTime: request.BeforeTime, DeleteLocal: request.DeleteLocal, Acceptance: acceptance,
	}}
	if request.Kind == string(jobs.DeleteRoom) {
		call.Path, call.Body = "/deletes", operator.DeleteRequest{Room: request.Room, Block: form.Get("block") == "true", Acceptance: acceptance}
	}
	var accepted operator.Accepted
	if err := c.api.Call(v.r.Context(), v.session.User, call, &accepted); err != nil {
		return err
	}
	return v.redirect(Root + "/jobs/" + accepted.ID + "?done=accept")
}
