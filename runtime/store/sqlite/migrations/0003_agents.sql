-- Agents: what people are asked and have allowed for good, what was spent, who was defined at run time, what is remembered.

-- n is the place of a message in its conversation, from 1. The messages of one row of conversations follow one another
-- (only a conversation without any becomes a fork), so a place is found without walking there from the head.
ALTER TABLE messages ADD COLUMN n INTEGER NOT NULL DEFAULT 0;
UPDATE messages SET n = placed.n
FROM (SELECT id, row_number() OVER (PARTITION BY conversation ORDER BY id) AS n FROM messages) AS placed
WHERE placed.id = messages.id;
DROP INDEX messages_conversation;
CREATE UNIQUE INDEX messages_place ON messages (conversation, n);

-- A question goes with its job. The second key is why a step asks once; it finds those of a job as well.
CREATE TABLE approvals (
  id            TEXT PRIMARY KEY,
  seq           INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE,
  step          TEXT NOT NULL,
  agent         TEXT NOT NULL,
  conversation  TEXT NOT NULL,
  tool          TEXT NOT NULL,
  arguments     TEXT NOT NULL CHECK (json_valid(arguments)),
  digest        TEXT NOT NULL,
  why           TEXT NOT NULL,
  status        TEXT NOT NULL DEFAULT 'pending'
    CHECK (status IN ('pending', 'allowed', 'denied', 'expired', 'used', 'void')),
  asked_at      INTEGER NOT NULL,
  expires_at    INTEGER NOT NULL,
  answered_at   INTEGER,
  answered_by   TEXT,
  reason        TEXT,
  edited        TEXT CHECK (edited IS NULL OR json_valid(edited)),
  edited_digest TEXT,
  always        INTEGER NOT NULL DEFAULT 0 CHECK (always IN (0, 1)),
  UNIQUE (seq, step),
  CHECK ((status IN ('allowed', 'denied', 'used')) = (answered_at IS NOT NULL)),
  CHECK ((edited IS NULL) = (edited_digest IS NULL))
) STRICT;
CREATE INDEX approvals_pending ON approvals (id) WHERE status = 'pending';

CREATE TABLE grants (
  agent     TEXT NOT NULL,
  tool      TEXT NOT NULL,
  digest    TEXT NOT NULL,
  arguments TEXT NOT NULL CHECK (json_valid(arguments)),
  by        TEXT NOT NULL,
  at        INTEGER NOT NULL,
  PRIMARY KEY (agent, tool, digest)
) STRICT, WITHOUT ROWID;

-- cost is in millionths of the currency of the prices.
CREATE TABLE spending (
  agent         TEXT NOT NULL,
  day           TEXT NOT NULL,
  calls         INTEGER NOT NULL,
  input_tokens  INTEGER NOT NULL,
  output_tokens INTEGER NOT NULL,
  cost          INTEGER NOT NULL,
  PRIMARY KEY (agent, day)
) STRICT, WITHOUT ROWID;

CREATE TABLE personas (
  name       TEXT PRIMARY KEY,
  settings   TEXT NOT NULL CHECK (json_valid(settings)),
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- id rises with each writing, so that of two notes of one millisecond the later one is told.
CREATE TABLE notes (
  id    INTEGER PRIMARY KEY AUTOINCREMENT,
  agent TEXT NOT NULL,
  key   TEXT NOT NULL,
  text  TEXT NOT NULL,
  at    INTEGER NOT NULL,
  UNIQUE (agent, key)
) STRICT;
