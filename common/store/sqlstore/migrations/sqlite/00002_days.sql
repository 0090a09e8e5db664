-- +goose Up
-- The record time (ms) of the newest verdict of a partition of the log, 0: none.
ALTER TABLE log_partitions ADD COLUMN applied_ts INTEGER NOT NULL DEFAULT 0;
