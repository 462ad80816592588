package mutants

// whatRelates breaks what a page shows with its events.
var whatRelates = []mutant{
	{
		name:  `a child of another room counts`,
		file:  `internal/store/timeline/children.go`,
		old:   `e.event_id = few.event_id AND e.room_id = $1 AND`,
		text:  `e.event_id = few.event_id AND`,
		tests: `TestChildren`,
	},
	{
		name:  `a child after the ceiling counts`,
		file:  `internal/store/timeline/children.go`,
		old:   `if q.Ceiling != nil {`,
		text:  `if q.Ceiling == nil && q.Ceiling != nil {`,
		tests: `TestChildren`,
	},
	{
		name:  `a reply by an ignored user counts`,
		file:  `internal/store/timeline/children.go`,
		old:   `		if reply.ignored {`,
		text:  `		if reply.ignored && latest == nil {`,
		tests: `TestChildren`,
	},
	{
		name:  `a rejected child counts`,
		file:  `internal/store/timeline/children.go`,
		old:   `	if row.dropped {`,
		text:  `	if row.dropped && row.beyond {`,
		tests: `TestChildren`,
	},
	{
		name:  `the edit of another user is shown`,
		file:  `internal/store/timeline/children.go`,
		old:   `edit.Sender == author.sender && edit.Type`,
		text:  `edit.Type`,
		tests: `TestChildren`,
	},
	{
		name:  `children are read without a bound of bytes`,
		file:  `internal/store/timeline/children.go`,
		old:   `		if read >= int64(b.query.Bytes) {`,
		text:  `		if read >= int64(b.query.Bytes) && b.query.Bytes == 0 {`,
		tests: `TestChildren`,
	},
	{
		name:  `some of many children are taken for all`,
		file:  `internal/store/timeline/children.go`,
		old:   `		if event.Related.Many {`,
		text:  `		if event.Related.Many && c.others {`,
		tests: `TestManyChildren`,
	},
	{
		name:  `a child of which it is unknown who may see it is shown`,
		file:  `internal/store/timeline/children.go`,
		old:   `		case found.there && found.fits && found.placed:`,
		text:  `		case found.there:`,
		tests: `TestChildren`,
	},
	{
		name:  `a caller enters by a lease that accepts no more requests`,
		file:  `internal/lock/readers.go`,
		old:   `s.lease != nil && !s.over && time.Now().Before(s.until)`,
		text:  `s.lease != nil && !s.over`,
		tests: `TestOneRedis`,
	},
	{
		name:  `a stranger waits behind a purge`,
		file:  `internal/messages/page.go`,
		old:   `			err = admit()`,
		text:  `			_ = admit()`,
		dir:   `internal/httpapi`,
		tests: `TestMessagesOfABusyRoom`,
	},
}
