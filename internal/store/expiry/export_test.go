package expiry

// What tests look at the plan of.
const (
	NeverSort     = neverSort
	RetentionCuts = retentionCuts
)
