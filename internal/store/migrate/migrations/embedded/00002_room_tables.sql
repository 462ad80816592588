-- +goose Up

-- The other tables of Synapse 1.160 with rows of rooms, with the same names, types,
-- keys and indexes. A room's delete deletes these rows, and a shutdown writes some
-- of them. Foreign keys to tables that are not here are left out.

-- The position of each state event in an auth chain. All events before it in its
-- chain, and those that the chain's links lead to, are its ancestors.
CREATE TABLE event_auth_chains (
    event_id        text   PRIMARY KEY,
    chain_id        bigint NOT NULL,
    sequence_number bigint NOT NULL
);
CREATE UNIQUE INDEX event_auth_chains_c_seq_index ON event_auth_chains (chain_id, sequence_number);
CREATE SEQUENCE event_auth_chain_id;

CREATE TABLE event_auth_chain_links (
    origin_chain_id        bigint NOT NULL,
    origin_sequence_number bigint NOT NULL,
    target_chain_id        bigint NOT NULL,
    target_sequence_number bigint NOT NULL
);
CREATE INDEX event_auth_chain_links_idx ON event_auth_chain_links (origin_chain_id, target_chain_id);
CREATE INDEX event_auth_chain_links_origin_index ON event_auth_chain_links (origin_chain_id, origin_sequence_number);

-- State events without such a position.
CREATE TABLE event_auth_chain_to_calculate (
    event_id  text PRIMARY KEY,
    room_id   text NOT NULL,
    type      text NOT NULL,
    state_key text NOT NULL
);
CREATE INDEX event_auth_chain_to_calculate_rm_id ON event_auth_chain_to_calculate (room_id);

-- All changes of current state, for processes that follow them.
CREATE TABLE current_state_delta_stream (
    stream_id     bigint NOT NULL,
    room_id       text   NOT NULL,
    type          text   NOT NULL,
    state_key     text   NOT NULL,
    event_id      text,
    prev_event_id text,
    instance_name text
);
CREATE INDEX current_state_delta_stream_idx ON current_state_delta_stream (stream_id);
CREATE INDEX current_state_delta_stream_room_idx ON current_state_delta_stream (room_id, stream_id);

-- A room's forward extremities at each event, kept for some time.
CREATE TABLE stream_ordering_to_exterm (
    stream_ordering bigint NOT NULL,
    room_id         text   NOT NULL,
    event_id        text   NOT NULL
);
CREATE INDEX stream_ordering_to_exterm_idx ON stream_ordering_to_exterm (stream_ordering);
CREATE INDEX stream_ordering_to_exterm_rm_idx ON stream_ordering_to_exterm (room_id, stream_ordering);

-- The gaps that limited syncs have left in the timeline.
CREATE TABLE timeline_gaps (
    room_id         text   NOT NULL,
    instance_name   text   NOT NULL,
    stream_ordering bigint NOT NULL
);
CREATE INDEX timeline_gaps_room_id ON timeline_gaps (room_id, stream_ordering);

-- The times at which events expire, and until which sticky events stay sticky.
CREATE TABLE event_expiry (
    event_id  text   PRIMARY KEY,
    expiry_ts bigint NOT NULL
);
CREATE INDEX event_expiry_expiry_ts_idx ON event_expiry (expiry_ts);

CREATE TABLE sticky_events (
    stream_id             integer PRIMARY KEY,
    instance_name         text    NOT NULL,
    event_id              text    NOT NULL,
    room_id               text    NOT NULL,
    event_stream_ordering integer NOT NULL UNIQUE,
    sender                text    NOT NULL,
    expires_at            bigint  NOT NULL
);
CREATE INDEX sticky_events_room_idx ON sticky_events (room_id, event_stream_ordering);

-- Push actions of events that are being persisted.
CREATE TABLE event_push_actions_staging (
    event_id    text     NOT NULL,
    user_id     text     NOT NULL,
    actions     text     NOT NULL,
    notif       smallint NOT NULL,
    highlight   smallint NOT NULL,
    unread      smallint,
    thread_id   text,
    inserted_ts bigint DEFAULT extract(epoch FROM now()) * 1000,
    CHECK (thread_id IS NOT NULL)
);
CREATE INDEX event_push_actions_staging_id ON event_push_actions_staging (event_id);

-- Federation: the servers that receive a room's events, the events that could not be
-- fetched, and the received events that wait.
CREATE TABLE destination_rooms (
    destination     text   NOT NULL,
    room_id         text   NOT NULL REFERENCES rooms (room_id),
    stream_ordering bigint NOT NULL,
    PRIMARY KEY (destination, room_id)
);
CREATE INDEX destination_rooms_room_id ON destination_rooms (room_id);

CREATE TABLE event_failed_pull_attempts (
    room_id         text    NOT NULL REFERENCES rooms (room_id),
    event_id        text    NOT NULL,
    num_attempts    integer NOT NULL,
    last_attempt_ts bigint  NOT NULL,
    last_cause      text    NOT NULL,
    PRIMARY KEY (room_id, event_id)
);

CREATE TABLE federation_inbound_events_staging (
    origin            text   NOT NULL,
    room_id           text   NOT NULL,
    event_id          text   NOT NULL,
    received_ts       bigint NOT NULL,
    event_json        text   NOT NULL,
    internal_metadata text   NOT NULL
);
CREATE UNIQUE INDEX federation_inbound_events_staging_instance_event ON federation_inbound_events_staging (origin, event_id);
CREATE INDEX federation_inbound_events_staging_room ON federation_inbound_events_staging (room_id, received_ts);

-- Rooms that were joined before their whole state was known.
CREATE TABLE partial_state_rooms (
    room_id                text   PRIMARY KEY REFERENCES rooms (room_id),
    device_lists_stream_id bigint NOT NULL DEFAULT 0,
    join_event_id          text   REFERENCES events (event_id),
    joined_via             text
);

CREATE TABLE partial_state_rooms_servers (
    room_id     text NOT NULL REFERENCES partial_state_rooms (room_id),
    server_name text NOT NULL,
    UNIQUE (room_id, server_name)
);

CREATE TABLE partial_state_events (
    room_id  text NOT NULL REFERENCES partial_state_rooms (room_id),
    event_id text NOT NULL UNIQUE REFERENCES events (event_id)
);
CREATE INDEX partial_state_events_room_id_idx ON partial_state_events (room_id);

CREATE TABLE un_partial_stated_room_stream (
    stream_id     bigint PRIMARY KEY,
    instance_name text   NOT NULL,
    room_id       text   NOT NULL REFERENCES rooms (room_id) ON DELETE CASCADE
);
CREATE INDEX un_partial_stated_room_stream_room_id ON un_partial_stated_room_stream (room_id);

CREATE TABLE un_partial_stated_event_stream (
    stream_id                bigint  PRIMARY KEY,
    instance_name            text    NOT NULL,
    event_id                 text    NOT NULL REFERENCES events (event_id) ON DELETE CASCADE,
    rejection_status_changed boolean NOT NULL
);
CREATE UNIQUE INDEX un_partial_stated_event_stream_room_id ON un_partial_stated_event_stream (event_id);

-- State as a graph of its own, an experiment of newer room versions.
CREATE TABLE msc4242_state_dag_edges (
    room_id             text NOT NULL REFERENCES rooms (room_id) ON DELETE CASCADE,
    event_id            text NOT NULL REFERENCES events (event_id),
    prev_state_event_id text REFERENCES events (event_id)
);
CREATE UNIQUE INDEX msc4242_state_dag_edges_key ON msc4242_state_dag_edges (room_id, event_id, prev_state_event_id);

CREATE TABLE msc4242_state_dag_forward_extremities (
    room_id  text NOT NULL REFERENCES rooms (room_id) ON DELETE CASCADE,
    event_id text NOT NULL UNIQUE REFERENCES events (event_id) ON DELETE CASCADE
);
CREATE INDEX msc4242_state_dag_room ON msc4242_state_dag_forward_extremities (room_id);

-- The data that sliding sync shows of a room to each of its members.
CREATE TABLE sliding_sync_membership_snapshots (
    room_id                     text    NOT NULL REFERENCES rooms (room_id),
    user_id                     text    NOT NULL,
    sender                      text    NOT NULL,
    membership_event_id         text    NOT NULL REFERENCES events (event_id),
    membership                  text    NOT NULL,
    forgotten                   integer NOT NULL DEFAULT 0,
    event_stream_ordering       bigint  NOT NULL REFERENCES events (stream_ordering),
    event_instance_name         text    NOT NULL,
    has_known_state             boolean NOT NULL DEFAULT false,
    room_type                   text,
    room_name                   text,
    is_encrypted                boolean NOT NULL DEFAULT false,
    tombstone_successor_room_id text,
    PRIMARY KEY (room_id, user_id)
);
CREATE UNIQUE INDEX sliding_sync_membership_snapshots_event_stream_ordering
    ON sliding_sync_membership_snapshots (event_stream_ordering);
CREATE INDEX sliding_sync_membership_snapshots_membership_event_id_idx
    ON sliding_sync_membership_snapshots (membership_event_id);
CREATE INDEX sliding_sync_membership_snapshots_user_id_stream_ordering
    ON sliding_sync_membership_snapshots (user_id, event_stream_ordering);

CREATE TABLE sliding_sync_joined_rooms_to_recalculate (
    room_id text PRIMARY KEY REFERENCES rooms (room_id)
);

-- How far users have read.
CREATE TABLE receipts_linearized (
    stream_id             bigint NOT NULL,
    room_id               text   NOT NULL,
    receipt_type          text   NOT NULL,
    user_id               text   NOT NULL,
    event_id              text   NOT NULL,
    data                  text   NOT NULL,
    instance_name         text,
    event_stream_ordering bigint,
    thread_id             text,
    CONSTRAINT receipts_linearized_uniqueness_thread UNIQUE (room_id, receipt_type, user_id, thread_id)
);
CREATE UNIQUE INDEX receipts_linearized_unique_index ON receipts_linearized (room_id, receipt_type, user_id)
    WHERE thread_id IS NULL;
CREATE INDEX receipts_linearized_event_id ON receipts_linearized (room_id, event_id);
CREATE INDEX receipts_linearized_id ON receipts_linearized (stream_id);
CREATE INDEX receipts_linearized_room_stream ON receipts_linearized (room_id, stream_id);
CREATE INDEX receipts_linearized_user ON receipts_linearized (user_id);

CREATE TABLE receipts_graph (
    room_id      text NOT NULL,
    receipt_type text NOT NULL,
    user_id      text NOT NULL,
    event_ids    text NOT NULL,
    data         text NOT NULL,
    thread_id    text,
    CONSTRAINT receipts_graph_uniqueness_thread UNIQUE (room_id, receipt_type, user_id, thread_id)
);
CREATE UNIQUE INDEX receipts_graph_unique_index ON receipts_graph (room_id, receipt_type, user_id)
    WHERE thread_id IS NULL;

-- Private data of users about a room.
CREATE TABLE room_account_data (
    user_id           text   NOT NULL,
    room_id           text   NOT NULL,
    account_data_type text   NOT NULL,
    stream_id         bigint NOT NULL,
    content           text   NOT NULL,
    instance_name     text,
    CONSTRAINT room_account_data_uniqueness UNIQUE (user_id, room_id, account_data_type)
);
CREATE INDEX room_account_data_room_id ON room_account_data (room_id);
CREATE INDEX room_account_data_stream_id ON room_account_data (user_id, stream_id);

CREATE TABLE room_tags (
    user_id text NOT NULL,
    room_id text NOT NULL,
    tag     text NOT NULL,
    content text NOT NULL,
    CONSTRAINT room_tag_uniqueness UNIQUE (user_id, room_id, tag)
);

CREATE TABLE e2e_room_keys (
    user_id             text   NOT NULL,
    room_id             text   NOT NULL,
    session_id          text   NOT NULL,
    version             bigint NOT NULL,
    first_message_index integer,
    forwarded_count     integer,
    is_verified         boolean,
    session_data        text   NOT NULL
);
CREATE INDEX e2e_room_keys_room_id ON e2e_room_keys (room_id);
CREATE UNIQUE INDEX e2e_room_keys_with_version_idx ON e2e_room_keys (user_id, version, room_id, session_id);

CREATE TABLE pusher_throttle (
    pusher       bigint NOT NULL,
    room_id      text   NOT NULL,
    last_sent_ts bigint,
    throttle_ms  bigint,
    PRIMARY KEY (pusher, room_id)
);

-- Room directories, and the users who can find each other through a room.
CREATE TABLE room_alias_servers (
    room_alias text NOT NULL,
    server     text NOT NULL
);
CREATE INDEX room_alias_servers_alias ON room_alias_servers (room_alias);

CREATE TABLE appservice_room_list (
    appservice_id text NOT NULL,
    network_id    text NOT NULL,
    room_id       text NOT NULL
);
CREATE UNIQUE INDEX appservice_room_list_idx ON appservice_room_list (appservice_id, network_id, room_id);

CREATE TABLE users_in_public_rooms (
    user_id text NOT NULL,
    room_id text NOT NULL
);
CREATE INDEX users_in_public_rooms_r_idx ON users_in_public_rooms (room_id);
CREATE UNIQUE INDEX users_in_public_rooms_u_idx ON users_in_public_rooms (user_id, room_id);

CREATE TABLE users_who_share_private_rooms (
    user_id       text NOT NULL,
    other_user_id text NOT NULL,
    room_id       text NOT NULL
);
CREATE INDEX users_who_share_private_rooms_o_idx ON users_who_share_private_rooms (other_user_id);
CREATE INDEX users_who_share_private_rooms_r_idx ON users_who_share_private_rooms (room_id);
CREATE UNIQUE INDEX users_who_share_private_rooms_u_idx
    ON users_who_share_private_rooms (user_id, other_user_id, room_id);

-- The position from which a room's statistics were counted.
CREATE TABLE room_stats_earliest_token (
    room_id text   NOT NULL,
    token   bigint NOT NULL
);
CREATE UNIQUE INDEX room_stats_earliest_token_idx ON room_stats_earliest_token (room_id);

-- +goose Down

DROP TABLE
    event_auth_chains, event_auth_chain_links, event_auth_chain_to_calculate, current_state_delta_stream,
    stream_ordering_to_exterm, timeline_gaps, event_expiry, sticky_events, event_push_actions_staging,
    destination_rooms, event_failed_pull_attempts, federation_inbound_events_staging,
    partial_state_events, partial_state_rooms_servers, partial_state_rooms,
    un_partial_stated_room_stream, un_partial_stated_event_stream,
    msc4242_state_dag_edges, msc4242_state_dag_forward_extremities,
    sliding_sync_membership_snapshots, sliding_sync_joined_rooms_to_recalculate,
    receipts_linearized, receipts_graph, room_account_data, room_tags, e2e_room_keys, pusher_throttle,
    room_alias_servers, appservice_room_list, users_in_public_rooms, users_who_share_private_rooms,
    room_stats_earliest_token;
DROP SEQUENCE event_auth_chain_id;
