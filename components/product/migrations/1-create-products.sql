CREATE TABLE products (
    id       TEXT PRIMARY KEY,
    name     TEXT NOT NULL,
    -- In minor units: 1250 is 12.50.
    price    INTEGER NOT NULL CHECK (price >= 0),
    in_stock INTEGER NOT NULL CHECK (in_stock IN (0, 1))
);
