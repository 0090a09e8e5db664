-- +goose Up
-- MySQL commits each ALTER by itself and knows no IF NOT EXISTS for it: what a
-- run that was cut off has done is left out.
-- The record time (ms) of the newest verdict of a partition of the log, 0: none.
SET @change = IF((SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = 'log_partitions'
    AND column_name = 'applied_ts') = 0, 'ALTER TABLE log_partitions ADD COLUMN applied_ts BIGINT NOT NULL DEFAULT 0', 'DO 0');
PREPARE change_table FROM @change;
EXECUTE change_table;

-- Verdicts are retired by the day, by which nobody has to look for them.
SET @change = IF((SELECT COUNT(*) FROM information_schema.statistics WHERE table_schema = DATABASE() AND table_name = 'outcomes'
    AND index_name = 'outcomes_ts') > 0, 'ALTER TABLE outcomes DROP KEY outcomes_ts PARTITION BY RANGE (day) (PARTITION p0 VALUES LESS THAN (20000), PARTITION pmax VALUES LESS THAN MAXVALUE)', 'DO 0');
PREPARE change_table FROM @change;
EXECUTE change_table;
DEALLOCATE PREPARE change_table;
