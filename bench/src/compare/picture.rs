//! A run as a picture: for each figure, warbler's cost as a multiple of the better other.
//!
//! The scale is logarithmic, so that half and double are equally far from 1. What is better when there is more of it is
//! turned over: left of the line is always good.

use super::{
    report::Report,
    targets::{self, Limit},
    verdict::Verdict,
};
use crate::{
    measure::{
        Row,
        figure::{Better, Figure},
    },
    report::{Drawing, Spread},
};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 300.0;
const PLOT: f64 = 500.0;
const TOP: f64 = 104.0;
const LINE: f64 = 20.0;
const BAR: f64 = 11.0;
/// Between two measures.
const GAP: f64 = 10.0;
/// Ends of the scale; what lies beyond is drawn up to here.
const LOWEST: f64 = 0.25;
const HIGHEST: f64 = 4.0;
const STEPS: [f64; 5] = [LOWEST, 0.5, 1.0, 2.0, HIGHEST];

const STYLE: &str = "
.one { stroke: #777777 }
.whisker { stroke: #111111 }
.tick { stroke: #aa3377; stroke-width: 3 }
.met { fill: #009e73 }
.missed { fill: #d55e00 }
.unsure { fill: #999999 }
.free { fill: #56a0d3 }
@media (prefers-color-scheme: dark) {
.one { stroke: #999999 }
.whisker { stroke: #f0f0f0 }
.tick { stroke: #ee99bb }
}
";

/// The picture.
pub(super) fn svg(report: &Report) -> String {
    let mut picture = Picture { drawing: Drawing::default(), y: TOP };
    let mut before = None;
    for (row, figure) in report.figures() {
        if before.is_some_and(|before| before != row.measure) {
            picture.y += GAP;
        }
        before = Some(row.measure);
        picture.figure(report, row, figure);
    }
    // The frame lies under the figures, and is as high as they turned out to be.
    let mut frame = Picture { drawing: Drawing::default(), y: picture.y + 4.0 };
    frame.scale();
    frame.legend();
    frame.drawing.under(picture.drawing).finish("warbler beside nginx and HAProxy", WIDTH, frame.y + 34.0, STYLE)
}

struct Picture {
    drawing: Drawing,
    /// Down to where it is drawn.
    y: f64,
}

impl Picture {
    fn legend(&mut self) {
        self.text(20.0, 26.0, "start", "bold", "warbler's cost as a multiple of the better of nginx and HAProxy");
        let what = "medians of the rounds with their range; left of 1 is better; rates, bytes and memory given back are \
                    turned over";
        self.text(20.0, 44.0, "start", "faint", what);
        let words =
            [("met", "target met"), ("missed", "missed"), ("unsure", "too noisy or few rounds"), ("free", "no target")];
        let mut x = LEFT;
        for (class, word) in words {
            self.rect(x, 55.0, 12.0, class);
            self.text(x + 17.0, 65.0, "start", "", word);
            x += if class == "unsure" { 175.0 } else { 95.0 };
        }
        self.line(x + 6.0, 54.0, 67.0, "tick");
        self.text(x + 17.0, 65.0, "start", "", "target");
    }

    /// From the top down to where the figures end.
    fn scale(&mut self) {
        for step in STEPS {
            let class = if (step - 1.0).abs() < f64::EPSILON { "one" } else { "grid" };
            self.line(place(step), TOP - 4.0, self.y, class);
            for y in [TOP - 9.0, self.y + 16.0] {
                self.text(place(step), y, "middle", "faint", &format!("{step}"));
            }
        }
    }

    /// A name, a bar from 1 with whiskers, its targets, and its value.
    fn figure(&mut self, report: &Report, row: Row, figure: Figure) {
        let base = self.y + 13.0;
        self.text(LEFT - 12.0, base, "end", "", &format!("{row} {}", figure.title()));
        match report.ratio(row, figure).map(|ratio| cost(figure, ratio)) {
            Some(cost) => self.bar(&cost, class(report, row, figure)),
            None => self.text(place(1.0) + 8.0, base, "start", "faint", "not comparable"),
        }
        for target in targets::of(row, figure) {
            // A limit of one peer alone has no place on this scale.
            if let Limit::TimesTheBetter(times) = target.limit {
                self.line(place(turned(figure, times)), self.y + 2.0, self.y + LINE - 2.0, "tick");
            }
        }
        self.y += LINE;
    }

    fn bar(&mut self, cost: &Spread, class: &str) {
        let (one, end) = (place(1.0), place(cost.median));
        let middle = self.y + LINE / 2.0;
        self.y += (LINE - BAR) / 2.0;
        self.rect(one.min(end), self.y, (end - one).abs().max(1.0), class);
        self.y -= (LINE - BAR) / 2.0;
        let (low, high) = (place(cost.low), place(cost.high));
        let (y1, y2) = (middle - 3.5, middle + 3.5);
        let data = format!("M{low:.1} {y1:.1}V{y2:.1}M{low:.1} {middle:.1}H{high:.1}M{high:.1} {y1:.1}V{y2:.1}");
        self.drawing.path(&data, "whisker");
        let beyond = if cost.median > HIGHEST { " →" } else { "" };
        self.text(LEFT + PLOT + 24.0, middle + 4.0, "start", "", &format!("{:.2}{beyond}", cost.median));
    }

    fn rect(&mut self, x: f64, y: f64, width: f64, class: &str) {
        self.drawing.rect((x, y), (width, BAR), class);
    }

    /// From above to below.
    fn line(&mut self, x: f64, y1: f64, y2: f64, class: &str) {
        self.drawing.line((x, y1), (x, y2), class);
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        self.drawing.text(x, y, anchor, class, text);
    }
}

/// The colour of a figure: the worst that is said of its targets.
fn class(report: &Report, row: Row, figure: Figure) -> &'static str {
    let verdicts: Vec<Verdict> =
        targets::of(row, figure).filter_map(|target| report.judged(target)).map(|judged| judged.verdict).collect();
    if verdicts.is_empty() {
        "free"
    } else if verdicts.contains(&Verdict::Missed) {
        "missed"
    } else if verdicts.iter().all(|verdict| *verdict == Verdict::Met) {
        "met"
    } else {
        "unsure"
    }
}

/// A ratio as a cost, for which less is better.
fn cost(figure: Figure, ratio: Spread) -> Spread {
    let turn = |value| turned(figure, value);
    match figure.better() {
        Better::Less => ratio,
        Better::More => Spread { low: turn(ratio.high), median: turn(ratio.median), high: turn(ratio.low) },
    }
}

fn turned(figure: Figure, value: f64) -> f64 {
    match figure.better() {
        Better::Less => value,
        Better::More => 1.0 / value,
    }
}

/// Where a value is on the scale.
fn place(value: f64) -> f64 {
    let (low, high) = (LOWEST.ln(), HIGHEST.ln());
    LEFT + PLOT * (value.clamp(LOWEST, HIGHEST).ln() - low) / (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compare::{report::tests::report, samples::tests::rounds},
        report::assert_well_formed,
    };

    fn picture(row: &str, figure: Figure, values: &[[f64; 3]]) -> String {
        svg(&report(rounds(row, figure, values)))
    }

    #[test]
    fn it_is_well_formed_and_has_every_row() {
        for row in crate::measure::row::ROWS {
            for &figure in row.figures() {
                let svg = picture(&row.to_string(), figure, &[[6.0, 8.0, 12.0], [7.0, 8.0, 12.0], [9.0, 8.0, 12.0]]);
                assert_well_formed(&svg);
                assert!(svg.contains(&format!("{row} {}", figure.title())), "{row}");
            }
        }
    }

    #[test]
    fn colours_say_whether_a_target_is_met() {
        let check = |own: f64, class: &str| {
            let values = [[own, 10.0, 20.0], [own, 10.0, 20.0], [own, 10.0, 20.0]];
            let svg = picture("message/tcp", Figure::Cpu, &values);
            // One in the legend, one in the plot.
            assert_eq!(svg.matches(&format!("<rect class=\"{class}\"")).count(), 2, "{own}");
        };
        check(8.0, "met");
        check(12.0, "missed");
        assert!(picture("connect/tcp", Figure::Rate, &[[1.0, 2.0, 3.0]]).matches("<rect class=\"free\"").count() == 2);
    }

    #[test]
    fn half_and_double_are_equally_far_from_one_and_nothing_leaves_the_scale() {
        assert!((place(2.0) - place(1.0) - (place(1.0) - place(0.5))).abs() < 1e-9);
        assert!((place(100.0) - (LEFT + PLOT)).abs() < 1e-9);
        assert!((place(0.0) - LEFT).abs() < 1e-9);
    }

    #[test]
    fn yields_are_turned_over() {
        let turned = cost(Figure::Speed, Spread { low: 0.5, median: 1.0, high: 2.0 });
        assert!((turned.low - 0.5).abs() < 1e-9 && (turned.high - 2.0).abs() < 1e-9);
        assert!((cost(Figure::Cpu, Spread { low: 0.5, median: 0.8, high: 0.9 }).median - 0.8).abs() < 1e-9);
    }
}
