-- What the inventory said last, also of products that are not in the catalogue yet.
CREATE TABLE known_stock (
    product_id TEXT PRIMARY KEY,
    in_stock   INTEGER NOT NULL CHECK (in_stock IN (0, 1))
);
