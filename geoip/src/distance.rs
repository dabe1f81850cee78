//! Points on the Earth and how far they are apart.

/// A point on the Earth, in degrees. Made by [`Coordinates::new`], it is on the globe.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Coordinates {
    /// -90 (south) to 90 (north).
    pub latitude: f64,
    /// -180 (west) to 180 (east).
    pub longitude: f64,
}

impl Coordinates {
    /// `None` for numbers that are no place on Earth.
    pub fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let on_earth = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        on_earth.then_some(Self { latitude, longitude })
    }
}

/// The mean radius of the Earth (IUGG), in kilometres.
const EARTH_RADIUS_KM: f64 = 6371.0088;

/// Kilometres along the surface, by the haversine formula. The Earth is no sphere, so this is off by up to half a
/// percent, which is far less than any GeoIP database is.
pub fn great_circle_km(a: Coordinates, b: Coordinates) -> f64 {
    let half_latitude = (b.latitude - a.latitude).to_radians() / 2.0;
    let half_longitude = (b.longitude - a.longitude).to_radians() / 2.0;
    let parallels = a.latitude.to_radians().cos() * b.latitude.to_radians().cos();
    let haversine = half_latitude.sin().powi(2) + parallels * half_longitude.sin().powi(2);
    // Rounding can lift opposite points above 1, and the arc sine of that is no number.
    2.0 * EARTH_RADIUS_KM * haversine.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(latitude: f64, longitude: f64) -> Coordinates {
        Coordinates::new(latitude, longitude).unwrap()
    }

    #[test]
    fn known_distances_come_out() {
        let (frankfurt, singapore, paris) = (at(50.11, 8.68), at(1.35, 103.82), at(48.86, 2.35));
        // Within one percent of what maps say.
        let check =
            |a, b, km: f64| assert!((great_circle_km(a, b) / km - 1.0).abs() < 0.01, "{}", great_circle_km(a, b));
        check(frankfurt, singapore, 10_260.0);
        check(frankfurt, paris, 479.0);
        check(at(0.0, 0.0), at(0.0, 1.0), 111.195);
    }

    #[test]
    fn the_date_line_and_the_poles_are_no_walls() {
        assert!(great_circle_km(at(0.0, 179.9), at(0.0, -179.9)) < 23.0);
        assert!(great_circle_km(at(90.0, 0.0), at(90.0, 135.0)) < 0.001);
    }

    #[test]
    fn numbers_that_are_no_place_are_refused() {
        for (latitude, longitude) in [(90.1, 0.0), (-91.0, 0.0), (0.0, 180.5), (f64::NAN, 0.0), (0.0, f64::INFINITY)] {
            assert_eq!(Coordinates::new(latitude, longitude), None);
        }
    }

    fn anywhere() -> impl Strategy<Value = Coordinates> {
        (-90.0..=90.0, -180.0..=180.0).prop_map(|(latitude, longitude)| at(latitude, longitude))
    }

    proptest! {
        #[test]
        fn a_distance_is_the_same_both_ways_and_never_more_than_half_the_globe(a in anywhere(), b in anywhere()) {
            let km = great_circle_km(a, b);
            prop_assert!((0.0..=20_015.2).contains(&km));
            prop_assert!((km - great_circle_km(b, a)).abs() < 1e-6);
        }

        #[test]
        fn opposite_points_are_half_the_globe_apart(a in anywhere()) {
            let longitude = if a.longitude > 0.0 { a.longitude - 180.0 } else { a.longitude + 180.0 };
            prop_assert!((great_circle_km(a, at(-a.latitude, longitude)) - 20_015.1).abs() < 1.0);
        }
    }
}
