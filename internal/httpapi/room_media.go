package httpapi

import (
	"math"
	"regexp"

	"github.com/labstack/echo/v4"

	"lethe/internal/matrix"
	"lethe/internal/store/admin"
	"lethe/internal/wire"
)

// mediaPage is the number of events with media that are in memory at a time.
const mediaPage = 200

// mediaURI matches the URI of media. The groups are the server and the media's id.
var mediaURI = regexp.MustCompile(`^mxc://([^/]+)/([^/#?]+)$`)

// roomMedia is GET …/v1/room/{room_id}/media. It lists the media of all events that have
// a URL, also of redacted ones, whose media an admin may want to delete.
func (s *server) roomMedia(c echo.Context, _ string) error {
	body := struct {
		Local  []string `json:"local"`
		Remote []string `json:"remote"`
	}{[]string{}, []string{}}
	before := int64(math.MaxInt64)
	for {
		events, err := s.queries.MediaEvents(c.Request().Context(), wire.Segment(c, "room_id"), before, mediaPage)
		if err != nil {
			return err
		}
		for _, event := range events {
			before = event.Stream
			for _, uri := range mediaOf(event) {
				if uri[1] == s.options.ServerName {
					body.Local = append(body.Local, uri[0])
				} else {
					body.Remote = append(body.Remote, uri[0])
				}
			}
		}
		if len(events) < mediaPage {
			return wire.AnswerOK(c, body, nil)
		}
	}
}

// mediaOf returns the media of an event and of its thumbnail, each as mediaURI matches it.
func mediaOf(event admin.MediaEvent) (uris [][]string) {
	fields, _ := matrix.SplitObject(nil, event.JSON)
	content, _ := matrix.SplitObject(nil, fields.Get("content"))
	info, _ := matrix.SplitObject(nil, content.Get("info"))
	for _, value := range [][]byte{content.Get("url"), info.Get("thumbnail_url")} {
		text, _ := matrix.Text(value)
		if uri := mediaURI.FindStringSubmatch(text); uri != nil {
			uris = append(uris, uri)
		}
	}
	return uris
}
