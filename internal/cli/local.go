package cli

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"

	"lethe/internal/config"
	"lethe/internal/operator/client"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// openLocalAPI is the [LocalAPI] of this program: the API on the database of the
// settings.
func openLocalAPI(ctx context.Context, settings config.Config, who string) (http.Handler, func(), error) {
	db, err := postgres.Open(ctx, string(settings.Database.URL), postgres.Options{ApplicationName: "lethe command", MaxConnections: 2})
	if err != nil {
		return nil, nil, err
	}
	if err := migrate.CheckSchema(ctx, db); err != nil {
		db.Close()
		return nil, nil, err
	}
	holds := &localHolds{holds: journal.NewHolds(db), who: who}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_lethe/v1/holds", holds.list)
	mux.HandleFunc("PUT /_lethe/v1/holds/{room}", holds.set)
	mux.HandleFunc("DELETE /_lethe/v1/holds/{room}", holds.lift)
	return mux, db.Close, nil
}

// localHolds serves the requests about holds.
type localHolds struct {
	holds *journal.Holds
	who   string
}

func (l *localHolds) list(w http.ResponseWriter, r *http.Request) {
	found, err := l.holds.List(r.Context(), r.URL.Query().Get("released") == "true", maxHolds)
	body := client.Holds{Holds: []client.Hold{}}
	for _, hold := range found {
		body.Holds = append(body.Holds, holdBody(hold))
	}
	answer(w, body, err)
}

func (l *localHolds) set(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		answer(w, nil, wire.BadJSON("the body is not JSON"))
		return
	}
	hold, err := l.holds.Place(r.Context(), r.PathValue("room"), body.Reason, l.who)
	if errors.Is(err, journal.ErrExists) {
		err = wire.New(http.StatusConflict, "M_UNKNOWN", "The room is held for another reason: "+hold.Reason)
	}
	answer(w, holdBody(hold), err)
}

func (l *localHolds) lift(w http.ResponseWriter, r *http.Request) {
	hold, err := l.holds.Release(r.Context(), r.PathValue("room"), l.who)
	answer(w, holdBody(hold), err)
}

func holdBody(hold journal.Hold) client.Hold {
	body := client.Hold{Room: hold.Room, Reason: hold.Reason, PlacedBy: hold.PlacedBy, PlacedAt: hold.PlacedAt.UnixMilli(), ReleasedBy: hold.ReleasedBy}
	if !hold.ReleasedAt.IsZero() {
		body.ReleasedAt = hold.ReleasedAt.UnixMilli()
	}
	return body
}

// answer writes the answer, or the error in Matrix's form.
func answer(w http.ResponseWriter, body any, err error) {
	var refusal *wire.Error
	switch {
	case err == nil:
	case errors.As(err, &refusal):
	case errors.Is(err, postgres.ErrNotFound):
		refusal = wire.NotFound("The room is not held")
	case errors.Is(err, journal.ErrBatchRuns):
		refusal = wire.New(http.StatusServiceUnavailable, "M_LIMIT_EXCEEDED", "A batch of the room is at work, and nothing was changed")
	default:
		refusal = wire.New(http.StatusInternalServerError, "M_UNKNOWN", err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	if refusal != nil {
		w.WriteHeader(refusal.Status)
		body = refusal
	}
	_ = json.NewEncoder(w).Encode(body) // the reader has gone
}
