//! What only SQLite promises.

mod crash;
mod guard;
mod limits;
mod migrations;
mod reading;
mod transactions;
mod turns;
mod writing;

use crate::store::tests::*;
