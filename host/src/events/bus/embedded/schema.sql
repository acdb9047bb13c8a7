-- Times are milliseconds since 1970, UTC: datetime(time / 1000, 'unixepoch') shows one.

CREATE TABLE topics (
    id    INTEGER PRIMARY KEY,
    name  TEXT NOT NULL UNIQUE,
    fired INTEGER                           -- for which time an event of its schedule was published last
);
CREATE TABLE sources (
    id    INTEGER PRIMARY KEY,
    name  TEXT NOT NULL UNIQUE
);

-- The log. The seq is the offset that a replay begins at.
CREATE TABLE events (
    seq             INTEGER PRIMARY KEY,
    at              INTEGER NOT NULL,       -- when it came into the log; never less than that of the one before
    topic           INTEGER NOT NULL,
    id              TEXT NOT NULL,
    source          INTEGER NOT NULL,
    subject         TEXT,
    time            INTEGER NOT NULL,       -- when it was published
    datacontenttype TEXT,                   -- NULL: application/json
    traceparent     TEXT,
    data            BLOB NOT NULL
);
CREATE INDEX events_by_topic ON events (topic);

-- What was published for a later time, and comes into the log then.
CREATE TABLE scheduled (
    id              INTEGER PRIMARY KEY,
    due             INTEGER NOT NULL,
    topic           INTEGER NOT NULL,
    event           TEXT NOT NULL,          -- its id
    source          INTEGER NOT NULL,
    subject         TEXT,
    time            INTEGER NOT NULL,
    datacontenttype TEXT,
    traceparent     TEXT,
    data            BLOB NOT NULL
);
CREATE INDEX scheduled_by_due ON scheduled (due);

CREATE TABLE subscriptions (
    id      INTEGER PRIMARY KEY,
    topic   INTEGER NOT NULL,
    service TEXT NOT NULL,
    removed INTEGER,                        -- since when no manifest has it
    UNIQUE (topic, service)
);

-- How far each has come: an event of the topic is settled if its seq is not beyond the position and it is not pending.
-- One without an end follows the log; the others are replays.
CREATE TABLE cursors (
    id           INTEGER PRIMARY KEY,
    subscription INTEGER NOT NULL,
    position     INTEGER NOT NULL,
    until        INTEGER
);
CREATE INDEX cursors_by_subscription ON cursors (subscription);

-- What is tried again, or waits behind such a one of its subject.
CREATE TABLE pending (
    cursor   INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    attempts INTEGER NOT NULL,              -- tries so far
    due      INTEGER,                       -- when the next try may be
    error    TEXT,                          -- what came of the last
    PRIMARY KEY (cursor, seq)
) WITHOUT ROWID;
CREATE INDEX pending_by_seq ON pending (seq);

-- What was given up.
CREATE TABLE dead (
    letter       INTEGER PRIMARY KEY AUTOINCREMENT,
    subscription INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    error        TEXT NOT NULL,
    attempts     INTEGER NOT NULL,
    at           INTEGER NOT NULL
);
CREATE INDEX dead_by_seq ON dead (seq);

-- For people.
CREATE VIEW log AS
    SELECT e.seq, t.name AS topic, e.subject, strftime('%Y-%m-%dT%H:%M:%fZ', e.time / 1000.0, 'unixepoch') AS time, e.id,
           s.name AS source, coalesce(e.datacontenttype, 'application/json') AS datacontenttype, e.traceparent,
           length(e.data) AS bytes, CAST(e.data AS TEXT) AS data
    FROM events e JOIN topics t ON t.id = e.topic JOIN sources s ON s.id = e.source;
CREATE VIEW lag AS
    SELECT t.name AS topic, s.service, c.position, c.until, s.removed,
           (SELECT count(*) FROM events e
            WHERE e.topic = s.topic AND e.seq > c.position AND e.seq <= coalesce(c.until, e.seq)) AS unread,
           (SELECT count(*) FROM pending p WHERE p.cursor = c.id AND p.seq <= c.position) AS pending,
           (SELECT count(*) FROM dead d WHERE d.subscription = s.id) AS dead
    FROM cursors c JOIN subscriptions s ON s.id = c.subscription JOIN topics t ON t.id = s.topic;
CREATE VIEW dead_letters AS
    SELECT d.letter, t.name AS topic, s.service, d.reason, d.error, d.attempts,
           strftime('%Y-%m-%dT%H:%M:%fZ', d.at / 1000.0, 'unixepoch') AS at, d.seq, e.subject, CAST(e.data AS TEXT) AS data
    FROM dead d JOIN subscriptions s ON s.id = d.subscription JOIN topics t ON t.id = s.topic
         LEFT JOIN events e ON e.seq = d.seq;
