-- The keys that neighbours place orders with, so that none is placed twice.
CREATE TABLE order_keys (
    key      TEXT PRIMARY KEY,
    -- None: it was cancelled before it came, and will not be placed.
    order_id TEXT REFERENCES orders (id)
);
