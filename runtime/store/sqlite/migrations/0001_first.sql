-- The first schema: jobs with their data, attempts and logs; queues; workers; agents with state and conversations; events.
-- Times are integer milliseconds UTC. A column that holds JSON says so in its CHECK.

CREATE TABLE settings (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL CHECK (json_valid(value))
) STRICT, WITHOUT ROWID;

CREATE TABLE queues (
  name       TEXT PRIMARY KEY,
  paused     INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
  updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The narrow hot row. What is wide (arguments, results, errors) lives in job_data, since SQLite rewrites a whole row on
-- each update. seq never comes back (AUTOINCREMENT), so a stale one cannot name another job.
CREATE TABLE jobs (
  seq           INTEGER PRIMARY KEY AUTOINCREMENT,
  id            TEXT NOT NULL UNIQUE,
  kind          TEXT NOT NULL,
  queue         TEXT NOT NULL,
  lane          TEXT NOT NULL CHECK (lane IN ('loop', 'child', 'agent')),
  status        TEXT NOT NULL,
  reason        TEXT,
  priority      INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 1000),
  rank          INTEGER NOT NULL,
  execute_after INTEGER NOT NULL,
  attempts      INTEGER NOT NULL DEFAULT 0 CHECK (attempts >= 0),
  max_attempts  INTEGER NOT NULL CHECK (max_attempts >= 1),
  crashes       INTEGER NOT NULL DEFAULT 0,
  epoch         INTEGER NOT NULL DEFAULT 0,
  worker        TEXT,
  boot          TEXT,
  lease_until   INTEGER,
  user_code     INTEGER NOT NULL DEFAULT 0 CHECK (user_code IN (0, 1)),
  suspect       INTEGER NOT NULL DEFAULT 0 CHECK (suspect IN (0, 1)),
  cancel_at     INTEGER,
  timeout_ms    INTEGER,
  key           TEXT,
  conversation  TEXT,
  created_at    INTEGER NOT NULL,
  updated_at    INTEGER NOT NULL,
  started_at    INTEGER,
  finished_at   INTEGER,
  CHECK ((instr(' completed failed cancelled ', ' ' || status || ' ') > 0) = (finished_at IS NOT NULL)),
  CHECK ((status = 'active') = (worker IS NOT NULL AND boot IS NOT NULL)),
  -- One CASE and not a CHECK a status, and words in a text and not IN lists: status changes most, and SQLite tries every
  -- CHECK that names a changed column and builds an IN list anew for each row.
  CHECK (CASE status
    WHEN 'pending' THEN reason IS NULL
    WHEN 'active' THEN reason IS NULL
    WHEN 'completed' THEN reason IS NULL
    WHEN 'delayed' THEN reason IS NOT NULL AND instr(' scheduled retry snooze rate_limit ', ' ' || reason || ' ')
    WHEN 'failed' THEN reason IS NOT NULL
      AND instr(' exhausted permanent poison timeout dependency deadline ', ' ' || reason || ' ')
    WHEN 'cancelled' THEN reason IS NOT NULL AND instr(' user deadline dependency superseded ', ' ' || reason || ' ')
    WHEN 'paused' THEN reason IS NOT NULL AND instr(' user hold ', ' ' || reason || ' ')
    WHEN 'waiting' THEN reason IS NOT NULL AND instr(' deps limit signal children ', ' ' || reason || ' ')
    ELSE 0 END)
) STRICT;

-- One partial index for each question the queue asks; delayed jobs stay out of the claim index.
CREATE INDEX jobs_claim ON jobs (queue, lane, rank, seq) WHERE status = 'pending';
CREATE INDEX jobs_due ON jobs (execute_after) WHERE status = 'delayed';
CREATE INDEX jobs_active ON jobs (boot, worker) WHERE status = 'active';
CREATE INDEX jobs_waiting ON jobs (queue, lane) WHERE status = 'waiting';
CREATE INDEX jobs_paused ON jobs (reason, kind) WHERE status = 'paused';
CREATE INDEX jobs_suspect ON jobs (seq) WHERE suspect = 1 AND finished_at IS NULL;
CREATE INDEX jobs_order ON jobs (queue, conversation, seq) WHERE conversation IS NOT NULL AND finished_at IS NULL;
CREATE INDEX jobs_ended ON jobs (status, queue, lane, finished_at) WHERE finished_at IS NOT NULL;
CREATE UNIQUE INDEX jobs_key ON jobs (kind, key) WHERE key IS NOT NULL;

-- The moves of schemas.jobs.MOVES, and the epoch that never falls; a test holds the two together.
CREATE TRIGGER jobs_moves BEFORE UPDATE OF status, epoch ON jobs
WHEN NEW.epoch < OLD.epoch OR (NEW.status <> OLD.status AND NOT instr(CASE OLD.status
  WHEN 'pending' THEN ' active delayed paused cancelled failed '
  WHEN 'active' THEN ' completed failed cancelled delayed waiting paused pending '
  WHEN 'waiting' THEN ' pending delayed paused cancelled failed '
  WHEN 'delayed' THEN ' pending waiting paused cancelled failed '
  WHEN 'paused' THEN ' pending waiting delayed cancelled '
  WHEN 'failed' THEN ' pending '
  WHEN 'cancelled' THEN ' pending '
  ELSE '' END, ' ' || NEW.status || ' '))
BEGIN
  SELECT RAISE(ABORT, 'illegal move of a job');
END;

CREATE TABLE job_data (
  seq      INTEGER PRIMARY KEY REFERENCES jobs (seq) ON DELETE CASCADE,
  args     TEXT NOT NULL CHECK (json_valid(args)),
  retry    TEXT,
  data     TEXT,
  result   TEXT,
  error    TEXT,
  progress TEXT
) STRICT;

-- pgid and started name the process group of the attempt, so that a later boot can end what outlived its daemon.
CREATE TABLE job_attempts (
  seq        INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  epoch      INTEGER NOT NULL,
  attempt    INTEGER NOT NULL,
  worker     TEXT NOT NULL,
  boot       TEXT NOT NULL,
  started_at INTEGER NOT NULL,
  ended_at   INTEGER,
  outcome    TEXT,
  error      TEXT,
  pgid       INTEGER,
  started    INTEGER,
  PRIMARY KEY (seq, epoch)
) STRICT, WITHOUT ROWID;

CREATE TABLE job_logs (
  seq   INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  n     INTEGER NOT NULL,
  epoch INTEGER NOT NULL,
  at    INTEGER NOT NULL,
  level TEXT NOT NULL,
  text  TEXT NOT NULL,
  PRIMARY KEY (seq, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE workers (
  id                TEXT PRIMARY KEY,
  agent             TEXT,
  lane              TEXT NOT NULL CHECK (lane IN ('loop', 'child', 'agent')),
  status            TEXT NOT NULL CHECK (status IN ('idle', 'busy', 'offline', 'error')),
  boot              TEXT NOT NULL,
  pid               INTEGER NOT NULL,
  created_at        INTEGER NOT NULL,
  last_heartbeat_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE agents (
  name       TEXT PRIMARY KEY,
  desired    TEXT NOT NULL CHECK (desired IN ('running', 'suspended')),
  observed   TEXT NOT NULL,
  reason     TEXT,
  updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE agent_states (
  agent          TEXT PRIMARY KEY,
  state          TEXT NOT NULL CHECK (json_valid(state)),
  schema_version INTEGER NOT NULL,
  version        INTEGER NOT NULL CHECK (version >= 1),
  boot           TEXT NOT NULL,
  incarnation    INTEGER NOT NULL,
  updated_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conversations (
  id         INTEGER PRIMARY KEY,
  agent      TEXT NOT NULL,
  name       TEXT NOT NULL,
  head       INTEGER,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  UNIQUE (agent, name)
) STRICT;

-- Append-only: each message once, with its parent, so that a fork can share what came before it.
CREATE TABLE messages (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  conversation INTEGER NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
  parent       INTEGER REFERENCES messages (id),
  job          TEXT,
  body         TEXT NOT NULL CHECK (json_valid(body)),
  created_at   INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_conversation ON messages (conversation, id);
CREATE INDEX messages_parent ON messages (parent) WHERE parent IS NOT NULL;

CREATE TABLE events (
  "offset" INTEGER PRIMARY KEY AUTOINCREMENT,
  at       INTEGER NOT NULL,
  type     TEXT NOT NULL,
  subject  TEXT NOT NULL,
  data     TEXT NOT NULL CHECK (json_valid(data))
) STRICT;
