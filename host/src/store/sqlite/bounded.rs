//! Statements that can do only little, whatever they are given.
//!
//! A write can't be stopped half way and begun elsewhere: SQLite rolls back the whole transaction then. So what may run on an
//! async thread is decided before, by what SQLite makes of the statement: a program for its virtual machine, which
//! `EXPLAIN` shows. One that never goes back, and so does each of its instructions at most once, comes to its end within some
//! steps down an index each: an `INSERT` of some rows, an `UPDATE` or `DELETE` by a unique key, a `SELECT` by one. Of loops
//! there may be two kinds, that of the rows of `VALUES`, which are in the program one by one, and one over an ephemeral
//! table, in which is only what such instructions have put there (`RETURNING`).
//!
//! What is not known here is taken for a loop: triggers, most functions, aggregates, and instructions of later versions. The
//! [instructions](https://sqlite.org/opcode.html) are not a promise of SQLite's; the tests tell when they change.

use rusqlite::Connection;
use std::collections::HashSet;

/// The most instructions.
const MOST: usize = 1_000;

/// Instructions that do one thing and go on with the next, or end the program. What is found in an index or a table is found
/// in so many steps as the tree is deep.
const STEPS: &[&str] = &[
    "Noop",
    "Null",
    "Integer",
    "Int64",
    "Real",
    "String",
    "String8",
    "Blob",
    "Variable",
    "Copy",
    "SCopy",
    "IntCopy",
    "Move",
    "Affinity",
    "RealAffinity",
    "Cast",
    "Add",
    "Subtract",
    "Multiply",
    "Divide",
    "Remainder",
    "BitAnd",
    "BitOr",
    "BitNot",
    "ShiftLeft",
    "ShiftRight",
    "AddImm",
    "And",
    "Or",
    "Not",
    "IsTrue",
    "ZeroOrNull",
    "OpenRead",
    "OpenWrite",
    "ReopenIdx",
    "OpenEphemeral",
    "Close",
    "Column",
    "Rowid",
    "IdxRowid",
    "DeferredSeek",
    "FinishSeek",
    "NullRow",
    "MakeRecord",
    "RowData",
    "NewRowid",
    "Insert",
    "Delete",
    "IdxInsert",
    "IdxDelete",
    "HaltIfNull",
    "Halt",
    "ResultRow",
    "FkCheck",
    "FkCounter",
    "TypeCheck",
    "CollSeq",
    "SoftNull",
    "Transaction",
    "ReleaseReg",
    "BeginSubrtn",
    "Return",
    "EndCoroutine",
    "SeekHit",
    "OffsetLimit",
    "Explain",
];

/// Instructions that may go on at their second operand instead.
const JUMPS: &[&str] = &[
    "Init",
    "Goto",
    "If",
    "IfNot",
    "IfPos",
    "IfNotZero",
    "IfNullRow",
    "DecrJumpZero",
    "IsNull",
    "NotNull",
    "Once",
    "Eq",
    "Ne",
    "Lt",
    "Le",
    "Gt",
    "Ge",
    "ElseEq",
    "SeekLT",
    "SeekLE",
    "SeekGE",
    "SeekGT",
    "SeekRowid",
    "IdxLT",
    "IdxLE",
    "IdxGT",
    "IdxGE",
    "Found",
    "NotFound",
    "NoConflict",
    "NotExists",
    "IfNoHope",
    "Rewind",
    "Last",
    "MustBeInt",
    "FkIfZero",
    "Gosub",
    "Yield",
    "InitCoroutine",
];

/// Functions that take no longer than an instruction.
const FUNCTIONS: &[&str] = &["nullif(2)", "abs(1)", "typeof(1)", "sign(1)"];

struct Instruction {
    name: String,
    operands: [i64; 2],
    /// Of a call, the function.
    function: String,
}

/// Whether a statement can do only little.
///
/// # Errors
/// When it can't be compiled.
pub(super) fn is_bounded(connection: &Connection, sql: &str) -> rusqlite::Result<bool> {
    let mut explain = connection.prepare(&format!("EXPLAIN {sql}"))?;
    // Unbound parameters are NULL; nothing is run.
    let mut rows = explain.raw_query();
    let mut program = Vec::new();
    while let Some(row) = rows.next()? {
        if program.len() == MOST {
            return Ok(false);
        }
        let (name, operands) = (row.get("opcode")?, [row.get("p1")?, row.get("p2")?]);
        let function = row.get::<_, Option<String>>("p4")?.unwrap_or_default();
        program.push(Instruction { name, operands, function });
    }
    Ok(goes_on(&program))
}

/// Whether the program only goes on, but for the loops that may be.
fn goes_on(program: &[Instruction]) -> bool {
    let mut ephemeral = HashSet::new();
    for it in program.iter().filter(|it| it.name == "OpenEphemeral") {
        ephemeral.insert(it.operands[0]);
    }
    // The program begins with what is at its end, which then goes back to the beginning.
    let end = program.first().filter(|it| it.name == "Init").and_then(|it| usize::try_from(it.operands[1]).ok());
    let mut loops = 0;
    program.iter().enumerate().all(|(place, Instruction { name, operands: [first, second], function })| {
        let target = usize::try_from(*second).unwrap_or_default();
        match name.as_str() {
            "Next" => {
                loops += 1;
                loops == 1 && ephemeral.contains(first)
            }
            "Goto" if target <= place => {
                let begins = target == 1 && end.is_some_and(|end| place > end);
                begins || program.get(target).is_some_and(|it| it.name == "Yield")
            }
            "Function" => FUNCTIONS.contains(&&**function),
            // None, where it is not said where to.
            name if JUMPS.contains(&name) => target == 0 || target > place,
            name => STEPS.contains(&name),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Connection {
        let connection = Connection::open_in_memory().unwrap();
        let schema = "
            CREATE TABLE stock (id TEXT PRIMARY KEY, available INTEGER NOT NULL CHECK (available >= 0), sold INTEGER);
            CREATE TABLE items (key TEXT, id TEXT REFERENCES stock (id), n INTEGER CHECK (n > 0), PRIMARY KEY (key, id));
            CREATE INDEX items_of ON items (id);
            CREATE TABLE seen (id INTEGER PRIMARY KEY, v TEXT UNIQUE);
            CREATE TABLE watched (id INTEGER PRIMARY KEY);
            CREATE TRIGGER watch AFTER INSERT ON watched BEGIN INSERT INTO seen VALUES (NEW.id, 'x'); END;
            PRAGMA foreign_keys = 1;";
        connection.execute_batch(schema).unwrap();
        connection
    }

    #[test]
    fn what_concerns_some_rows_by_their_keys_is_bounded() {
        let connection = connection();
        for sql in [
            "INSERT INTO seen VALUES ($1, $2)",
            "INSERT INTO items (key, id, n) VALUES ($1, $2, $3), ($1, $4, $5), ($1, $6, $7)",
            "INSERT INTO seen (v) VALUES ($1) ON CONFLICT (v) DO NOTHING",
            "INSERT INTO stock VALUES ($1, $2, 0) ON CONFLICT (id) DO UPDATE SET available = excluded.available",
            "INSERT INTO seen (v) VALUES ($1) RETURNING id",
            "UPDATE stock SET available = available - $1 WHERE id = $2 AND available >= $1 RETURNING available",
            "UPDATE stock SET sold = sold + CASE WHEN $1 > 5 THEN 5 ELSE $1 END WHERE id = $2",
            "UPDATE seen SET v = $1 WHERE id = $2 AND v = $3",
            "UPDATE stock SET available = NULLIF(available - $1, 0) WHERE id = $2",
            "DELETE FROM seen WHERE id = $1",
            "SELECT * FROM stock WHERE id = $1",
            "SELECT $1 + 1, COALESCE($2, 3)",
        ] {
            assert!(is_bounded(&connection, sql).unwrap(), "{sql}");
        }
    }

    #[test]
    fn what_may_take_as_long_as_it_likes_is_not() {
        let connection = connection();
        for sql in [
            "UPDATE stock SET sold = 0",
            "UPDATE items SET n = 1 WHERE id = $1",
            "DELETE FROM seen",
            "DELETE FROM seen WHERE id > $1",
            "DELETE FROM stock WHERE id = $1 AND EXISTS (SELECT 1 FROM seen WHERE v > $2)",
            "SELECT * FROM items WHERE id = $1",
            "SELECT COUNT(*) FROM seen",
            "SELECT MAX(v) FROM seen",
            "SELECT * FROM seen ORDER BY v || 'x'",
            "SELECT * FROM seen WHERE id IN (SELECT n FROM items)",
            "INSERT INTO seen SELECT n, key FROM items",
            "INSERT INTO seen (v) VALUES (randomblob($1))",
            "INSERT INTO watched VALUES ($1)",
            "INSERT INTO seen WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i, i FROM n",
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION SELECT i + 1 FROM n) SELECT i FROM n LIMIT 1000000",
            "WITH RECURSIVE n (i) AS (VALUES (1), (2) UNION ALL SELECT i + 1 FROM n) UPDATE seen SET v = 1 WHERE id = (SELECT MAX(i) FROM n)",
            "CREATE TABLE t (v)",
            "CREATE INDEX i ON items (n)",
            "DROP TABLE items",
            "ALTER TABLE seen ADD COLUMN w",
            "ANALYZE",
        ] {
            assert!(!is_bounded(&connection, sql).unwrap_or_default(), "{sql}");
        }
        let many = vec!["($1)"; 500].join(", ");
        assert!(!is_bounded(&connection, &format!("INSERT INTO seen (v) VALUES {many}")).unwrap());
    }
}
