-- +goose Up

-- The tables of Synapse 1.160 that Lethe reads or writes, with the same names,
-- types, keys and indexes. schema_version and applied_schema_deltas are left out on
-- purpose, so that Synapse does not take the database for its own.

-- Rooms and their versions.
CREATE TABLE rooms (
    room_id              text PRIMARY KEY,
    is_public            boolean,
    creator              text,
    room_version         text,
    has_auth_chain_index boolean
);
CREATE INDEX public_room_index ON rooms (is_public);

-- All events. Outliers are outside the timeline.
CREATE TABLE events (
    topological_ordering bigint  NOT NULL,
    event_id             text    NOT NULL UNIQUE,
    type                 text    NOT NULL,
    room_id              text    NOT NULL,
    content              text,
    unrecognized_keys    text,
    processed            boolean NOT NULL,
    outlier              boolean NOT NULL,
    depth                bigint  NOT NULL DEFAULT 0,
    origin_server_ts     bigint,
    received_ts          bigint,
    sender               text,
    contains_url         boolean,
    instance_name        text,
    stream_ordering      bigint,
    state_key            text,
    rejection_reason     text
);
-- An index and not a constraint, as in Synapse; other tables reference it.
CREATE UNIQUE INDEX events_stream_ordering ON events (stream_ordering);
CREATE INDEX events_order_room ON events (room_id, topological_ordering, stream_ordering);
CREATE INDEX events_room_stream ON events (room_id, stream_ordering);
CREATE INDEX events_ts ON events (origin_server_ts, stream_ordering);
CREATE INDEX events_jump_to_date_idx ON events (room_id, origin_server_ts) WHERE NOT outlier;
CREATE INDEX event_contains_url_index ON events (room_id, topological_ordering, stream_ordering)
    WHERE contains_url = true AND outlier = false;
CREATE INDEX received_ts_idx ON events (received_ts) WHERE type = 'm.room.member';

-- The next stream ordering of a new event.
CREATE SEQUENCE events_stream_seq;

-- The events as they were sent.
CREATE TABLE event_json (
    event_id          text NOT NULL UNIQUE,
    room_id           text NOT NULL,
    internal_metadata text NOT NULL,
    json              text NOT NULL,
    format_version    integer
);

-- The events that an event follows. is_state marks edges of an old kind.
CREATE TABLE event_edges (
    event_id      text    NOT NULL REFERENCES events (event_id),
    prev_event_id text    NOT NULL,
    room_id       text,
    is_state      boolean NOT NULL DEFAULT false
);
CREATE UNIQUE INDEX event_edges_event_id_prev_event_id_idx ON event_edges (event_id, prev_event_id);
CREATE INDEX ev_edges_prev_id ON event_edges (prev_event_id);

-- The auth events of an event, which permit it.
CREATE TABLE event_auth (
    event_id text NOT NULL,
    auth_id  text NOT NULL,
    room_id  text NOT NULL
);
CREATE INDEX evauth_edges_id ON event_auth (event_id);

-- A room's forward extremities: the events that no other event follows.
CREATE TABLE event_forward_extremities (
    event_id text NOT NULL,
    room_id  text NOT NULL,
    UNIQUE (event_id, room_id),
    CONSTRAINT event_forward_extremities_event_id
        FOREIGN KEY (event_id) REFERENCES events (event_id) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX ev_extrem_id ON event_forward_extremities (event_id);
CREATE INDEX ev_extrem_room ON event_forward_extremities (room_id);

-- A room's backward extremities: missing events that stored events follow.
CREATE TABLE event_backward_extremities (
    event_id text NOT NULL,
    room_id  text NOT NULL,
    UNIQUE (event_id, room_id)
);
CREATE INDEX ev_b_extrem_id ON event_backward_extremities (event_id);
CREATE INDEX ev_b_extrem_room ON event_backward_extremities (room_id);

-- Reactions, replies, edits, and the messages of threads.
CREATE TABLE event_relations (
    event_id        text NOT NULL,
    relates_to_id   text NOT NULL,
    relation_type   text NOT NULL,
    aggregation_key text
);
CREATE UNIQUE INDEX event_relations_id ON event_relations (event_id);
CREATE INDEX event_relations_relates ON event_relations (relates_to_id, relation_type, aggregation_key);

-- Full text search.
CREATE TABLE event_search (
    event_id         text,
    room_id          text,
    sender           text,
    key              text,
    vector           tsvector,
    origin_server_ts bigint,
    stream_ordering  bigint
);
-- A sample would estimate far too few rooms. Synapse sets this too.
ALTER TABLE event_search ALTER COLUMN room_id SET (n_distinct = -0.01);
CREATE UNIQUE INDEX event_search_event_id_idx ON event_search (event_id);
CREATE INDEX event_search_ev_ridx ON event_search (room_id);
CREATE INDEX event_search_fts_idx ON event_search USING gin (vector);

-- Rejected events, and the reasons.
CREATE TABLE rejections (
    event_id   text NOT NULL UNIQUE,
    reason     text NOT NULL,
    last_check text NOT NULL
);

-- Redactions, and the event that each redacts.
CREATE TABLE redactions (
    event_id      text    NOT NULL UNIQUE,
    redacts       text    NOT NULL,
    have_censored boolean NOT NULL DEFAULT false,
    received_ts   bigint,
    recheck       boolean NOT NULL DEFAULT true
);
CREATE INDEX redactions_redacts ON redactions (redacts);
CREATE INDEX redactions_have_censored_ts ON redactions (received_ts) WHERE NOT have_censored;

-- The labels of events. Clients filter by them.
CREATE TABLE event_labels (
    event_id             text   NOT NULL,
    label                text   NOT NULL,
    room_id              text   NOT NULL,
    topological_ordering bigint NOT NULL,
    PRIMARY KEY (event_id, label)
);
CREATE INDEX event_labels_room_id_label_idx ON event_labels (room_id, label, topological_ordering);

-- Threads by their roots, and the newest message of each.
CREATE TABLE threads (
    room_id              text   NOT NULL,
    thread_id            text   NOT NULL,
    latest_event_id      text   NOT NULL,
    topological_ordering bigint NOT NULL,
    stream_ordering      bigint NOT NULL,
    CONSTRAINT threads_uniqueness UNIQUE (room_id, thread_id)
);
CREATE INDEX threads_ordering_idx ON threads (room_id, topological_ordering, stream_ordering);

-- The events that notify, highlight or count as unread, for each local user.
CREATE TABLE event_push_actions (
    room_id              text NOT NULL,
    event_id             text NOT NULL,
    user_id              text NOT NULL,
    profile_tag          varchar(32),
    actions              text NOT NULL,
    topological_ordering bigint,
    stream_ordering      bigint,
    notif                smallint,
    highlight            smallint,
    unread               smallint,
    thread_id            text CONSTRAINT event_push_actions_thread_id CHECK (thread_id IS NOT NULL),
    CONSTRAINT event_id_user_id_profile_tag_uniqueness UNIQUE (room_id, event_id, user_id, profile_tag)
);
CREATE INDEX event_push_actions_room_id_user_id ON event_push_actions (room_id, user_id);
CREATE INDEX event_push_actions_rm_tokens
    ON event_push_actions (user_id, room_id, topological_ordering, stream_ordering);
CREATE INDEX event_push_actions_highlights_index
    ON event_push_actions (user_id, room_id, topological_ordering, stream_ordering) WHERE highlight = 1;
CREATE INDEX event_push_actions_stream_ordering ON event_push_actions (stream_ordering, user_id);
CREATE INDEX event_push_actions_stream_highlight_index
    ON event_push_actions (highlight, stream_ordering) WHERE highlight = 0;
CREATE INDEX event_push_actions_u_highlight ON event_push_actions (user_id, stream_ordering);

-- The counts of those actions, up to the position in the next table.
CREATE TABLE event_push_summary (
    user_id                      text   NOT NULL,
    room_id                      text   NOT NULL,
    notif_count                  bigint NOT NULL,
    stream_ordering              bigint NOT NULL,
    unread_count                 bigint,
    last_receipt_stream_ordering bigint,
    thread_id                    text CONSTRAINT event_push_summary_thread_id CHECK (thread_id IS NOT NULL)
);
CREATE UNIQUE INDEX event_push_summary_unique_index2 ON event_push_summary (user_id, room_id, thread_id);
CREATE INDEX event_push_summary_index_room_id ON event_push_summary (room_id);

-- The position up to which actions have been counted into summaries. One row.
CREATE TABLE event_push_summary_stream_ordering (
    lock            character(1) NOT NULL DEFAULT 'X' UNIQUE CHECK (lock = 'X'),
    stream_ordering bigint       NOT NULL
);
INSERT INTO event_push_summary_stream_ordering (stream_ordering) VALUES (0);

-- The state of the room at an event. If the event sets state, the state after it.
CREATE TABLE event_to_state_groups (
    event_id    text   NOT NULL UNIQUE,
    state_group bigint NOT NULL
);
CREATE INDEX event_to_state_groups_sg_index ON event_to_state_groups (state_group);

-- The states of rooms.
CREATE TABLE state_groups (
    id       bigint PRIMARY KEY,
    room_id  text NOT NULL,
    event_id text NOT NULL
);
CREATE INDEX state_groups_room_id_idx ON state_groups (room_id);

-- The next state group's id.
CREATE SEQUENCE state_group_id_seq;

-- The entries of a state: all of them, or the differences to the previous group.
CREATE TABLE state_groups_state (
    state_group bigint NOT NULL,
    room_id     text   NOT NULL,
    type        text   NOT NULL,
    state_key   text   NOT NULL,
    event_id    text   NOT NULL
);
-- The same for the number of groups.
ALTER TABLE state_groups_state ALTER COLUMN state_group SET (n_distinct = -0.02);
CREATE INDEX state_groups_state_type_idx ON state_groups_state (state_group, type, state_key);

-- The previous group, to which a group is a difference.
CREATE TABLE state_group_edges (
    state_group      bigint NOT NULL,
    prev_state_group bigint NOT NULL
);
CREATE UNIQUE INDEX state_group_edges_unique_idx ON state_group_edges (state_group, prev_state_group);
CREATE INDEX state_group_edges_prev_idx ON state_group_edges (prev_state_group);

-- Groups that will be deleted unless they come into use.
CREATE TABLE state_groups_pending_deletion (
    sequence_number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state_group     bigint NOT NULL,
    insertion_ts    bigint NOT NULL
);
CREATE UNIQUE INDEX state_groups_pending_deletion_state_group ON state_groups_pending_deletion (state_group);
CREATE INDEX state_groups_pending_deletion_insertion_ts ON state_groups_pending_deletion (insertion_ts);

-- Groups of events that are being written at this moment.
CREATE TABLE state_groups_persisting (
    state_group   bigint NOT NULL,
    instance_name text   NOT NULL,
    PRIMARY KEY (state_group, instance_name)
);
CREATE INDEX state_groups_persisting_instance_name ON state_groups_persisting (instance_name);

-- All events that have set state, also those that were replaced.
CREATE TABLE state_events (
    event_id   text NOT NULL UNIQUE,
    room_id    text NOT NULL,
    type       text NOT NULL,
    state_key  text NOT NULL,
    prev_state text
);

-- The present state of rooms.
CREATE TABLE current_state_events (
    event_id              text NOT NULL UNIQUE,
    room_id               text NOT NULL,
    type                  text NOT NULL,
    state_key             text NOT NULL,
    membership            text,
    event_stream_ordering bigint,
    UNIQUE (room_id, type, state_key),
    CONSTRAINT event_stream_ordering_fkey FOREIGN KEY (event_stream_ordering) REFERENCES events (stream_ordering)
);
CREATE INDEX current_state_events_member_index ON current_state_events (state_key) WHERE type = 'm.room.member';
CREATE INDEX current_state_events_members_room_index ON current_state_events (room_id, membership)
    WHERE type = 'm.room.member';
CREATE INDEX current_state_events_stream_ordering_idx ON current_state_events (event_stream_ordering);

-- All membership events.
CREATE TABLE room_memberships (
    event_id              text NOT NULL UNIQUE,
    user_id               text NOT NULL,
    sender                text NOT NULL,
    room_id               text NOT NULL,
    membership            text NOT NULL,
    forgotten             integer DEFAULT 0,
    display_name          text,
    avatar_url            text,
    event_stream_ordering bigint,
    participant           boolean DEFAULT false,
    CONSTRAINT event_stream_ordering_fkey FOREIGN KEY (event_stream_ordering) REFERENCES events (stream_ordering)
);
CREATE INDEX room_memberships_room_id ON room_memberships (room_id);
CREATE INDEX room_memberships_user_id ON room_memberships (user_id);
CREATE INDEX room_membership_user_room_idx ON room_memberships (user_id, room_id);
CREATE INDEX room_memberships_user_room_forgotten ON room_memberships (user_id, room_id) WHERE forgotten = 1;
CREATE INDEX room_memberships_stream_ordering_idx ON room_memberships (event_stream_ordering);

-- The present memberships of local users.
CREATE TABLE local_current_membership (
    room_id               text NOT NULL,
    user_id               text NOT NULL,
    event_id              text NOT NULL,
    membership            text NOT NULL,
    event_stream_ordering bigint,
    CONSTRAINT event_stream_ordering_fkey FOREIGN KEY (event_stream_ordering) REFERENCES events (stream_ordering)
);
CREATE UNIQUE INDEX local_current_membership_idx ON local_current_membership (user_id, room_id);
CREATE INDEX local_current_membership_room_idx ON local_current_membership (room_id);
CREATE INDEX local_current_membership_stream_ordering_idx ON local_current_membership (event_stream_ordering);

-- The lowest depth of a room's history.
CREATE TABLE room_depth (
    room_id   text NOT NULL UNIQUE,
    min_depth bigint
);

-- Local aliases and their rooms.
CREATE TABLE room_aliases (
    room_alias text NOT NULL UNIQUE,
    room_id    text NOT NULL,
    creator    text
);
CREATE INDEX room_aliases_id ON room_aliases (room_id);

-- The data with which clients sort and show rooms.
CREATE TABLE sliding_sync_joined_rooms (
    room_id                     text PRIMARY KEY REFERENCES rooms (room_id),
    event_stream_ordering       bigint  NOT NULL REFERENCES events (stream_ordering),
    bump_stamp                  bigint,
    room_type                   text,
    room_name                   text,
    is_encrypted                boolean NOT NULL DEFAULT false,
    tombstone_successor_room_id text
);
CREATE UNIQUE INDEX sliding_sync_joined_rooms_event_stream_ordering
    ON sliding_sync_joined_rooms (event_stream_ordering);

-- The part of a room's state that room directory and admin API show.
CREATE TABLE room_stats_state (
    room_id            text NOT NULL,
    name               text,
    canonical_alias    text,
    join_rules         text,
    history_visibility text,
    encryption         text,
    avatar             text,
    guest_access       text,
    is_federatable     boolean,
    topic              text,
    room_type          text
);
CREATE UNIQUE INDEX room_stats_state_room ON room_stats_state (room_id);

-- The numbers of members and of state events in a room.
CREATE TABLE room_stats_current (
    room_id                   text PRIMARY KEY,
    current_state_events      integer NOT NULL,
    joined_members            integer NOT NULL,
    invited_members           integer NOT NULL,
    left_members              integer NOT NULL,
    banned_members            integer NOT NULL,
    local_users_in_room       integer NOT NULL,
    completed_delta_stream_id bigint  NOT NULL,
    knocked_members           integer
);

-- The lifetimes of a room's messages in milliseconds, from its state events.
CREATE TABLE room_retention (
    room_id      text NOT NULL,
    event_id     text NOT NULL,
    min_lifetime bigint,
    max_lifetime bigint,
    PRIMARY KEY (room_id, event_id)
);
CREATE INDEX room_retention_max_lifetime_idx ON room_retention (max_lifetime);

-- Rooms that local users may not join, and the admins who blocked them.
CREATE TABLE blocked_rooms (
    room_id text NOT NULL,
    user_id text NOT NULL
);
CREATE UNIQUE INDEX blocked_rooms_idx ON blocked_rooms (room_id);

-- Local users.
CREATE TABLE users (
    name                       text UNIQUE,
    password_hash              text,
    creation_ts                bigint, -- seconds
    admin                      smallint NOT NULL DEFAULT 0,
    upgrade_ts                 bigint,
    is_guest                   smallint NOT NULL DEFAULT 0,
    appservice_id              text,
    consent_version            text,
    consent_server_notice_sent text,
    user_type                  text,
    deactivated                smallint NOT NULL DEFAULT 0,
    shadow_banned              boolean,
    consent_ts                 bigint,
    approved                   boolean,
    locked                     boolean  NOT NULL DEFAULT false,
    suspended                  boolean  NOT NULL DEFAULT false
);
CREATE INDEX users_creation_ts ON users (creation_ts);

-- The devices of local users.
CREATE TABLE devices (
    user_id      text NOT NULL,
    device_id    text NOT NULL,
    display_name text,
    last_seen    bigint,
    ip           text,
    user_agent   text,
    hidden       boolean DEFAULT false,
    CONSTRAINT device_uniqueness UNIQUE (user_id, device_id)
);

-- The access tokens of local users. Refresh tokens are left out, so these columns
-- stay empty.
CREATE TABLE access_tokens (
    id               bigint PRIMARY KEY,
    user_id          text NOT NULL,
    device_id        text,
    token            text NOT NULL UNIQUE,
    valid_until_ms   bigint,
    puppets_user_id  text,
    last_validated   bigint,
    refresh_token_id bigint,
    used             boolean
);
CREATE INDEX access_tokens_device_id ON access_tokens (user_id, device_id);
CREATE INDEX access_tokens_refresh_token_id_idx ON access_tokens (refresh_token_id);

-- The times at which accounts expire.
CREATE TABLE account_validity (
    user_id          text PRIMARY KEY,
    expiration_ts_ms bigint  NOT NULL,
    email_sent       boolean NOT NULL,
    renewal_token    text,
    token_used_ts_ms bigint
);

-- A client's transaction id for each event, so that the event is sent only once.
CREATE TABLE event_txn_id_device_id (
    event_id    text   NOT NULL REFERENCES events (event_id) ON DELETE CASCADE,
    room_id     text   NOT NULL,
    user_id     text   NOT NULL,
    device_id   text   NOT NULL,
    txn_id      text   NOT NULL,
    inserted_ts bigint NOT NULL,
    FOREIGN KEY (user_id, device_id) REFERENCES devices (user_id, device_id) ON DELETE CASCADE
);
CREATE UNIQUE INDEX event_txn_id_device_id_event_id ON event_txn_id_device_id (event_id);
CREATE UNIQUE INDEX event_txn_id_device_id_txn_id2
    ON event_txn_id_device_id (user_id, device_id, room_id, txn_id);
CREATE INDEX event_txn_id_device_id_ts ON event_txn_id_device_id (inserted_ts);

-- The local users who follow a thread.
CREATE TABLE thread_subscriptions (
    stream_id                            integer PRIMARY KEY,
    instance_name                        text    NOT NULL,
    room_id                              text    NOT NULL,
    event_id                             text    NOT NULL,
    user_id                              text    NOT NULL,
    subscribed                           boolean NOT NULL,
    automatic                            boolean NOT NULL,
    unsubscribed_at_stream_ordering      bigint,
    unsubscribed_at_topological_ordering bigint,
    UNIQUE (room_id, event_id, user_id),
    CONSTRAINT thread_subscriptions_fk_events FOREIGN KEY (event_id) REFERENCES events (event_id) ON DELETE CASCADE,
    CONSTRAINT thread_subscriptions_fk_rooms FOREIGN KEY (room_id) REFERENCES rooms (room_id) ON DELETE CASCADE,
    CONSTRAINT thread_subscriptions_fk_users FOREIGN KEY (user_id) REFERENCES users (name)
);
CREATE INDEX thread_subscriptions_by_event ON thread_subscriptions (event_id);
CREATE INDEX thread_subscriptions_by_user ON thread_subscriptions (user_id, stream_id);
CREATE INDEX thread_subscriptions_user_room ON thread_subscriptions (user_id, room_id);

-- The entries that other processes must drop from their caches.
CREATE TABLE cache_invalidation_stream_by_instance (
    stream_id       bigint NOT NULL,
    instance_name   text   NOT NULL,
    cache_func      text   NOT NULL,
    keys            text[],
    invalidation_ts bigint
);
CREATE UNIQUE INDEX cache_invalidation_stream_by_instance_id ON cache_invalidation_stream_by_instance (stream_id);
CREATE INDEX cache_invalidation_stream_by_instance_instance_index
    ON cache_invalidation_stream_by_instance (instance_name, stream_id);

-- The next position in that stream.
CREATE SEQUENCE cache_invalidation_stream_seq;

-- +goose Down

DROP TABLE
    rooms, events, event_json, event_edges, event_auth, event_forward_extremities, event_backward_extremities,
    event_relations, event_search, rejections, redactions, event_labels, threads,
    event_push_actions, event_push_summary, event_push_summary_stream_ordering,
    event_to_state_groups, state_groups, state_groups_state, state_group_edges,
    state_groups_pending_deletion, state_groups_persisting,
    state_events, current_state_events, room_memberships, local_current_membership,
    room_depth, room_aliases, sliding_sync_joined_rooms, room_stats_state, room_stats_current,
    room_retention, blocked_rooms,
    users, devices, access_tokens, account_validity, event_txn_id_device_id, thread_subscriptions,
    cache_invalidation_stream_by_instance;
DROP SEQUENCE events_stream_seq, state_group_id_seq, cache_invalidation_stream_seq;
