-- The whole queue: edges, steps, signals, tags, limits, deadlines, waits; schedules; events as one row a transaction.

-- What most jobs do not have is last and NULL, which takes no room. parent is the seq of the job this one is a part of;
-- it is no foreign key, since a number never comes back: one that was removed names nobody. waits is the signal it
-- waits for. worker stays after an attempt ended (boot does not), so that an attempt that simply completed needs no row
-- of its own: the job's row tells its epoch, number, worker, beginning (claimed_at) and end.
ALTER TABLE jobs ADD COLUMN claimed_at INTEGER;
ALTER TABLE jobs ADD COLUMN snoozes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE jobs ADD COLUMN limit_max INTEGER NOT NULL DEFAULT 1;
ALTER TABLE jobs ADD COLUMN limit_key TEXT;
ALTER TABLE jobs ADD COLUMN parent INTEGER;
ALTER TABLE jobs ADD COLUMN unique_key TEXT;
ALTER TABLE jobs ADD COLUMN deadline_at INTEGER;
ALTER TABLE jobs ADD COLUMN heartbeat_ms INTEGER;
ALTER TABLE jobs ADD COLUMN waits TEXT;
ALTER TABLE jobs ADD COLUMN wait_until INTEGER;
ALTER TABLE jobs ADD COLUMN pause_at INTEGER;

DROP TRIGGER jobs_moves;

UPDATE jobs SET
  claimed_at = (SELECT a.started_at FROM job_attempts AS a WHERE a.seq = jobs.seq AND a.epoch = jobs.epoch),
  worker = coalesce(worker, (SELECT a.worker FROM job_attempts AS a WHERE a.seq = jobs.seq AND a.epoch = jobs.epoch))
WHERE epoch > 0;

-- The moves of schemas.jobs.MOVES, and the epoch that never falls; a test holds the two together.
-- (After and not before: SQLite reads a row anew after a trigger that comes before.)
CREATE TRIGGER jobs_moves AFTER UPDATE OF status, epoch ON jobs
WHEN NEW.epoch < OLD.epoch OR (NEW.status <> OLD.status AND NOT instr(CASE OLD.status
  WHEN 'pending' THEN ' active waiting delayed paused cancelled failed '
  WHEN 'active' THEN ' completed failed cancelled delayed waiting paused pending '
  WHEN 'waiting' THEN ' pending delayed paused cancelled failed '
  WHEN 'delayed' THEN ' pending waiting paused cancelled failed '
  WHEN 'paused' THEN ' pending waiting delayed cancelled '
  WHEN 'failed' THEN ' pending waiting '
  WHEN 'cancelled' THEN ' pending waiting '
  ELSE '' END, ' ' || NEW.status || ' '))
BEGIN
  SELECT RAISE(ABORT, 'illegal move of a job');
END;

-- One partial index for each question. Every index that names status or finished_at is looked at whenever a job moves,
-- so there are few of those, and the questions that can do without name neither.
DROP INDEX jobs_active;
DROP INDEX jobs_waiting;
DROP INDEX jobs_ended;
CREATE INDEX jobs_active ON jobs (boot) WHERE status = 'active';
CREATE INDEX jobs_waiting ON jobs (reason, queue, lane) WHERE status = 'waiting';
CREATE INDEX jobs_ended ON jobs (status, queue, finished_at, lane) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_limit ON jobs (limit_key, status, queue, lane, rank, seq)
  WHERE limit_key IS NOT NULL AND finished_at IS NULL;
CREATE UNIQUE INDEX jobs_unique ON jobs (kind, unique_key) WHERE unique_key IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_deadline ON jobs (deadline_at) WHERE deadline_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_wait_until ON jobs (wait_until) WHERE wait_until IS NOT NULL;
-- finished_at is NULL, and so first, for the parts that live.
CREATE INDEX jobs_parent ON jobs (parent, finished_at) WHERE parent IS NOT NULL;

CREATE TABLE job_deps (
  parent     INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  child      INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  on_failure TEXT NOT NULL DEFAULT 'cancel' CHECK (on_failure IN ('cancel', 'run', 'hold')),
  state      TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'satisfied', 'broken', 'ignored')),
  PRIMARY KEY (parent, child),
  CHECK (parent <> child)
) STRICT, WITHOUT ROWID;
-- Without state, which changes for every edge: writing this index too would double what settling an edge costs.
CREATE INDEX job_deps_child ON job_deps (child);

CREATE TABLE job_steps (
  seq        INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  name       TEXT NOT NULL,
  epoch      INTEGER NOT NULL,
  state      TEXT NOT NULL CHECK (state IN ('started', 'done', 'failed')),
  output     TEXT,
  error      TEXT,
  cost       REAL,
  started_at INTEGER NOT NULL,
  ended_at   INTEGER,
  PRIMARY KEY (seq, name),
  CHECK ((state = 'started') = (ended_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE job_signals (
  target      INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  name        TEXT NOT NULL,
  n           INTEGER NOT NULL,
  payload     TEXT NOT NULL CHECK (json_valid(payload)),
  at          INTEGER NOT NULL,
  consumed_at INTEGER,
  PRIMARY KEY (target, name, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_tags (
  tag TEXT NOT NULL,
  seq INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  PRIMARY KEY (tag, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX job_tags_seq ON job_tags (seq);

CREATE TABLE schedules (
  name           TEXT PRIMARY KEY,
  cron           TEXT NOT NULL,
  tz             TEXT NOT NULL,
  job            TEXT NOT NULL CHECK (json_valid(job)),
  catchup        TEXT NOT NULL CHECK (catchup IN ('skip', 'one', 'all')),
  overlap        TEXT NOT NULL CHECK (overlap IN ('allow', 'skip')),
  by             TEXT NOT NULL,
  paused         INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
  next_at        INTEGER,
  high_mark      INTEGER NOT NULL,
  last_at        INTEGER,
  last_job       TEXT,
  created_at     INTEGER NOT NULL,
  updated_at     INTEGER NOT NULL,
  paused_by_hand INTEGER NOT NULL DEFAULT 0 CHECK (paused_by_hand IN (0, 1))
) STRICT, WITHOUT ROWID;

-- The key is why a tick has one job and no more.
CREATE TABLE schedule_fires (
  name    TEXT NOT NULL REFERENCES schedules (name) ON DELETE CASCADE,
  fire_at INTEGER NOT NULL,
  job     TEXT,
  outcome TEXT NOT NULL
    CHECK (outcome IN ('fired', 'triggered', 'skipped_overlap', 'skipped_catchup', 'refused')),
  at      INTEGER NOT NULL,
  PRIMARY KEY (name, fire_at)
) STRICT, WITHOUT ROWID;

ALTER TABLE queues RENAME TO queues_1;
CREATE TABLE queues (
  name          TEXT PRIMARY KEY,
  state         TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'paused', 'draining')),
  by            TEXT,
  since         INTEGER,
  max_active    INTEGER CHECK (max_active >= 0),
  rate          TEXT CHECK (rate IS NULL OR json_valid(rate)),
  blocked_until INTEGER,
  requests_left REAL,
  tokens_left   REAL,
  filled_at     INTEGER,
  set_by_hand   TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(set_by_hand)),
  updated_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO queues (name, state, by, since, set_by_hand, updated_at)
SELECT name, CASE paused WHEN 1 THEN 'paused' ELSE 'running' END, CASE paused WHEN 1 THEN 'a person' END,
  updated_at, CASE paused WHEN 1 THEN '["state"]' ELSE '[]' END, updated_at
FROM queues_1;
DROP TABLE queues_1;

ALTER TABLE workers ADD COLUMN host TEXT NOT NULL DEFAULT '';
ALTER TABLE workers ADD COLUMN capabilities TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(capabilities));

-- The events of one transaction are one row: body is an array of [at, type, subject, data], and the event at place n of
-- it has the offset first + n. The newest row is never removed, so that the next offset is known.
ALTER TABLE events RENAME TO events_1;
CREATE TABLE events (
  first INTEGER PRIMARY KEY,
  count INTEGER NOT NULL CHECK (count >= 1),
  at    INTEGER NOT NULL,
  body  TEXT NOT NULL
) STRICT;
INSERT INTO events (first, count, at, body)
SELECT "offset", 1, at, json_array(json_array(at, type, subject, json(data))) FROM events_1;
INSERT INTO events (first, count, at, body)
SELECT seq, 1, 0, '[[0,"events.pruned","events",{}]]' FROM sqlite_sequence
WHERE name = 'events_1' AND seq > 0 AND NOT EXISTS (SELECT 1 FROM events);
DROP TABLE events_1;
