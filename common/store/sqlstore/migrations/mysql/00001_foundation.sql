-- +goose Up
-- MySQL commits each of these by itself: IF NOT EXISTS, so that a run that was
-- cut off can be made again.
-- history_epoch, and layout:<topic> with the number of its partitions.
CREATE TABLE IF NOT EXISTS meta (
    name VARBINARY(64) NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (name)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- Heads of timelines; kind 1 is private, 2 a group.
CREATE TABLE IF NOT EXISTS conversations (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    conv VARBINARY(131) NOT NULL,
    kind TINYINT NOT NULL,
    max_seq BIGINT NOT NULL,
    min_seq BIGINT NOT NULL,
    last_ts BIGINT NOT NULL,
    last_msg BIGINT NOT NULL,
    name VARBINARY(1024) NOT NULL,
    description BLOB NOT NULL,
    owner VARBINARY(64) NOT NULL,
    members BIGINT NOT NULL,
    muted_until BIGINT NOT NULL,
    dismissed TINYINT NOT NULL,
    named_seq BIGINT NOT NULL,
    UNIQUE KEY conversations_conv (conv)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- Intervals of membership, both ends included; left_seq 0 is open.
CREATE TABLE IF NOT EXISTS members (
    conv_id BIGINT NOT NULL,
    user VARBINARY(64) NOT NULL,
    joined_seq BIGINT NOT NULL,
    left_seq BIGINT NOT NULL,
    role VARBINARY(16) NOT NULL,
    muted_until BIGINT NOT NULL,
    PRIMARY KEY (conv_id, user, joined_seq),
    KEY members_user (user, conv_id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- A message shows its present state; the month of ts is there for the native
-- partitions of MySQL. The index on id grows at its end, as ids do.
CREATE TABLE IF NOT EXISTS messages (
    conv_id BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    month INT NOT NULL,
    kind TINYINT NOT NULL,
    id BIGINT NOT NULL,
    sender VARBINARY(64) NOT NULL,
    type VARBINARY(16) NOT NULL,
    content MEDIUMBLOB NOT NULL,
    ts BIGINT NOT NULL,
    client_id VARBINARY(64) NOT NULL,
    mention MEDIUMBLOB NOT NULL,
    reply_to BIGINT NOT NULL,
    status VARBINARY(16) NOT NULL,
    target_seq BIGINT NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (conv_id, seq, month),
    KEY messages_id (id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4
PARTITION BY RANGE (month) (
    PARTITION p0 VALUES LESS THAN (202601),
    PARTITION pmax VALUES LESS THAN MAXVALUE
);

-- The verdict on the first record under a client_id, unique within a day.
CREATE TABLE IF NOT EXISTS outcomes (
    conv VARBINARY(131) NOT NULL,
    sender VARBINARY(64) NOT NULL,
    client_id VARBINARY(64) NOT NULL,
    day INT NOT NULL,
    topic VARBINARY(64) NOT NULL,
    number INT NOT NULL,
    id BIGINT NOT NULL,
    hash BIGINT NOT NULL,
    code VARBINARY(32) NOT NULL,
    seq BIGINT NOT NULL,
    n BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    log_offset BIGINT NOT NULL,
    PRIMARY KEY (conv, sender, client_id, day),
    KEY outcomes_id (id),
    KEY outcomes_ts (ts)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- What a sender's next sync has to tell.
CREATE TABLE IF NOT EXISTS refusals (
    user VARBINARY(64) NOT NULL,
    id BIGINT NOT NULL,
    ts BIGINT NOT NULL,
    client_id VARBINARY(64) NOT NULL,
    conv VARBINARY(131) NOT NULL,
    code VARBINARY(32) NOT NULL,
    PRIMARY KEY (user, id),
    KEY refusals_ts (ts)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- How far each device of a user is; values only grow.
CREATE TABLE IF NOT EXISTS cursors (
    conv_id BIGINT NOT NULL,
    user VARBINARY(64) NOT NULL,
    device VARBINARY(64) NOT NULL,
    delivered BIGINT NOT NULL,
    read_seq BIGINT NOT NULL,
    PRIMARY KEY (conv_id, user, device)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- The guard of each partition of the log, and the durable ledger.
CREATE TABLE IF NOT EXISTS log_partitions (
    topic VARBINARY(64) NOT NULL,
    number INT NOT NULL,
    epoch BIGINT NOT NULL,
    applied BIGINT NOT NULL,
    topic_id VARBINARY(64) NOT NULL,
    `stored` BIGINT NOT NULL,
    updates BIGINT NOT NULL,
    commands BIGINT NOT NULL,
    repeats BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    set_aside BIGINT NOT NULL,
    first_offset BIGINT NOT NULL,
    PRIMARY KEY (topic, number)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- Leases of snowflake worker ids.
CREATE TABLE IF NOT EXISTS workers (
    id INT NOT NULL,
    owner VARBINARY(1024) NOT NULL,
    until_ms BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;
