package httpapi

import (
	"strings"

	"github.com/labstack/echo/v4"

	"lethe/internal/store/admin"
	"lethe/internal/store/postgres"
	"lethe/internal/wire"
)

// userOrders are the values of order_by, in Synapse's order.
var userOrders = []string{
	"name", "displayname", "is_guest", "admin", "deactivated", "user_type", "avatar_url", "shadow_banned", "creation_ts",
	"last_seen_ts", "locked",
}

// A userBody is an [admin.User] with Synapse's keys.
type userBody struct {
	ID           string  `json:"name"`
	Type         *string `json:"user_type"`
	Guest        bool    `json:"is_guest"`
	Admin        bool    `json:"admin"`
	Deactivated  bool    `json:"deactivated"`
	ShadowBanned bool    `json:"shadow_banned"`
	DisplayName  *string `json:"displayname"`
	Avatar       *string `json:"avatar_url"`
	CreatedTS    *int64  `json:"creation_ts"`
	Approved     bool    `json:"approved"`
	Erased       bool    `json:"erased"`
	LastSeenTS   *int64  `json:"last_seen_ts"`
	Locked       bool    `json:"locked"`
}

// userList is GET /_synapse/admin/v3/users.
func (s *server) userList(c echo.Context, _ string) error {
	list, err := readUserList(wire.QueryOf(c))
	if err != nil {
		return err
	}
	users, total, err := s.queries.Users(c.Request().Context(), list)
	if err != nil {
		return err
	}
	body := struct {
		Users []userBody `json:"users"`
		Total int64      `json:"total"`
		Next  *int64     `json:"next_token,omitempty,string"`
	}{Users: make([]userBody, 0, len(users)), Total: total}
	for _, user := range users {
		body.Users = append(body.Users, userBody(user))
	}
	if hasNext(list.From, list.Limit, total) {
		body.Next = new(list.From + int64(len(users)))
	}
	return wire.AnswerOK(c, body, nil)
}

// readUserList reads the parameters of a list. It checks them in Synapse's order.
func readUserList(q *wire.Query) (admin.UserList, error) {
	list := admin.UserList{From: q.Integer("from", 0), Limit: q.Integer("limit", 100), ID: q.ASCII("user_id")}
	list.Name, _ = q.Text("name")
	guests := q.Boolean("guests")
	list.NoGuests = guests != nil && !*guests
	list.Deactivated = q.Boolean("deactivated")
	locked := q.Boolean("locked")
	list.NoLocked = locked == nil || !*locked
	list.Admin = q.Boolean("admins")
	list.Order, list.Reverse = q.OneOf("order_by", "name", userOrders...), q.Backwards()
	list.NotTypes = q.Several("not_user_type")
	return list, q.Err()
}

// A detailsBody is an [admin.UserDetails] with Synapse's keys.
type detailsBody struct {
	ID                string             `json:"name"`
	Admin             bool               `json:"admin"`
	Deactivated       bool               `json:"deactivated"`
	Locked            bool               `json:"locked"`
	ShadowBanned      bool               `json:"shadow_banned"`
	CreatedTS         *int64             `json:"creation_ts"` // in seconds
	AppService        *string            `json:"appservice_id"`
	ConsentNoticeSent *string            `json:"consent_server_notice_sent"`
	ConsentVersion    *string            `json:"consent_version"`
	ConsentTS         *int64             `json:"consent_ts"`
	Type              *string            `json:"user_type"`
	Guest             bool               `json:"is_guest"`
	Suspended         bool               `json:"suspended"`
	DisplayName       *string            `json:"displayname"`
	Avatar            *string            `json:"avatar_url"`
	ThirdPartyIDs     []thirdPartyIDBody `json:"threepids"`
	ExternalIDs       []externalIDBody   `json:"external_ids"`
	Erased            bool               `json:"erased"`
	LastSeenTS        *int64             `json:"last_seen_ts"`
}

type thirdPartyIDBody struct {
	Medium      string `json:"medium"`
	Address     string `json:"address"`
	ValidatedTS int64  `json:"validated_at"`
	AddedTS     int64  `json:"added_at"`
}

type externalIDBody struct {
	Provider string `json:"auth_provider"`
	ID       string `json:"external_id"`
}

// userDetails is GET /_synapse/admin/v2/users/{user_id}.
func (s *server) userDetails(c echo.Context, _ string) error {
	id := wire.Segment(c, "user_id")
	local, ok := strings.CutPrefix(id, "@")
	if !ok {
		return wire.InvalidParam("Expected UserID string to start with '@'")
	}
	switch _, server, ok := strings.Cut(local, ":"); {
	case !ok:
		return wire.InvalidParam("Expected UserID of the form '@localname:domain'")
	case server != s.options.ServerName:
		return wire.BadRequest("Can only look up local users")
	}
	user, err := s.queries.UserDetails(c.Request().Context(), id)
	if err != nil {
		return wire.Instead(err, postgres.ErrNotFound, wire.NotFound("User not found"))
	}
	body := detailsBody{
		ID: user.ID, Admin: user.Admin, Deactivated: user.Deactivated, Locked: user.Locked, ShadowBanned: user.ShadowBanned,
		AppService: user.AppService, ConsentNoticeSent: user.ConsentNoticeSent, ConsentVersion: user.ConsentVersion,
		ConsentTS: user.ConsentTS, Type: user.Type, Guest: user.Guest, Suspended: user.Suspended,
		DisplayName: user.DisplayName, Avatar: user.Avatar, Erased: user.Erased, LastSeenTS: user.LastSeenTS,
		ThirdPartyIDs: make([]thirdPartyIDBody, 0, len(user.ThirdPartyIDs)),
		ExternalIDs:   make([]externalIDBody, 0, len(user.ExternalIDs)),
	}
	if user.CreatedTS != nil {
		body.CreatedTS = new(*user.CreatedTS / 1000)
	}
	for _, id := range user.ThirdPartyIDs {
		body.ThirdPartyIDs = append(body.ThirdPartyIDs, thirdPartyIDBody(id))
	}
	for _, id := range user.ExternalIDs {
		body.ExternalIDs = append(body.ExternalIDs, externalIDBody(id))
	}
	return wire.AnswerOK(c, body, nil)
}
