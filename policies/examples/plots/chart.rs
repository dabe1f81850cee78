//! Line charts as SVG, in as few elements as will do.

use std::fmt::Write;

/// A chart with named lines.
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) lines: Vec<Line>,
}

/// From the first to the last of its marks.
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) marks: Vec<f64>,
    /// Equal distances are equal factors.
    pub(crate) logarithmic: bool,
}

pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// Dots are what was simulated, a line is a formula. Simulated points of a name come without a line of their own.
    pub(crate) style: Style,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Curve,
    Dots,
    Both,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 48.0;
/// Told apart by people who see few colours, too (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#444444"];

impl Chart {
    pub(crate) fn to_svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, LEFT, 20.0, "start", self.title, "black");
        self.frame(&mut svg);
        let mut names: Vec<&str> = Vec::new();
        for line in &self.lines {
            let known = names.iter().position(|name| *name == line.name);
            let at = known.unwrap_or(names.len());
            let colour = COLOURS[at % COLOURS.len()];
            if known.is_none() {
                names.push(&line.name);
                let y = TOP + 14.0 + 20.0 * at as f64;
                let x = WIDTH - RIGHT + 14.0;
                put(&mut svg, &format!("<path d=\"M{x} {y}h18\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
                text(&mut svg, x + 24.0, y + 4.0, "start", &line.name, "black");
            }
            self.line(&mut svg, line, colour);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn frame(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for &mark in &self.x.marks {
            let x = self.x(mark);
            put(svg, &format!("<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#e0e0e0\"/>"));
            text(svg, x, bottom + 16.0, "middle", &number(mark), "#444444");
        }
        for &mark in &self.y.marks {
            let y = self.y(mark);
            put(svg, &format!("<path d=\"M{LEFT} {y:.1}H{right}\" stroke=\"#e0e0e0\"/>"));
            text(svg, LEFT - 6.0, y + 4.0, "end", &number(mark), "#444444");
        }
        put(svg, &format!("<path d=\"M{LEFT} {TOP}V{bottom}H{right}\" fill=\"none\" stroke=\"#444444\"/>"));
        text(svg, (LEFT + right) / 2.0, HEIGHT - 10.0, "middle", self.x.label, "black");
        let middle = (TOP + bottom) / 2.0;
        put(
            svg,
            &format!(
                "<text x=\"14\" y=\"{middle}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {middle})\">{}</text>",
                self.y.label
            ),
        );
    }

    fn line(&self, svg: &mut String, line: &Line, colour: &str) {
        let top = self.y.marks.last().copied().unwrap_or(f64::MAX);
        let points: Vec<(f64, f64)> =
            line.points.iter().filter(|(_, y)| *y <= top).map(|&(x, y)| (self.x(x), self.y(y))).collect();
        if line.style != Style::Dots {
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            put(
                svg,
                &format!("<path d=\"M{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join("L")),
            );
        }
        if line.style != Style::Curve {
            for (x, y) in points {
                put(svg, &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"));
            }
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + self.x.part(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.part(value) * (HEIGHT - TOP - BOTTOM)
    }
}

impl Axis {
    pub(crate) fn linear(label: &'static str, marks: &[f64]) -> Self {
        Self { label, marks: marks.to_vec(), logarithmic: false }
    }

    pub(crate) fn logarithmic(label: &'static str, marks: &[f64]) -> Self {
        Self { label, marks: marks.to_vec(), logarithmic: true }
    }

    /// 0 at the first mark, 1 at the last.
    fn part(&self, value: f64) -> f64 {
        let place = |value: f64| if self.logarithmic { value.ln() } else { value };
        let (first, last) = (self.marks[0], self.marks[self.marks.len() - 1]);
        (place(value) - place(first)) / (place(last) - place(first))
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str, colour: &str) {
    put(svg, &format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{words}</text>"));
}

fn number(value: f64) -> String {
    if value >= 10_000.0 { format!("{} 000", value / 1000.0) } else { format!("{value}") }
}

fn put(svg: &mut String, element: &str) {
    writeln!(svg, "{element}").expect("a string takes everything");
}
