//! Client classes: clients that are steered alike.
//!
//! A class is the first rule that matches (of the cluster asked) and a cell: five degrees of latitude and longitude, or
//! the country, or the continent, or unknown. Plans are compiled per class, so that a pick is a table look-up.

use std::net::IpAddr;

use geoip::{Coordinates, Located, Place};
use policies::{ClientPlace, Subdivision};

/// Degrees of latitude and longitude a cell is wide.
const CELL: f64 = 5.0;

/// Where a client is, as coarsely as steering needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cell {
    /// Counted in cells from the south pole and from 180° west.
    Grid {
        row: u8,
        column: u8,
    },
    Country([u8; 2]),
    Continent([u8; 2]),
    Unknown,
}

impl Cell {
    fn around(location: Coordinates) -> Cell {
        let row = ((location.latitude + 90.0) / CELL).floor().min(35.0);
        let column = ((location.longitude + 180.0) / CELL).floor().min(71.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to 35 and 0 to 71 by construction"
        )]
        Cell::Grid { row: row as u8, column: column as u8 }
    }

    /// The middle of the cell.
    pub fn centre(self) -> Option<Coordinates> {
        let Cell::Grid { row, column } = self else { return None };
        Coordinates::new((f64::from(row) + 0.5) * CELL - 90.0, (f64::from(column) + 0.5) * CELL - 180.0)
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Cell::Grid { .. } => {
                let Some(centre) = self.centre() else { return f.write_str("unknown") };
                write!(f, "{:.1},{:.1}", centre.latitude, centre.longitude)
            }
            Cell::Country(code) => write!(f, "country {}", String::from_utf8_lossy(code)),
            Cell::Continent(code) => write!(f, "continent {}", String::from_utf8_lossy(code)),
            Cell::Unknown => f.write_str("unknown"),
        }
    }
}

/// A client as steering sees it. Resolved once a connection, or once a request when a trusted proxy names the address.
#[derive(Debug, Clone)]
pub struct Client {
    pub place: ClientPlace,
    pub cell: Cell,
}

impl Client {
    pub fn new(address: IpAddr, located: &Located) -> Client {
        Client::placed(Some(address), &located.place)
    }

    /// A client whose place is known, whatever its address.
    pub fn placed(address: Option<IpAddr>, place: &Place) -> Client {
        let country = place.country.map(|code| code.bytes());
        let continent = place.continent.map(|code| code.bytes());
        let subdivision = country.zip(place.subdivision_code());
        let subdivision = subdivision.and_then(|(country, code)| Subdivision::new(country, code));
        let cell = match (place.location, country, continent) {
            (Some(location), ..) => Cell::around(location),
            (None, Some(country), _) => Cell::Country(country),
            (None, None, Some(continent)) => Cell::Continent(continent),
            (None, None, None) => Cell::Unknown,
        };
        let place = ClientPlace { address, asn: place.asn, subdivision, country, continent };
        Client { place, cell }
    }

    /// The cell to use when there are too many classes.
    pub fn coarse_cell(&self) -> Cell {
        self.place.continent.map_or(Cell::Unknown, Cell::Continent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(latitude: f64, longitude: f64) -> Cell {
        Cell::around(Coordinates::new(latitude, longitude).unwrap())
    }

    #[test]
    fn a_cell_is_five_degrees_wide() {
        assert_eq!(cell(50.11, 8.68), cell(54.9, 5.0));
        assert_ne!(cell(50.11, 8.68), cell(49.9, 8.68));
        assert_eq!(cell(50.11, 8.68).centre(), Coordinates::new(52.5, 7.5));
    }

    #[test]
    fn the_ends_of_the_world_have_cells() {
        assert_eq!(cell(90.0, 180.0), Cell::Grid { row: 35, column: 71 });
        assert_eq!(cell(-90.0, -180.0), Cell::Grid { row: 0, column: 0 });
    }
}
