package httpapi

import (
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/messages"
)

// whoami is GET /_matrix/client/v3/account/whoami. Admin tools ask it for whom an access
// token speaks, also while the homeserver is down.
func whoami(c echo.Context, reader messages.Reader) error {
	return answer(c, http.StatusOK, struct {
		UserID   string `json:"user_id"`
		DeviceID string `json:"device_id,omitempty"`
		IsGuest  bool   `json:"is_guest"`
	}{reader.UserID, reader.DeviceID, reader.Guest})
}
