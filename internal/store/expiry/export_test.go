package expiry

// Statements whose plans tests check.
const (
	NeverSort     = neverSort
	RetentionCuts = retentionCuts
)
