CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    email      TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_at TEXT NOT NULL
);

-- One account for an address, however it is capitalised.
CREATE UNIQUE INDEX users_email ON users (lower(email));
