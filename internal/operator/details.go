package operator

import (
	"encoding/json"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/plan"
	"lethe/internal/store/control"
	"lethe/internal/tasks"
)

// requestOf returns what a job was requested to do. Parameters that it cannot read are
// left out: the job itself says what is wrong with them.
func requestOf(row control.Job) *JobRequest {
	request := JobRequest{}
	var other struct { // whose names are those of Synapse's tasks
		Token         *matrix.Token `json:"token"`
		ExpiredBefore int64         `json:"expired_before"`
		RoomName      string        `json:"new_room_name"`
		PurgeDelay    int64         `json:"purge_delay_ms"`
		Job           string        `json:"job"`
	}
	_ = json.Unmarshal(row.Parameters, &request)
	_ = json.Unmarshal(row.Parameters, &other)
	if other.Token != nil {
		request.BeforeDepth = &other.Token.Topological
	}
	request.ExpiredBefore, request.RoomName, request.Name = other.ExpiredBefore, other.RoomName, other.Job
	request.PurgeDelay, request.Reason = float64(other.PurgeDelay)/1000, row.Reason
	var accepted plan.Accepted
	if len(row.Plan) > 0 && json.Unmarshal(row.Plan, &accepted) == nil {
		request.Plan, request.Tolerance = accepted.Digest, accepted.Tolerance
	}
	return &request
}

// resultOf returns what a delete or a sweep has come to so far, nil before its first batch
// and for purges.
func resultOf(row control.Job) *JobResult {
	if len(row.Checkpoint) == 0 {
		return nil
	}
	switch row.Kind {
	case jobs.DeleteRoom:
		status, err := tasks.DeleteStatusOf(row.Checkpoint)
		if err != nil {
			return nil
		}
		done := status.Shutdown
		return &JobResult{
			KickedUsers: done.KickedUsers, FailedToKickUsers: done.FailedToKickUsers, LocalAliases: done.LocalAliases,
			NewRoom: done.NewRoomID, RemoteServersNotTold: done.RemoteServersNotTold,
			Report: status.Report,
		}
	case jobs.RetentionSweep, jobs.AbandonedSweep:
		var at struct {
			Sweep JobResult `json:"sweep"`
		}
		if json.Unmarshal(row.Checkpoint, &at) != nil {
			return nil
		}
		return &at.Sweep
	}
	return nil
}
