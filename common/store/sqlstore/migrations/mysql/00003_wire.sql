-- +goose Up
-- MySQL commits each ALTER by itself and knows no IF NOT EXISTS for it: what a
-- run that was cut off has done is left out.
-- Of a private conversation p:a:b: bit 0, a has blocked b; bit 1, b has blocked a.
SET @change = IF((SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'conversations'
    AND column_name = 'blocked') = 0, 'ALTER TABLE conversations ADD COLUMN blocked TINYINT NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_table FROM @change;
EXECUTE change_table;
DEALLOCATE PREPARE change_table;

-- The same, by its owner.
CREATE TABLE IF NOT EXISTS blocks (
    owner VARBINARY(64) NOT NULL,
    peer VARBINARY(64) NOT NULL,
    since BIGINT NOT NULL,
    PRIMARY KEY (owner, peer)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;

-- What is decided while the system runs (package control), one row a subject.
CREATE TABLE IF NOT EXISTS control (
    version BIGINT NOT NULL,
    subject VARBINARY(160) NOT NULL,
    kind VARBINARY(16) NOT NULL,
    user VARBINARY(64) NOT NULL,
    device VARBINARY(64) NOT NULL,
    conn BIGINT NOT NULL,
    at BIGINT NOT NULL,
    until_ms BIGINT NOT NULL,
    name VARBINARY(64) NOT NULL,
    value BLOB NOT NULL,
    over_at BIGINT NOT NULL,
    PRIMARY KEY (version),
    UNIQUE KEY control_subject (subject),
    KEY control_over (over_at)
) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARSET=utf8mb4;
