CREATE TABLE stock (
    product_id TEXT PRIMARY KEY,
    -- On hand, and nobody's yet.
    available  INTEGER NOT NULL CHECK (available >= 0),
    -- Set aside by reservations that are held.
    reserved   INTEGER NOT NULL CHECK (reserved >= 0),
    sold       INTEGER NOT NULL CHECK (sold >= 0),
    -- All that ever came in.
    received   INTEGER NOT NULL,
    CHECK (available + reserved + sold = received)
);

CREATE TABLE reservations (
    -- The caller's.
    key        TEXT PRIMARY KEY,
    -- Neither order nor items where it was called off before it came.
    order_id   TEXT NOT NULL,
    status     TEXT NOT NULL CHECK (status IN ('HELD', 'KEPT', 'RELEASED', 'EXPIRED', 'CALLED_OFF')),
    -- In milliseconds since 1970.
    expires_at INTEGER NOT NULL
);

CREATE INDEX reservations_held ON reservations (expires_at) WHERE status = 'HELD';

CREATE TABLE reserved_items (
    key        TEXT NOT NULL REFERENCES reservations (key),
    product_id TEXT NOT NULL REFERENCES stock (product_id),
    quantity   INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (key, product_id)
);

CREATE INDEX reserved_items_of_product ON reserved_items (product_id);
