CREATE TABLE payments (
    id         TEXT PRIMARY KEY,
    order_id   TEXT NOT NULL,
    user_id    TEXT NOT NULL,
    -- In minor units: 1250 is 12.50.
    amount     INTEGER NOT NULL CHECK (amount > 0),
    status     TEXT NOT NULL CHECK (status IN ('AUTHORISED', 'CAPTURED', 'VOIDED', 'REFUNDED', 'DECLINED')),
    -- Why it was declined.
    reason     TEXT,
    created_at TEXT NOT NULL,
    CHECK ((status = 'DECLINED') = (reason IS NOT NULL))
);

CREATE INDEX payments_of_order ON payments (order_id, id);

-- What each key was used for, so that nothing is done twice.
CREATE TABLE calls (
    key        TEXT PRIMARY KEY,
    -- What was asked for, with all its arguments. Of an authorisation that was called off before it came it is not known.
    request    TEXT,
    -- None: nothing was authorised, and will not be.
    payment_id TEXT REFERENCES payments (id)
);

-- The ledger. Nothing in it is ever changed. An amount leaves one account and reaches another in one row, so no transfer can
-- fail to add up.
CREATE TABLE transfers (
    payment_id TEXT NOT NULL REFERENCES payments (id),
    -- 1: authorised; 2: captured or voided; 3: refunded. Of two that would be the same step of a payment one fails, and
    -- with it all that it would have been written with.
    step       INTEGER NOT NULL CHECK (step BETWEEN 1 AND 3),
    source     TEXT NOT NULL CHECK (source IN ('customers', 'authorised', 'captured')),
    target     TEXT NOT NULL CHECK (target IN ('customers', 'authorised', 'captured')),
    amount     INTEGER NOT NULL CHECK (amount > 0),
    at         TEXT NOT NULL,
    PRIMARY KEY (payment_id, step),
    CHECK (source <> target)
);

-- The two sides of each transfer.
CREATE VIEW entries AS
    SELECT payment_id, step, source AS account, -amount AS amount FROM transfers
    UNION ALL
    SELECT payment_id, step, target AS account, amount FROM transfers;
