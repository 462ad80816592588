package plan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/store/footprint"
)

// ErrDigest is returned for a text that is not a plan's digest, and for the digest of a
// plan for something else.
var ErrDigest = errors.New("not the digest of a plan of this job")

// ErrOtherJob is returned, together with [ErrDigest], for the digest of another plan.
var ErrOtherJob = errors.New("it was made for another room, end, option or kind of job")

// ErrDrifted is returned when a room has changed since its plan. The error is a
// *[Drift].
var ErrDrifted = errors.New("the room has drifted from its plan")

// A Drift is by how much a room has changed since its plan.
type Drift struct {
	// Then and Now are the numbers of events to delete, by the plan and by the room. If
	// they are equal, at least one event was replaced by another.
	Then, Now int64
}

// Error implements error.
func (d *Drift) Error() string {
	if d.Then == d.Now {
		return fmt.Sprintf("%v: the number of events to delete is %d as before, but they are other ones", ErrDrifted, d.Now)
	}
	return fmt.Sprintf("%v: the number of events to delete was %d, and now it is %d", ErrDrifted, d.Then, d.Now)
}

// Unwrap returns [ErrDrifted].
func (d *Drift) Unwrap() error { return ErrDrifted }

// events returns the smallest number of events by which the room has changed.
func (d *Drift) events() int64 {
	switch {
	case d.Then == d.Now:
		return 2 // one has gone, and one has come
	case d.Then > d.Now:
		return d.Then - d.Now
	}
	return d.Now - d.Then
}

// digestVersion is the first part of a digest: a later version of Lethe may count in
// another way.
const digestVersion = "1"

// A digest is what a plan has decided and found, in the form
// version-events-token-job-content. job is a hash of what must not differ, and content
// one of the events. The token is that of a purge and "" for other kinds; its hyphens are
// written as dots.
type digest struct {
	events       int64
	token        string
	job, content string
}

func (d digest) String() string {
	return strings.Join([]string{digestVersion, strconv.FormatInt(d.events, 10), strings.ReplaceAll(d.token, "-", "."), d.job, d.content}, "-")
}

// parseDigest reads a digest. Any other text is [ErrDigest].
func parseDigest(text string) (digest, error) {
	parts := strings.Split(text, "-")
	if len(text) > 200 || len(parts) != 5 || parts[0] != digestVersion {
		return digest{}, fmt.Errorf("%w: %.100q", ErrDigest, text)
	}
	events, err := strconv.ParseInt(parts[1], 10, 64)
	d := digest{events: events, token: strings.ReplaceAll(parts[2], ".", "-"), job: parts[3], content: parts[4]}
	if err == nil && d.token != "" {
		_, err = matrix.ParseToken(d.token)
	}
	if err != nil || events < 0 || d.String() != text {
		return digest{}, fmt.Errorf("%w: %.100q", ErrDigest, text)
	}
	return d, nil
}

// depthOf returns the part of a digest's token that counts.
func depthOf(token string) string {
	depth, _, _ := strings.Cut(token, "-")
	return depth
}

// Decided returns the token that the plan of a purge has decided. For a digest of
// another kind of job it is false. A text that is not a digest is [ErrDigest].
func Decided(text string) (token matrix.Token, ok bool, err error) {
	d, err := parseDigest(text)
	if err != nil || d.token == "" {
		return matrix.Token{}, false, err
	}
	token, err = matrix.ParseToken(d.token)
	return token, err == nil, err
}

// digestOf returns the digest of a plan of one room.
func digestOf(request Request, token matrix.Token, events footprint.Events) string {
	d := digest{events: events.Deleted, content: hashOf(events.Checksum)}
	if request.Kind == jobs.PurgeHistory {
		d.token = token.String()
	}
	d.job = jobHash(request, token)
	return d.String()
}

// jobHash returns a hash of what a job does, whatever the room has. Only the depth of
// the token decides.
func jobHash(request Request, token matrix.Token) string {
	return hashOf(string(request.Kind), request.Room, request.Name, strconv.FormatInt(token.Topological, 10), strconv.FormatBool(request.DeleteLocalEvents))
}

// hashBytes is the length of the hashes in a digest.
const hashBytes = 12

// hashOf returns a hash of the texts. They come from others, so JSON keeps them apart.
func hashOf(texts ...string) string {
	encoded, _ := json.Marshal(texts) // cannot fail
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:hashBytes])
}

// Check fails with [ErrDrifted] if the events that the job would delete now differ from
// those of the plan by more than tolerance events. The error is a *[Drift]. It fails with
// [ErrDigest] if the plan was of another job. The request of a purge may leave out where
// it ends: then it ends where the plan has decided. Its other errors are those of
// [Planner.Plan].
func (p *Planner) Check(ctx context.Context, request Request, text string, tolerance int64) error {
	then, err := parseDigest(text)
	if err != nil {
		return fmt.Errorf("check a plan: %w", err)
	}
	if request.Kind == jobs.PurgeHistory && request.BeforeEvent == "" && request.BeforeTime == nil && request.Before == (matrix.Token{}) {
		if request.Before, _, err = Decided(text); err != nil {
			return fmt.Errorf("check a plan: %w", err)
		}
	}
	now, err := p.digestNow(ctx, request)
	if err != nil {
		return fmt.Errorf("check a plan: %w", err)
	}
	// The token's place in the stream does not matter, and may differ for the same time.
	if now.job != then.job || depthOf(now.token) != depthOf(then.token) {
		return fmt.Errorf("check a plan: %w: %w", ErrDigest, ErrOtherJob)
	}
	if drift := (&Drift{then.events, now.events}); now.events != then.events || now.content != then.content {
		if drift.events() > max(tolerance, 0) {
			return fmt.Errorf("check a plan: %w", drift)
		}
	}
	return nil
}

// digestNow returns the digest of a plan made now.
func (p *Planner) digestNow(ctx context.Context, request Request) (digest, error) {
	if err := checkRequest(request); err != nil {
		return digest{}, err
	}
	switch request.Kind {
	case jobs.PurgeHistory:
		token, err := p.Token(ctx, request)
		if err != nil {
			return digest{}, err
		}
		var d string
		err = p.footprint.History(ctx, false, func(ctx context.Context, s *footprint.Snapshot) error {
			events, err := s.HistoryEvents(ctx, p.history(request, token))
			d = digestOf(request, token, events)
			return err
		})
		if err != nil {
			return digest{}, err
		}
		return parseDigest(d)
	case jobs.DeleteRoom:
		var d string
		err := p.footprint.Delete(ctx, false, func(ctx context.Context, s *footprint.Snapshot) error {
			events, err := s.RoomEvents(ctx, request.Room)
			d = digestOf(request, matrix.Token{}, events)
			return err
		})
		if err != nil {
			return digest{}, err
		}
		return parseDigest(d)
	}
	request.Exact = false
	plan, err := p.Plan(ctx, request)
	if err != nil {
		return digest{}, err
	}
	return parseDigest(plan.Digest)
}
