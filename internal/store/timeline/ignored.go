package timeline

import "github.com/jackc/pgx/v5"

// queueHiddenSenders asks which senders the reader ignores, and which were erased.
// Synapse has had both tables since 1.29, longer than some columns that Lethe always
// needs. If one of them is missing the query fails, and with it the page: that is
// better than showing what must be hidden.
func queueHiddenSenders(batch *pgx.Batch, reader string, senders []string, facts *VisibilityFacts) {
	batch.Queue(`
		SELECT ignored_user_id, false FROM ignored_users
		WHERE ignorer_user_id = $1 AND ignored_user_id = ANY (`+unseen("$2::text[]")+`::text[])
		UNION ALL
		SELECT user_id, true FROM erased_users WHERE user_id = ANY (`+unseen("$2::text[]")+`::text[])`, reader, senders).
		Query(func(rows pgx.Rows) error {
			var user string
			var erased bool
			_, err := pgx.ForEachRow(rows, []any{&user, &erased}, func() error {
				if erased {
					facts.Erased[user] = true
				} else {
					facts.Ignored[user] = true
				}
				return nil
			})
			return err
		})
}

// queueAdminConfig asks what the reader, a server admin, wants to see beyond what
// users see.
func queueAdminConfig(batch *pgx.Batch, reader string, facts *VisibilityFacts) {
	batch.Queue(`
		SELECT content FROM account_data
		WHERE user_id = $1 AND account_data_type = 'io.element.synapse.admin_client_config'`, reader).
		Query(func(rows pgx.Rows) error {
			var content string
			_, err := pgx.ForEachRow(rows, []any{&content}, func() error {
				facts.AdminConfig = []byte(content)
				return nil
			})
			return err
		})
}
