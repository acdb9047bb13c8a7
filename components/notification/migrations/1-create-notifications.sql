CREATE TABLE notifications (
    id        TEXT PRIMARY KEY,
    -- The event that it was sent for, which may be delivered more than once.
    source    TEXT NOT NULL,
    event_id  TEXT NOT NULL,
    user_id   TEXT NOT NULL,
    kind      TEXT NOT NULL CHECK (kind IN ('welcome', 'order-confirmation')),
    -- Where it went, where that is known.
    recipient TEXT,
    message   TEXT NOT NULL,
    sent_at   TEXT NOT NULL,
    UNIQUE (source, event_id)
);

-- A user's notifications, newest first: ids sort by time.
CREATE INDEX notifications_of_user ON notifications (user_id, id);
