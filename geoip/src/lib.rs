//! Where a client is: from its address to a place, by overrides that the operator wrote and by MMDB files.
//!
//! Pure once a database is open: this crate reads no file, knows no clock and keeps no state. Whoever owns the files hands
//! over their bytes, and a damaged file is refused as a whole before anything uses it, so no lookup can fail later.
//!
//! An address that is IPv4 inside IPv6 (`::ffff:192.0.2.1`, what a dual-stack socket reports) is an IPv4 address in every
//! lookup here.

mod locate;

mod place;

mod database;
mod overrides;

mod continent;
mod distance;
mod record;

pub use continent::continent_of;
pub use database::{Database, DatabaseError};
pub use distance::{Coordinates, great_circle_km};
pub use locate::{Geo, Located, Source};
pub use overrides::{OverrideProblem, Overrides};
pub use place::{ContinentCode, CountryCode, Knows, Place};
