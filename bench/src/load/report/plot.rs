//! One diagram over time, small enough to stand beside another one on a wide page and to be read alone on a narrow one.

use crate::report::{Drawing, dashes};

const WIDTH: f64 = 480.0;
const HEIGHT: f64 = 250.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 52.0;
const BOTTOM: f64 = 32.0;
/// As many as there are colours for.
const COLOURS: usize = 6;

/// Okabe and Ito, 2008: told apart by those who see some colours alike, too. Classes are prefixed, because all diagrams
/// of a page share them.
pub(super) const STYLE: &str = "
.p0 { stroke: #0072b2; stroke-width: 1.8 }
.p1 { stroke: #d55e00; stroke-width: 1.8 }
.p2 { stroke: #009e73; stroke-width: 1.8 }
.p3 { stroke: #cc79a7; stroke-width: 1.8 }
.p4 { stroke: #e69f00; stroke-width: 1.8 }
.p5 { stroke: #56b4e9; stroke-width: 1.8 }
@media (prefers-color-scheme: dark) {
.p0 { stroke: #3d9bd8 }
.p1 { stroke: #f07d2e }
.p2 { stroke: #2fbf94 }
}
";

/// A curve: its name, and its value in each step that has one.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) values: Vec<Option<f64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scale {
    /// From nothing.
    Linear,
    /// Each line ten times the one below: for what differs by orders of magnitude.
    Tenfold,
}

/// What the diagram shows.
pub(super) struct Plot<'a> {
    pub(super) title: &'a str,
    pub(super) curves: &'a [Curve],
    /// Of one step.
    pub(super) seconds: f64,
    pub(super) scale: Scale,
}

impl Plot<'_> {
    pub(super) fn svg(&self) -> String {
        let mut drawing = Drawing::default();
        drawing.text(0.0, 16.0, "start", "bold", self.title);
        self.legend(&mut drawing);
        let (low, high) = self.range();
        for value in self.lines(low, high) {
            let y = self.y(value, low, high);
            drawing.line((LEFT, y), (WIDTH - RIGHT, y), "grid");
            drawing.text(LEFT - 6.0, y + 4.0, "end", "faint", &number(value));
        }
        self.time_axis(&mut drawing);
        for (at, curve) in self.curves.iter().enumerate() {
            drawing.path(&self.data(curve, low, high), &class(at));
        }
        drawing.finish(self.title, WIDTH, HEIGHT, STYLE)
    }

    fn legend(&self, drawing: &mut Drawing) {
        let room = (WIDTH - LEFT) / as_float(self.curves.len().max(1));
        for (at, curve) in self.curves.iter().enumerate().filter(|(_, curve)| !curve.name.is_empty()) {
            let x = LEFT + as_float(at) * room.min(110.0);
            drawing.line((x, 34.0), (x + 14.0, 34.0), &class(at));
            drawing.text(x + 19.0, 38.0, "start", "", &curve.name);
        }
    }

    fn time_axis(&self, drawing: &mut Drawing) {
        let whole = self.whole();
        let distance = next_of(&ROUND, whole / 5.0);
        let mut at = 0.0;
        while at <= whole + 1e-9 {
            drawing.text(self.x(at), HEIGHT - 12.0, "middle", "faint", &format!("{} s", number(at)));
            at += distance;
        }
    }

    fn data(&self, curve: &Curve, low: f64, high: f64) -> String {
        let x = |step: usize| self.x(as_float(step) * self.seconds);
        let dash = |(at, value): (usize, &Option<f64>)| value.map(|value| (x(at), x(at + 1), self.y(value, low, high)));
        dashes(curve.values.iter().enumerate().map(dash))
    }

    fn range(&self) -> (f64, f64) {
        let values = || self.curves.iter().flat_map(|curve| curve.values.iter().flatten().copied());
        match self.scale {
            Scale::Linear => (0.0, next_of(&QUARTERED, values().fold(1.0, f64::max))),
            Scale::Tenfold => {
                let least = values().filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
                let least = if least.is_finite() { least } else { 1.0 };
                let low = 10_f64.powf(least.log10().floor());
                (low, 10_f64.powf(values().fold(low * 1.01, f64::max).log10().ceil()))
            }
        }
    }

    fn lines(&self, low: f64, high: f64) -> Vec<f64> {
        match self.scale {
            Scale::Linear => [0.0, 0.25, 0.5, 0.75, 1.0].iter().map(|share| share * high).collect(),
            Scale::Tenfold => std::iter::successors(Some(low), |value| Some(value * 10.0))
                .take_while(|value| *value <= high * 1.01)
                .collect(),
        }
    }

    fn y(&self, value: f64, low: f64, high: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => value / high,
            Scale::Tenfold => (value.max(low) / low).log10() / (high / low).log10(),
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (seconds / self.whole()).clamp(0.0, 1.0)
    }

    fn whole(&self) -> f64 {
        let steps = self.curves.iter().map(|curve| curve.values.len()).max().unwrap_or(1);
        as_float(steps.max(1)) * self.seconds
    }
}

fn class(at: usize) -> String {
    format!("p{}", at % COLOURS)
}

/// Multiples of powers of ten that are round …
const ROUND: [f64; 4] = [1.0, 2.0, 5.0, 10.0];
/// … and of which the quarters are, too.
const QUARTERED: [f64; 7] = [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0];

/// The next of these times a power of ten that is not below.
fn next_of(multiples: &[f64], value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    multiples.iter().map(|step| step * power).find(|step| *step >= value - 1e-9).unwrap_or(value)
}

fn number(value: f64) -> String {
    let thousands = value >= 10_000.0;
    let (value, unit) = if thousands { (value / 1000.0, "k") } else { (value, "") };
    let digits = if value.fract().abs() < 1e-9 {
        0
    } else if value >= 1.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{unit}")
}

#[expect(clippy::cast_precision_loss, reason = "steps of a run are some hundred")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::assert_well_formed;

    fn plot(values: Vec<Option<f64>>, scale: Scale) -> String {
        Plot { title: "a & b", curves: &[Curve { name: "x < y".into(), values }], seconds: 1.0, scale }.svg()
    }

    #[test]
    fn it_is_well_formed_whatever_there_is_to_draw() {
        for scale in [Scale::Linear, Scale::Tenfold] {
            for values in [vec![], vec![None], vec![Some(0.0)], vec![Some(3.0), None, Some(70_000.0)]] {
                let svg = plot(values.clone(), scale);
                assert_well_formed(&svg);
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{values:?}: {svg}");
            }
        }
    }

    #[test]
    fn lines_are_at_round_numbers() {
        let svg = plot(vec![Some(0.3), Some(42.0)], Scale::Tenfold);
        for value in ["0.10", "1", "10", "100"] {
            assert!(svg.contains(&format!(">{value}</text>")), "{value} is not in {svg}");
        }
        let svg = plot(vec![Some(231.0)], Scale::Linear);
        assert!(svg.contains(">300</text>") && svg.contains(">75</text>"), "{svg}");
    }
}
