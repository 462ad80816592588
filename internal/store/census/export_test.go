package census

// Fates returns what a room's delete does with each table, and why it keeps rows.
func Fates() map[string][2]string {
	fates := map[string][2]string{}
	for _, t := range tables {
		fates[t.name] = [2]string{string(t.delete), t.why}
	}
	return fates
}

// Rows returns the rows of the table in docs/what-stays.md.
func Rows() []string {
	var rows []string
	for _, t := range tables {
		rows = append(rows, "| `"+t.name+"` | "+string(t.purge)+" | "+string(t.delete)+" | "+t.why+" |")
	}
	return rows
}
