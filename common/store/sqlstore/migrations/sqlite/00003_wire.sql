-- +goose Up
-- Of a private conversation p:a:b: bit 0, a has blocked b; bit 1, b has blocked a.
ALTER TABLE conversations ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;

-- The same, by its owner.
CREATE TABLE blocks (
    owner TEXT NOT NULL,
    peer TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (owner, peer)
) WITHOUT ROWID;

-- What is decided while the system runs (package control), one row a subject.
CREATE TABLE control (
    version INTEGER PRIMARY KEY,
    subject TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    user TEXT NOT NULL,
    device TEXT NOT NULL,
    conn INTEGER NOT NULL,
    at INTEGER NOT NULL,
    until_ms INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    over_at INTEGER NOT NULL
);
CREATE INDEX control_over ON control (over_at);
