-- +goose Up
-- A conversation has the id of the record that began it.
ALTER TABLE conversations MODIFY id BIGINT NOT NULL;
