CREATE TABLE orders (
    id         TEXT PRIMARY KEY,
    user_id    TEXT NOT NULL,
    -- As JSON: an order's items are written once and only ever read together.
    items      TEXT NOT NULL,
    -- In minor units: 1250 is 12.50.
    total      INTEGER NOT NULL CHECK (total >= 0),
    status     TEXT NOT NULL CHECK (status IN ('PENDING', 'CONFIRMED', 'CANCELLED')),
    created_at TEXT NOT NULL
);

-- A user's orders, newest first: ids sort by time.
CREATE INDEX orders_of_user ON orders (user_id, id);
