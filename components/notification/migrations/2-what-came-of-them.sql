-- Another table in its place, since SQLite can't change a CHECK. What is there already was sent.
CREATE TABLE notifications_2 (
    id             TEXT PRIMARY KEY,
    -- The event that it was sent for, which may be delivered more than once.
    source         TEXT NOT NULL,
    event_id       TEXT NOT NULL,
    user_id        TEXT NOT NULL,
    kind           TEXT NOT NULL CHECK (kind IN ('welcome', 'order-confirmation', 'order-cancelled')),
    -- Where it went, where that is known, and who that is.
    recipient      TEXT,
    recipient_name TEXT,
    message        TEXT NOT NULL,
    sent_at        TEXT NOT NULL,
    -- 'failed': the mail server will never take it, for this reason.
    status         TEXT NOT NULL DEFAULT 'sent' CHECK (status IN ('sent', 'failed')),
    error          TEXT,
    UNIQUE (source, event_id)
);

INSERT INTO notifications_2 (id, source, event_id, user_id, kind, recipient, message, sent_at)
    SELECT id, source, event_id, user_id, kind, recipient, message, sent_at FROM notifications;

DROP TABLE notifications;

ALTER TABLE notifications_2 RENAME TO notifications;

-- A user's notifications, newest first: ids sort by time.
CREATE INDEX notifications_of_user ON notifications (user_id, id);
