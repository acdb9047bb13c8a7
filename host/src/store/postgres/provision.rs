//! What a service's database is in PostgreSQL, and how it is made.
//!
//! ```text
//! role shop_order@shop     logs in for the service, and has rights on these two and nothing else
//! schema shop_order        the service's: it makes and changes tables in it
//! schema shop_order_wharf  the host's tables about it (`_wharf_…`): the service reads them
//! schema shop_wharf        the password and the key of each service: nobody but the owner sees them
//! ```
//!
//! The URL's role, the owner, makes all of it and is not what services run as: a connection that is logged in as a role
//! without rights has nothing that SQL could go back to, as it could after a `SET ROLE`.
//!
//! **The host's tables.** A transaction of a service may have statements of the host within it, on the same connection
//! and so by the same role. That role may write to the host's tables as far as PostgreSQL's grants go; a trigger, which
//! only the owner can take away, refuses it unless the session names a key whose digest the trigger knows. The host names it
//! for the time of its own statement, with none of the service's schema on the search path, so that nothing of the
//! service's can run meanwhile and look at it.
//!
//! A service that the manifest gives a URL of its own has a role that the operator made. Then that role owns both
//! schemas, and of the fence around the host's tables only the guard is left.

use super::{
    connection::{Connection, Failure, HostWords},
    error::translate,
    login::Login,
    pool::Total,
};
use crate::store::{OpenError, Settings};
use sha2::{Digest, Sha256};
use std::{fmt::Write as _, sync::Arc};
use tokio::time::Duration;
use uuid::Uuid;

/// The longest name that PostgreSQL takes.
const NAME: usize = 63;

/// PostgreSQL 12: the oldest that is still repaired when this is written is newer.
const OLDEST: i32 = 120_000;

/// What `_wharf_` tables of the host are kept by.
const TRIGGER: &str = "_wharf_only_host";

/// Who makes a service's role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Wharf, which logs in as the owner to make it.
    Made,
    /// The operator: the URL is the service's own.
    Given,
}

/// The names of a service's things.
#[derive(Clone, Debug)]
pub(super) struct Names {
    app: String,
    service: String,
    database: String,
    pub(super) schema: String,
    pub(super) host: String,
    books: String,
    role: String,
}

/// What it takes to work in a service's database.
pub(super) struct Provisioned {
    /// Logs in for the service.
    pub(super) service: Login,
    /// Logs in for the host.
    pub(super) host: Login,
    pub(super) words: HostWords,
}

/// A name as SQL.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string as SQL. With `standard_conforming_strings`, which is PostgreSQL's default and set in every session here.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name that fits, told apart from others that begin so.
fn fitting(name: String) -> String {
    if name.len() <= NAME {
        return name;
    }
    let digest = hex(&Sha256::digest(&name));
    format!("{}_{}", &name[..NAME - 13], &digest[..12])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // A string takes all.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

// === impl Names ===

impl Names {
    pub(super) fn new(app: &str, service: &str, database: &str) -> Self {
        // Names of applications and services have no `_`, and no service is called `wharf`: so these are all different.
        let schema = format!("{app}_{service}");
        Self {
            host: fitting(format!("{schema}_wharf")),
            books: fitting(format!("{app}_wharf")),
            role: fitting(format!("{schema}@{database}")),
            schema: fitting(schema),
            app: app.into(),
            service: service.into(),
            database: database.into(),
        }
    }

    /// The number of the lock under which the application's things are made: several hosts may be about to.
    pub(super) fn lock(&self) -> i64 {
        let digest = Sha256::digest(format!("wharf {}", self.app));
        i64::from_be_bytes(digest[..8].try_into().unwrap_or_default())
    }
}

/// Makes what a service's database lacks, as the role of `owner`, and checks that no other service can open it.
pub(super) async fn provision(
    owner: &Login,
    role: Role,
    names: &Names,
    total: &Total,
    settings: &Arc<Settings>,
) -> Result<Provisioned, OpenError> {
    let patient = |login: &Login| {
        login.with_session(vec![
            ("standard_conforming_strings", "on".into()),
            ("search_path", "pg_catalog".into()),
            ("lock_timeout", "10s".into()),
            ("statement_timeout", "30s".into()),
        ])
    };
    let owner = patient(owner);
    let provisioning = Provisioning { owner: &owner, names, role };
    let (password, key) = {
        let connection = connect(&owner, total, settings).await?;
        provisioning.make(&connection).await?
    };
    let service = match role {
        Role::Made => owner.as_role(&names.role, password.as_deref()),
        Role::Given => owner.clone(),
    };
    if role == Role::Made {
        let connection = connect(&service, total, settings).await?;
        provisioning.check(&connection, service.user()).await?;
    }

    let (schema, host) = (quote(&names.schema), quote(&names.host));
    let milliseconds = |time: Duration| format!("{}ms", time.as_millis().max(1));
    let service_path = format!("{schema}, {host}");
    // NB: where it is not named, the schema of temporary tables comes first.
    let host_path = format!("{host}, pg_temp");
    let session = |path: &str| {
        vec![
            ("standard_conforming_strings", "on".to_owned()),
            ("search_path", path.to_owned()),
            // What a service reads in a transaction is still so when it commits, as where there is one writer.
            ("default_transaction_isolation", "serializable".to_owned()),
            ("statement_timeout", milliseconds(settings.statement_time)),
            ("lock_timeout", milliseconds(settings.lock_wait)),
            ("idle_in_transaction_session_timeout", milliseconds(settings.transaction_time + Duration::from_secs(5))),
            ("timezone", "UTC".to_owned()),
            ("datestyle", "ISO".to_owned()),
        ]
    };
    let mut host_session = session(&host_path);
    host_session.push(("wharf.key", key.clone()));
    Ok(Provisioned {
        service: service.with_session(session(&service_path)),
        host: owner.with_session(host_session),
        words: HostWords { key, host, host_path, service_path },
    })
}

async fn connect(login: &Login, total: &Total, settings: &Arc<Settings>) -> Result<Connection, OpenError> {
    let refused = |reason: String| OpenError::Connect { role: login.user().into(), reason };
    let place = total.place().await.map_err(|error| refused(error.words().into()))?;
    login.connect(settings.clone(), place).await.map_err(|error| refused(error.to_string()))
}

struct Provisioning<'p> {
    owner: &'p Login,
    names: &'p Names,
    role: Role,
}

// === impl Provisioning ===

impl Provisioning<'_> {
    fn failed(&self, failure: Failure) -> OpenError {
        let error = match failure {
            Failure::Ours(error) => error,
            Failure::Said(error) => translate(&error),
        };
        self.wrong(error.words().to_owned())
    }

    fn wrong(&self, reason: String) -> OpenError {
        OpenError::Prepare { schema: self.names.schema.clone(), server: self.owner.to_string(), reason }
    }

    /// Makes it; returns the service's password and key.
    async fn make(&self, connection: &Connection) -> Result<(Option<String>, String), OpenError> {
        let failed = |failure| self.failed(failure);
        connection.say("BEGIN").await.map_err(failed)?;
        // Several hosts may start at once.
        connection.ask("SELECT pg_advisory_xact_lock($1)", &[&self.names.lock()]).await.map_err(failed)?;
        self.check_owner(connection).await?;
        let (password, key) = match self.role {
            Role::Made => {
                let (password, key) = self.make_role(connection).await?;
                (Some(password), key)
            }
            // The role can look into all that is its own, so the key is one that is written nowhere.
            Role::Given => {
                let mut digest = Sha256::new_with_prefix(format!("wharf {} ", self.names.host));
                digest.update(&*self.owner.password());
                (None, hex(&digest.finalize()))
            }
        };
        self.make_schema(connection, &self.names.schema).await?;
        self.make_schema(connection, &self.names.host).await?;
        connection.say(&self.host_things(&key)).await.map_err(failed)?;
        protect(connection, &self.names.host).await.map_err(failed)?;
        if self.role == Role::Made {
            connection.say(&self.grants()).await.map_err(failed)?;
        }
        if self.role == Role::Given {
            // Before anything of it is there: the operator would have to take it away again.
            self.check(connection, self.owner.user()).await?;
        }
        connection.say("COMMIT").await.map_err(failed)?;
        Ok((password, key))
    }

    async fn check_owner(&self, connection: &Connection) -> Result<(), OpenError> {
        let rights = "SELECT current_setting('server_version_num')::int4, rolcreaterole OR rolsuper \
                      FROM pg_roles WHERE rolname = current_user";
        let rows = connection.ask(rights, &[]).await.map_err(|failure| self.failed(failure))?;
        let row = rows.first().ok_or_else(|| self.wrong("the role is gone".into()))?;
        let read = |error: tokio_postgres::Error| self.failed(error.into());
        let (version, creates): (i32, bool) = (row.try_get(0).map_err(read)?, row.try_get(1).map_err(read)?);
        if version < OLDEST {
            let (found, oldest) = (version / 10_000, OLDEST / 10_000);
            return Err(self.wrong(format!("the server is PostgreSQL {found}; expected {oldest} or later")));
        }
        if self.role == Role::Made && !creates {
            let owner = self.owner.user();
            return Err(self.wrong(format!(
                "the role `{owner}` may not create roles, and without a role of its own each service could open every \
                 other's tables; allow it (ALTER ROLE {} CREATEROLE), or make the roles yourself and give each service \
                 its own (`database = {{ url = … }}`)",
                quote(owner)
            )));
        }
        Ok(())
    }

    /// The service's role; returns its password and the key of the host's tables.
    async fn make_role(&self, connection: &Connection) -> Result<(String, String), OpenError> {
        let failed = |failure| self.failed(failure);
        let read = |error: tokio_postgres::Error| self.failed(error.into());
        let names = self.names;
        self.make_schema(connection, &names.books).await?;
        let books = format!("{}.services", quote(&names.books));
        let table = format!(
            "CREATE TABLE IF NOT EXISTS {books} (name text PRIMARY KEY, password text NOT NULL, key text NOT NULL)"
        );
        connection.say(&table).await.map_err(failed)?;
        let find = format!("SELECT password, key FROM {books} WHERE name = $1");
        let found = connection.ask(&find, &[&names.service]).await.map_err(failed)?;
        let known: Option<(String, String)> = match found.first() {
            Some(row) => Some((row.try_get(0).map_err(read)?, row.try_get(1).map_err(read)?)),
            None => None,
        };
        let (password, key) = known.clone().unwrap_or_else(|| (secret(), secret()));
        if known.is_none() {
            let insert = format!("INSERT INTO {books} VALUES ($1, $2, $3)");
            connection.ask(&insert, &[&names.service, &password, &key]).await.map_err(failed)?;
        }

        let role = quote(&names.role);
        let mark = format!("Wharf: {} of {} in {}", names.service, names.app, names.database);
        let look = "SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_roles WHERE rolname = $1";
        let found = connection.ask(look, &[&names.role]).await.map_err(failed)?;
        let found: Option<String> = found.first().map(|row| row.try_get(0)).transpose().map_err(read)?;
        // As its digest, so that the password itself is in no log of the server.
        let verifier = literal(&postgres_protocol::password::scram_sha_256(password.as_bytes()));
        match found {
            None => {
                let make = format!(
                    "CREATE ROLE {role} LOGIN NOINHERIT PASSWORD {verifier}; COMMENT ON ROLE {role} IS {}",
                    literal(&mark)
                );
                connection.say(&make).await.map_err(failed)?;
            }
            Some(found) if found != mark => {
                return Err(self.wrong(format!(
                    "the role {role} is there already and Wharf did not make it; drop or rename it, or give the \
                     application another name"
                )));
            }
            Some(_) if known.is_none() => {
                connection.say(&format!("ALTER ROLE {role} PASSWORD {verifier}")).await.map_err(failed)?;
            }
            Some(_) => {}
        }
        Ok((password, key))
    }

    async fn make_schema(&self, connection: &Connection, schema: &str) -> Result<(), OpenError> {
        let failed = |failure| self.failed(failure);
        let look = "SELECT pg_get_userbyid(nspowner)::text, nspowner = (SELECT oid FROM pg_roles WHERE rolname = current_user) \
                    FROM pg_namespace WHERE nspname = $1";
        let found = connection.ask(look, &[&schema]).await.map_err(failed)?;
        let Some(row) = found.first() else {
            return connection.say(&format!("CREATE SCHEMA {}", quote(schema))).await.map_err(failed);
        };
        let read = |error: tokio_postgres::Error| self.failed(error.into());
        let (owner, own): (String, bool) = (row.try_get(0).map_err(read)?, row.try_get(1).map_err(read)?);
        if !own {
            let user = self.owner.user();
            return Err(self.wrong(format!("the schema `{schema}` belongs to the role `{owner}`; expected `{user}`")));
        }
        Ok(())
    }

    fn host_things(&self, key: &str) -> String {
        let host = quote(&self.names.host);
        let digest = hex(&Sha256::digest(key));
        format!(
            "CREATE OR REPLACE FUNCTION {host}.{TRIGGER}() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog \
             AS $wharf$ BEGIN \
               IF encode(sha256(convert_to(coalesce(current_setting('wharf.key', true), ''), 'UTF8')), 'hex') \
                  IS DISTINCT FROM '{digest}' THEN \
                 RAISE EXCEPTION 'the table % is the host''s', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege'; \
               END IF; \
               RETURN NULL; \
             END $wharf$; \
             CREATE TABLE IF NOT EXISTS {host}._wharf_migrations ( \
               version bigint PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at text NOT NULL)"
        )
    }

    fn grants(&self) -> String {
        let (schema, host, role) = (quote(&self.names.schema), quote(&self.names.host), quote(&self.names.role));
        format!(
            "GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}; \
             GRANT USAGE ON SCHEMA {host} TO {role}; \
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {host} TO {role}; \
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA {host} TO {role}; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA {host} GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {role}; \
             ALTER DEFAULT PRIVILEGES IN SCHEMA {host} GRANT USAGE ON SEQUENCES TO {role}; \
             GRANT {role} TO CURRENT_USER"
        )
    }

    /// That the service's role can do no more than it should.
    async fn check(&self, connection: &Connection, role: &str) -> Result<(), OpenError> {
        let first = async |sql: &str, params: &[&(dyn tokio_postgres::types::ToSql + Sync)]| {
            let rows = connection.ask(sql, params).await.map_err(|failure| self.failed(failure))?;
            let first: Option<String> =
                rows.first().map(|row| row.try_get(0)).transpose().map_err(|error| self.failed(error.into()))?;
            Ok::<_, OpenError>(first)
        };
        let power = "SELECT CASE WHEN rolsuper THEN 'is a superuser' WHEN rolcreaterole THEN 'may create roles' \
                     WHEN rolbypassrls THEN 'bypasses row security' WHEN rolreplication THEN 'may replicate' END \
                     FROM pg_roles WHERE rolname = session_user";
        let power = connection.ask(power, &[]).await.map_err(|failure| self.failed(failure))?;
        let power: Option<String> = match power.first() {
            Some(row) => row.try_get(0).map_err(|error| self.failed(error.into()))?,
            None => None,
        };
        if let Some(power) = power {
            return Err(self.wrong(format!("the role `{role}` {power}; a service runs as a role without such rights")));
        }
        let member = "SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid \
                      JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = session_user LIMIT 1";
        if let Some(group) = first(member, &[]).await? {
            return Err(self.wrong(format!(
                "the role `{role}` is a member of `{group}`, by which it may reach more than its schema; expected a role \
                 that is a member of none"
            )));
        }
        let other = "SELECT nspname::text FROM pg_namespace WHERE starts_with(nspname::text, $1) AND nspname <> $2 \
                     AND nspname <> $3 AND has_schema_privilege(oid, 'USAGE') LIMIT 1";
        let prefix = format!("{}_", self.names.app);
        if let Some(other) = first(other, &[&prefix, &self.names.schema, &self.names.host]).await? {
            return Err(self.wrong(format!(
                "the role `{role}` of the service `{}` can open the schema `{other}`; each service needs a role of its own",
                self.names.service
            )));
        }
        let public =
            "SELECT nspname::text FROM pg_namespace WHERE nspname = 'public' AND has_schema_privilege(oid, 'CREATE')";
        if first(public, &[]).await?.is_some() {
            tracing::warn!(
                role,
                "every role may make tables in the schema `public`; take it away (REVOKE CREATE ON SCHEMA public FROM PUBLIC), \
                 or services may share data there"
            );
        }
        Ok(())
    }
}

/// Puts the trigger on those of the host's tables that lack it.
pub(super) async fn protect(connection: &Connection, host: &str) -> Result<(), Failure> {
    let open = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') \
                AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = $2)";
    for row in connection.ask(open, &[&host, &TRIGGER]).await? {
        let table: String = row.try_get(0)?;
        let (host, table) = (quote(host), quote(&table));
        let trigger = format!(
            "CREATE TRIGGER {TRIGGER} BEFORE INSERT OR UPDATE OR DELETE ON {host}.{table} \
             FOR EACH STATEMENT EXECUTE FUNCTION {host}.{TRIGGER}()"
        );
        connection.say(&trigger).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_fit() {
        let names = Names::new("shop", "order", "prod");
        assert_eq!((names.schema.as_str(), names.role.as_str()), ("shop_order", "shop_order@prod"));
        assert_eq!((names.host.as_str(), names.books.as_str()), ("shop_order_wharf", "shop_wharf"));
        let long = "a".repeat(63);
        let (one, two) = (Names::new(&long, "b", "d"), Names::new(&long, "c", "d"));
        for name in [&one.schema, &one.host, &one.role, &two.schema] {
            assert!(name.len() <= NAME, "{name}");
        }
        assert!(one.schema != two.schema && one.schema != one.host && one.role != one.schema);
    }

    #[test]
    fn nothing_ends_its_quotes() {
        assert_eq!(quote("a\"b"), "\"a\"\"b\"");
        assert_eq!(literal("a'b"), "'a''b'");
    }
}
