-- +goose Up
-- history_epoch, and layout:<topic> with the number of its partitions.
CREATE TABLE meta (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name)
) WITHOUT ROWID;

-- Heads of timelines; kind 1 is private, 2 a group.
CREATE TABLE conversations (
    id INTEGER PRIMARY KEY,
    conv TEXT NOT NULL,
    kind INTEGER NOT NULL,
    max_seq INTEGER NOT NULL,
    min_seq INTEGER NOT NULL,
    last_ts INTEGER NOT NULL,
    last_msg INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    owner TEXT NOT NULL,
    members INTEGER NOT NULL,
    muted_until INTEGER NOT NULL,
    dismissed INTEGER NOT NULL,
    named_seq INTEGER NOT NULL
);

CREATE UNIQUE INDEX conversations_conv ON conversations (conv);

-- Intervals of membership, both ends included; left_seq 0 is open.
CREATE TABLE members (
    conv_id INTEGER NOT NULL,
    user TEXT NOT NULL,
    joined_seq INTEGER NOT NULL,
    left_seq INTEGER NOT NULL,
    role TEXT NOT NULL,
    muted_until INTEGER NOT NULL,
    PRIMARY KEY (conv_id, user, joined_seq)
) WITHOUT ROWID;

CREATE INDEX members_user ON members (user, conv_id);

-- A message shows its present state; the month of ts is there for the native
-- partitions of MySQL. The index on id grows at its end, as ids do.
CREATE TABLE messages (
    conv_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    month INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    id INTEGER NOT NULL,
    sender TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT NOT NULL,
    ts INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    mention TEXT NOT NULL,
    reply_to INTEGER NOT NULL,
    status TEXT NOT NULL,
    target_seq INTEGER NOT NULL,
    version INTEGER NOT NULL,
    PRIMARY KEY (conv_id, seq)
) WITHOUT ROWID;

CREATE INDEX messages_id ON messages (id);

-- The verdict on the first record under a client_id, unique within a day.
CREATE TABLE outcomes (
    conv TEXT NOT NULL,
    sender TEXT NOT NULL,
    client_id TEXT NOT NULL,
    day INTEGER NOT NULL,
    topic TEXT NOT NULL,
    number INTEGER NOT NULL,
    id INTEGER NOT NULL,
    hash INTEGER NOT NULL,
    code TEXT NOT NULL,
    seq INTEGER NOT NULL,
    n INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    log_offset INTEGER NOT NULL,
    PRIMARY KEY (conv, sender, client_id, day)
) WITHOUT ROWID;

CREATE INDEX outcomes_id ON outcomes (id);

CREATE INDEX outcomes_ts ON outcomes (ts);

-- What a sender's next sync has to tell.
CREATE TABLE refusals (
    user TEXT NOT NULL,
    id INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    client_id TEXT NOT NULL,
    conv TEXT NOT NULL,
    code TEXT NOT NULL,
    PRIMARY KEY (user, id)
) WITHOUT ROWID;

CREATE INDEX refusals_ts ON refusals (ts);

-- How far each device of a user is; values only grow.
CREATE TABLE cursors (
    conv_id INTEGER NOT NULL,
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    delivered INTEGER NOT NULL,
    read_seq INTEGER NOT NULL,
    PRIMARY KEY (conv_id, user, device)
) WITHOUT ROWID;

-- The guard of each partition of the log, and the durable ledger.
CREATE TABLE log_partitions (
    topic TEXT NOT NULL,
    number INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    applied INTEGER NOT NULL,
    topic_id TEXT NOT NULL,
    stored INTEGER NOT NULL,
    updates INTEGER NOT NULL,
    commands INTEGER NOT NULL,
    repeats INTEGER NOT NULL,
    refused INTEGER NOT NULL,
    set_aside INTEGER NOT NULL,
    first_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, number)
) WITHOUT ROWID;

-- Leases of snowflake worker ids.
CREATE TABLE workers (
    id INTEGER NOT NULL,
    owner TEXT NOT NULL,
    until_ms INTEGER NOT NULL,
    PRIMARY KEY (id)
) WITHOUT ROWID;
