//! A drill as a picture over time: who was online, how long messages took, logins at each server, and what went wrong.

use super::{figures::Step, outcome::Outcome, scene::Phase};
use crate::report::{Drawing, dashes};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const PLOT: f64 = 700.0;
const TOP: f64 = 70.0;
/// Of one strip, and between two.
const HEIGHT: f64 = 110.0;
const GAP: f64 = 44.0;
/// Of a line of text.
const LINE: f64 = 18.0;
/// As many as there are colours for; further ones begin again.
const COLOURS: usize = 6;

/// Okabe and Ito, 2008.
const STYLE: &str = "
.during { fill: #999999; fill-opacity: 0.15 }
.mark { stroke: #777777; stroke-dasharray: 3 3 }
.cap { stroke: #aa3377; stroke-width: 2 }
.c0 { stroke: #0072b2; stroke-width: 1.5 }
.c1 { stroke: #d55e00; stroke-width: 1.5 }
.c2 { stroke: #009e73; stroke-width: 1.5 }
.c3 { stroke: #cc79a7; stroke-width: 1.5 }
.c4 { stroke: #e69f00; stroke-width: 1.5 }
.c5 { stroke: #56b4e9; stroke-width: 1.5 }
";

/// A curve: its colour, its name, and its value in each step that has one.
struct Curve {
    colour: usize,
    name: String,
    values: Vec<Option<f64>>,
}

/// The picture.
pub(super) fn svg(outcome: &Outcome) -> String {
    let mut plot =
        Plot { drawing: Drawing::default(), seconds: outcome.seconds.max(0.1), step: outcome.series.step, y: TOP };
    plot.heading(outcome);
    plot.strip(outcome, "people online", &[curve(outcome, 0, "", |step| Some(as_float(step.online)))], None);
    let latency =
        [curve(outcome, 1, "slowest", |step| step.max), curve(outcome, 0, "half are faster", |step| step.p50)];
    plot.strip(outcome, "messages: ms until acknowledged, by when they were due", &latency, None);
    plot.strip(outcome, "logins a second, by server", &logins(outcome), outcome.nodes.iter().find_map(|node| node.cap));
    let troubles = [
        curve(outcome, 1, "sessions broken", |step| Some(as_float(step.broken))),
        curve(outcome, 4, "tries refused", |step| Some(as_float(step.refused))),
        curve(outcome, 3, "tries failed", |step| Some(as_float(step.failed))),
    ];
    plot.strip(outcome, "went wrong, in each step", &troubles, None);
    plot.list_of_marks(outcome);
    plot.drawing.finish(&format!("warbler-bench drill {}", outcome.drill), WIDTH, plot.y + 10.0, STYLE)
}

fn curve(outcome: &Outcome, colour: usize, name: &str, value: impl Fn(&Step) -> Option<f64>) -> Curve {
    Curve { colour, name: name.into(), values: outcome.series.steps.iter().map(value).collect() }
}

/// Over the second that ends with each step, so that they compare with a cap.
fn logins(outcome: &Outcome) -> Vec<Curve> {
    let steps = &outcome.series.steps;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a step is at least a tenth of a second"
    )]
    let second = (1.0 / outcome.series.step).round().max(1.0) as usize;
    let one = |(at, node): (usize, &super::outcome::NodeFigures)| {
        let sum =
            |last: usize| steps[(last + 1).saturating_sub(second)..=last].iter().map(|step| step.logins[at]).sum();
        let values = (0..steps.len()).map(|last| Some(as_float(sum(last)))).collect();
        Curve { colour: at, name: node.name.clone(), values }
    };
    outcome.nodes.iter().enumerate().map(one).collect()
}

struct Plot {
    drawing: Drawing,
    /// Of the whole width, and of one step.
    seconds: f64,
    step: f64,
    /// Down to where it is drawn.
    y: f64,
}

impl Plot {
    fn heading(&mut self, outcome: &Outcome) {
        let verdict = if outcome.kept() { "all limits kept" } else { "NOT ALL LIMITS KEPT" };
        let title = format!(
            "{}: {} people, {} messages lost, {verdict}",
            outcome.drill, outcome.clients, outcome.messages.lost
        );
        self.drawing.text(20.0, 26.0, "start", "bold", &title);
        self.drawing.text(20.0, 44.0, "start", "faint", outcome.about);
    }

    /// One pair of axes with its curves, the part between the blow and its end shaded.
    fn strip(&mut self, outcome: &Outcome, title: &str, curves: &[Curve], cap: Option<f64>) {
        let values = curves.iter().flat_map(|curve| curve.values.iter().flatten().copied());
        let most = nice(values.chain(cap).fold(1.0, f64::max));
        let bottom = self.y + HEIGHT;
        self.drawing.text(LEFT, self.y - 6.0, "start", "", title);
        self.shade(outcome, bottom);
        self.axes(outcome, most, bottom);
        if let Some(cap) = cap {
            let y = bottom - cap / most * HEIGHT;
            self.drawing.line((LEFT, y), (LEFT + PLOT, y), "cap");
            self.drawing.text(LEFT + PLOT + 8.0, y + 4.0, "start", "", "cap");
        }
        for (at, curve) in curves.iter().enumerate() {
            let class = format!("c{}", curve.colour % COLOURS);
            self.drawing.path(&self.data(curve, most, bottom), &class);
            self.name(curve, &class, self.y + 12.0 + as_float(at) * LINE);
        }
        self.y = bottom + GAP;
    }

    fn axes(&mut self, outcome: &Outcome, most: f64, bottom: f64) {
        for share in [0.0, 0.5, 1.0] {
            let y = bottom - share * HEIGHT;
            self.drawing.line((LEFT, y), (LEFT + PLOT, y), "grid");
            self.drawing.text(LEFT - 6.0, y + 4.0, "end", "faint", &number(most * share));
        }
        for (number, mark) in outcome.marks.iter().enumerate() {
            let x = self.x(mark.seconds);
            self.drawing.line((x, self.y), (x, bottom), "mark");
            self.drawing.text(x, bottom + 13.0, "middle", "faint", &(number + 1).to_string());
        }
    }

    fn name(&mut self, curve: &Curve, class: &str, y: f64) {
        if !curve.name.is_empty() {
            self.drawing.line((LEFT + PLOT + 40.0, y - 4.0), (LEFT + PLOT + 56.0, y - 4.0), class);
            self.drawing.text(LEFT + PLOT + 62.0, y, "start", "", &curve.name);
        }
    }

    fn shade(&mut self, outcome: &Outcome, bottom: f64) {
        let begin = |phase| outcome.marks.iter().find(|mark| mark.phase == phase).map(|mark| mark.seconds);
        if let Some(from) = begin(Phase::During) {
            let (from, to) = (self.x(from), self.x(begin(Phase::After).unwrap_or(self.seconds)));
            self.drawing.rect((from, self.y), (to - from, bottom - self.y), "during");
        }
    }

    fn data(&self, curve: &Curve, most: f64, bottom: f64) -> String {
        let x = |step: usize| self.x(as_float(step) * self.step);
        let dash =
            |(at, value): (usize, &Option<f64>)| value.map(|value| (x(at), x(at + 1), bottom - value / most * HEIGHT));
        dashes(curve.values.iter().enumerate().map(dash))
    }

    fn list_of_marks(&mut self, outcome: &Outcome) {
        for (number, mark) in outcome.marks.iter().enumerate() {
            let text = format!("{}  {:.1} s  {}", number + 1, mark.seconds, mark.text);
            self.drawing.text(LEFT, self.y, "start", "", &text);
            self.y += LINE;
        }
    }

    fn x(&self, seconds: f64) -> f64 {
        LEFT + PLOT * (seconds / self.seconds).clamp(0.0, 1.0)
    }
}

/// The next of 1, 2, 5, 10, 20, … that is not below.
fn nice(value: f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= value).unwrap_or(value)
}

fn number(value: f64) -> String {
    if value.fract() < 1e-9 { format!("{value:.0}") } else { format!("{value:.1}") }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a drill are far below 2^52")]
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{drill::outcome::tests::outcome, report::assert_well_formed};

    #[test]
    fn it_is_well_formed_and_names_what_happened() {
        let svg = svg(&outcome());
        assert_well_formed(&svg);
        for text in
            ["people online", "im-1 is killed", "0 messages lost", "all limits kept", ">im-1</text>", ">cap</text>"]
        {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (value, want) in [(1.0, 1.0), (1.2, 2.0), (24.0, 50.0), (99.0, 100.0), (700.0, 1000.0)] {
            assert!((nice(value) - want).abs() < 1e-9, "{value}: {}", nice(value));
        }
    }
}
