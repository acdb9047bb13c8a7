//! What guests see of the store: `wharf:store/sql`, and the schema that they export.
//!
//! The WIT types are the store's own types ([`Statement`], [`Rows`], [`Value`], [`Error`]): a value is copied once
//! from the guest and once from the database, never between two shapes of the same thing.

use super::{Access, Database, Held, Unit, migration::Migration};
use std::sync::Arc;
use wasmtime::{
    AsContextMut, StoreContextMut,
    component::{Accessor, HasData, Instance, Linker, Resource, ResourceTable},
};

mod generated {
    #![allow(missing_docs)]

    wasmtime::component::bindgen!({
        path: "../wit/wharf/store",
        inline: "
            package wharf:store-host;
            world host {
                import wharf:store/sql@0.1.0;
            }
        ",
        imports: { default: trappable },
        with: { "wharf:store/sql.transaction": super::HeldTransaction },
        additional_derives: [PartialEq],
        require_store_data_send: true,
    });
}

use generated::wharf::store::sql;
pub use sql::{Constraint, Error, Rows, Statement, Value};

/// The interface by which a component declares its schema.
pub const MIGRATIONS: &str = "wharf:store/migrations@0.1.0";

/// The most transactions that one instance may hold, ended ones that it did not drop included.
const MAX_TRANSACTIONS: usize = 256;

/// What a wasmtime store keeps for `wharf:store/sql`: the database of its service, if it has one.
#[derive(Debug, Default)]
pub struct SqlCtx {
    database: Option<Database>,
    /// Counts the transactions that the instance holds or waits for: each has a clone.
    held: Arc<()>,
}

/// Access to what a wasmtime store keeps for `wharf:store/sql`.
pub struct SqlView<'a> {
    /// The service's database.
    pub ctx: &'a mut SqlCtx,
    /// Where the guest's transactions are kept; dropped with the store, which rolls them back.
    pub table: &'a mut ResourceTable,
}

/// The data of a wasmtime store that knows on behalf of which call its guest does something.
pub trait OfCall: Send + Sized + 'static {
    /// The unit of work of the call that the guest works on which has just called the host; `None` where each statement
    /// stands for itself.
    ///
    /// NB: to be asked at the very beginning of a host function.
    fn unit(store: StoreContextMut<'_, Self>) -> Option<Unit>;
}

/// Offers `wharf:store/sql` to components; `get` finds the state in a store's data.
///
/// # Errors
/// When the linker has such an interface already.
pub fn add_to_linker<T: OfCall>(linker: &mut Linker<T>, get: fn(&mut T) -> SqlView<'_>) -> wasmtime::Result<()> {
    sql::add_to_linker::<T, Sql>(linker, get)
}

/// The migrations that an instance exports by [`MIGRATIONS`], or `None` when it exports none.
///
/// # Errors
/// When the export has another type, or the guest traps.
pub async fn read_migrations(
    mut store: impl AsContextMut<Data: Send>,
    instance: &Instance,
) -> wasmtime::Result<Option<Vec<Migration>>> {
    let Some(interface) = instance.get_export_index(&mut store, None, MIGRATIONS) else {
        return Ok(None);
    };
    let Some(function) = instance.get_export_index(&mut store, Some(&interface), "migrations") else {
        return Ok(None);
    };
    let function = instance.get_typed_func::<(), (Vec<Migration>,)>(&mut store, &function)?;
    let (migrations,) = function.call_async(&mut store, ()).await?;
    Ok(Some(migrations))
}

/// A transaction in a guest's hands.
pub struct HeldTransaction {
    held: Held,
    _count: Arc<()>,
}

/// Ties the generated traits to [`SqlView`].
struct Sql;

impl HasData for Sql {
    type Data<'a> = SqlView<'a>;
}

// === impl SqlCtx ===

impl SqlCtx {
    /// For a service with this database; `None`: every call fails with `unavailable`.
    pub fn new(database: Option<Database>) -> Self {
        Self { database, held: Arc::default() }
    }

    /// Where the statements of a call go that has this unit of work.
    pub(crate) fn access(&self, unit: Option<Unit>) -> Result<Access, Error> {
        match (unit, &self.database) {
            (Some(unit), _) => Ok(Access::Unit(unit)),
            (None, Some(database)) => Ok(Access::Database(database.clone())),
            (None, None) => {
                let reason = "this service has no database; its manifest entry needs `database = true`";
                Err(Error::Unavailable(reason.into()))
            }
        }
    }
}

// === impl Error ===

impl Error {
    /// What it says to people.
    pub fn words(&self) -> &str {
        match self {
            Self::Invalid(text)
            | Self::Constraint((_, text))
            | Self::Busy(text)
            | Self::TooLarge(text)
            | Self::Closed(text)
            | Self::Unavailable(text) => text,
        }
    }
}

// === impl SqlView ===

impl SqlView<'_> {
    /// The transaction behind a guest's handle.
    ///
    /// NB: the clone is to live only as long as one call. Were it kept, dropping the resource would not roll back.
    pub(crate) fn held(&self, transaction: &Resource<HeldTransaction>) -> wasmtime::Result<Held> {
        Ok(self.table.get(transaction)?.held.clone())
    }
}

impl sql::Host for SqlView<'_> {}

impl sql::HostTransaction for SqlView<'_> {
    fn drop(&mut self, transaction: Resource<HeldTransaction>) -> wasmtime::Result<()> {
        self.table.delete(transaction)?;
        Ok(())
    }
}

// === impl Sql ===

impl<T: OfCall> sql::HostWithStore<T> for Sql {
    async fn query(store: &Accessor<T, Self>, statement: Statement) -> wasmtime::Result<Result<Rows, Error>> {
        Ok(match access(store) {
            Ok(access) => access.query(statement).await,
            Err(error) => Err(error),
        })
    }

    async fn execute(store: &Accessor<T, Self>, statement: Statement) -> wasmtime::Result<Result<u64, Error>> {
        Ok(match access(store) {
            Ok(access) => access.execute(statement).await,
            Err(error) => Err(error),
        })
    }

    async fn batch(store: &Accessor<T, Self>, statements: Vec<Statement>) -> wasmtime::Result<Result<Vec<u64>, Error>> {
        Ok(match access(store) {
            Ok(access) => access.batch(statements).await,
            Err(error) => Err(error),
        })
    }

    async fn begin(store: &Accessor<T, Self>) -> wasmtime::Result<Result<Resource<HeldTransaction>, Error>> {
        let reserved = store.with(|mut access| {
            let unit = T::unit(access.as_context_mut());
            let ctx = access.get().ctx;
            if Arc::strong_count(&ctx.held) > MAX_TRANSACTIONS {
                let error = format!("this instance holds {MAX_TRANSACTIONS} transactions; drop those that have ended");
                return Err(Error::Busy(error));
            }
            Ok((ctx.access(unit)?, ctx.held.clone()))
        });
        let (access, count) = match reserved {
            Ok(reserved) => reserved,
            Err(error) => return Ok(Err(error)),
        };
        let transaction = match access.begin().await {
            Ok(held) => HeldTransaction { held, _count: count },
            Err(error) => return Ok(Err(error)),
        };
        store.with(|mut access| Ok(Ok(access.get().table.push(transaction)?)))
    }
}

impl<T: Send> sql::HostTransactionWithStore<T> for Sql {
    async fn query(
        store: &Accessor<T, Self>,
        transaction: Resource<HeldTransaction>,
        statement: Statement,
    ) -> wasmtime::Result<Result<Rows, Error>> {
        Ok(find(store, &transaction)?.query(statement).await)
    }

    async fn execute(
        store: &Accessor<T, Self>,
        transaction: Resource<HeldTransaction>,
        statement: Statement,
    ) -> wasmtime::Result<Result<u64, Error>> {
        Ok(find(store, &transaction)?.execute(statement).await)
    }

    async fn commit(
        store: &Accessor<T, Self>,
        transaction: Resource<HeldTransaction>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(find(store, &transaction)?.commit().await)
    }

    async fn rollback(
        store: &Accessor<T, Self>,
        transaction: Resource<HeldTransaction>,
    ) -> wasmtime::Result<Result<(), Error>> {
        Ok(find(store, &transaction)?.rollback().await)
    }
}

fn access<T: OfCall>(store: &Accessor<T, Sql>) -> Result<Access, Error> {
    store.with(|mut access| {
        let unit = T::unit(access.as_context_mut());
        access.get().ctx.access(unit)
    })
}

/// The transaction behind a guest's handle.
fn find<T: Send>(store: &Accessor<T, Sql>, transaction: &Resource<HeldTransaction>) -> wasmtime::Result<Held> {
    store.with(|mut access| access.get().held(transaction))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Settings;
    use sql::HostTransaction;

    #[tokio::test]
    async fn a_transaction_ends_with_its_handle_or_with_the_store() {
        let folder = std::env::temp_dir().join(format!("wharf-binding-{}", uuid::Uuid::new_v4()));
        let database = Database::of_service(&folder, "user", Settings::default()).await.unwrap();
        let statement = |sql: &str| Statement { sql: sql.into(), params: Vec::new() };
        database.execute(statement("CREATE TABLE t (v)")).await.unwrap();
        let mut ctx = SqlCtx::new(Some(database.clone()));
        for with_store in [false, true] {
            let mut table = ResourceTable::new();
            let transaction = database.begin().await.unwrap();
            transaction.execute(statement("INSERT INTO t VALUES (1)")).await.unwrap();
            let held = Held::Own(transaction);
            let handle = table.push(HeldTransaction { held, _count: ctx.held.clone() }).unwrap();
            if !with_store {
                SqlView { ctx: &mut ctx, table: &mut table }.drop(handle).unwrap();
            }
            drop(table);
            // Answered only once the transaction has ended.
            assert_eq!(database.execute(statement("DELETE FROM t")).await, Ok(0));
            assert_eq!(Arc::strong_count(&ctx.held), 1);
        }
        database.close().await;
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_service_without_a_database_is_told_so() {
        let Err(Error::Unavailable(reason)) = SqlCtx::default().access(None) else { panic!("it has one") };
        assert!(reason.contains("database = true"), "{reason}");
    }
}
