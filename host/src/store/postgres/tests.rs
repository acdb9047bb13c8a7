//! What only PostgreSQL promises, and what tries to break out of a service's schema.

mod fence;
mod server;
mod values;

use crate::store::tests::*;
