//! A simulation as a picture: SVG that any browser shows, written by hand, without scripts and without fonts of its own.
//!
//! For each cluster, and in each configuration: how many connections each locality had over time, stacked; how the arrivals
//! were shared; and how full the endpoints got. Localities have the same colour wherever they appear.

use std::fmt::Write;

use super::report::{ClusterRun, EndpointRun, Report, Run, rounded};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 210.0;
const PLOT: f64 = WIDTH - LEFT - RIGHT;
const CURVES: f64 = 200.0;
const ROW: f64 = 18.0;
/// Endpoints that are drawn; the fullest ones.
const MOST_ENDPOINTS: usize = 24;

/// Colours that people who see some colours alike can still tell apart (Okabe and Ito, 2008), the darker ones first.
const COLOURS: [&str; 8] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#f0e442"];

/// The picture.
pub fn svg(report: &Report) -> String {
    let mut drawing = Drawing { body: String::new(), y: 30.0 };
    let title = format!("{} clients in {}", report.clients, rounded(report.seconds));
    drawing.text(20.0, 0.0, "bold", &title);
    drawing.y += 14.0;
    for run in &report.runs {
        for cluster in run.clusters.iter().filter(|cluster| cluster.clients > 0) {
            drawing.cluster(report, run, cluster);
        }
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height:.0}\" viewBox=\"0 0 {WIDTH} \
         {height:.0}\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#333333\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n{}</svg>\n",
        escaped(&title),
        drawing.body,
        height = drawing.y + 10.0,
    )
}

struct Drawing {
    body: String,
    /// Down to where it is drawn.
    y: f64,
}

impl Drawing {
    fn cluster(&mut self, report: &Report, run: &Run, cluster: &ClusterRun) {
        self.y += 26.0;
        let refused: u64 = cluster.refused.values().sum();
        let refused = if refused > 0 { format!(", {refused} times refused") } else { String::new() };
        let heading = format!("{}, cluster {}: {} clients{refused}", run.config, cluster.name, cluster.clients);
        self.text(20.0, 0.0, "bold", &heading);
        self.y += 16.0;
        self.curves(report, cluster);
        self.shares(cluster);
        self.fullest(cluster);
    }

    /// Connections over time, the localities stacked.
    fn curves(&mut self, report: &Report, cluster: &ClusterRun) {
        let (top, bottom) = (self.y + 16.0, self.y + 16.0 + CURVES);
        self.text(LEFT, 4.0, "normal", "connections");
        let points = cluster.localities.iter().map(|locality| locality.connections.len()).max().unwrap_or(0);
        let sum = |nth: usize| cluster.localities.iter().filter_map(|one| one.connections.get(nth)).sum::<u64>();
        let highest = round_up((0..points).map(sum).max().unwrap_or(0));
        let x = |nth: usize| LEFT + PLOT * nth as f64 / (points.max(2) - 1) as f64;
        let y = |value: u64| bottom - CURVES * value as f64 / highest as f64;
        for step in 0..=4 {
            let value = highest * step / 4;
            self.line(LEFT, y(value), LEFT + PLOT, y(value), "#dddddd");
            self.label(LEFT - 8.0, y(value) + 4.0, "end", &grouped(value));
            let at = LEFT + PLOT * step as f64 / 4.0;
            self.line(at, bottom, at, bottom + 5.0, "#888888");
            self.label(at, bottom + 18.0, "middle", &rounded(report.seconds * step as f64 / 4.0).to_string());
        }
        let mut below = vec![0; points];
        for (nth, locality) in cluster.localities.iter().enumerate() {
            let above: Vec<u64> = below.iter().zip(&locality.connections).map(|(below, here)| below + here).collect();
            let there = above.iter().enumerate().map(|(nth, value)| (x(nth), y(*value)));
            let back = below.iter().enumerate().rev().map(|(nth, value)| (x(nth), y(*value)));
            let area: Vec<String> = there.chain(back).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let _ = writeln!(
                self.body,
                "<polygon points=\"{}\" fill=\"{}\" fill-opacity=\"0.85\"/>",
                area.join(" "),
                colour(nth)
            );
            let legend = top + 10.0 + ROW * nth as f64;
            self.bar(LEFT + PLOT + 20.0, legend - 9.0, 12.0, colour(nth));
            self.label(LEFT + PLOT + 38.0, legend, "start", &locality.name);
            below = above;
        }
        self.line(LEFT, bottom, LEFT + PLOT, bottom, "#888888");
        self.label(LEFT + PLOT / 2.0, bottom + 34.0, "middle", "time since the first client");
        self.y = bottom.max(top + ROW * cluster.localities.len() as f64) + 52.0;
    }

    /// One bar for each locality: its part of the arrivals.
    fn shares(&mut self, cluster: &ClusterRun) {
        self.text(LEFT, 4.0, "normal", "share of arrivals");
        self.y += 12.0;
        for (nth, locality) in cluster.localities.iter().enumerate() {
            let rtt = locality.rtt_ms.map(|rtt| format!(", half within {} ms", rtt.p50)).unwrap_or_default();
            let value = format!("{:.1} %{rtt}", locality.share * 100.0);
            self.row(&locality.name, locality.share, colour(nth), &value);
        }
        self.y += 18.0;
    }

    /// One bar for each of the fullest endpoints: its peak, against its limit or the highest peak.
    fn fullest(&mut self, cluster: &ClusterRun) {
        let places = cluster.localities.iter().enumerate();
        let mut endpoints: Vec<(usize, &EndpointRun, f64)> = Vec::new();
        let highest = cluster.localities.iter().flat_map(|one| &one.endpoints).map(|one| one.peak).max().unwrap_or(0);
        for (nth, locality) in places {
            let part = |one: &EndpointRun| one.peak as f64 / one.max_connections.unwrap_or(highest).max(1) as f64;
            endpoints.extend(locality.endpoints.iter().map(|endpoint| (nth, endpoint, part(endpoint))));
        }
        let all = endpoints.len();
        endpoints.sort_by(|(_, _, one), (_, _, other)| other.total_cmp(one));
        endpoints.truncate(MOST_ENDPOINTS);
        let heading = match all > endpoints.len() {
            true => format!("peak connections of the {MOST_ENDPOINTS} fullest of {all} endpoints"),
            false => "peak connections by endpoint".to_owned(),
        };
        self.text(LEFT, 4.0, "normal", &format!("{heading}, against the limit where it has one"));
        self.y += 12.0;
        for (nth, endpoint, part) in endpoints {
            let value = match endpoint.max_connections {
                Some(max) if endpoint.full_seconds > 0.0 => {
                    format!(
                        "{} of {}, full for {}",
                        grouped(endpoint.peak),
                        grouped(max),
                        rounded(endpoint.full_seconds)
                    )
                }
                Some(max) => format!("{} of {}", grouped(endpoint.peak), grouped(max)),
                None => grouped(endpoint.peak),
            };
            self.row(&endpoint.address, part, colour(nth), &value);
        }
        self.y += 12.0;
    }

    /// A name, a bar on a light ground, and its value.
    fn row(&mut self, name: &str, part: f64, colour: &str, value: &str) {
        let (names, bars) = (180.0, PLOT - 250.0);
        self.y += ROW;
        let y = self.y - 12.0;
        self.label(LEFT + names - 8.0, self.y - 2.0, "end", name);
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{bars:.1}\" height=\"12\" fill=\"#f0f0f0\"/>",
            x = LEFT + names
        );
        self.bar(LEFT + names, y, bars * part.clamp(0.0, 1.0), colour);
        self.label(LEFT + names + bars + 8.0, self.y - 2.0, "start", value);
    }

    fn bar(&mut self, x: f64, y: f64, width: f64, colour: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"12\" fill=\"{colour}\"/>"
        );
    }

    fn line(&mut self, x1: f64, y1: f64, x2: f64, y2: f64, colour: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"{colour}\"/>"
        );
    }

    fn label(&mut self, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escaped(text);
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
    }

    fn text(&mut self, x: f64, down: f64, weight: &str, text: &str) {
        let (y, text) = (self.y + down, escaped(text));
        let _ = writeln!(self.body, "<text x=\"{x:.1}\" y=\"{y:.1}\" font-weight=\"{weight}\">{text}</text>");
    }
}

fn colour(nth: usize) -> &'static str {
    COLOURS[nth % COLOURS.len()]
}

/// The next number with one digit that counts, so that the axis has plain steps; never 0.
fn round_up(value: u64) -> u64 {
    let magnitude = 10_u64.pow(value.max(1).ilog10());
    value.div_ceil(magnitude).max(1).saturating_mul(magnitude).max(4)
}

/// `1 234 567`
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// Names come from files, and XML has no place for control characters at all.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_plain_numbers() {
        let check = |value, want| assert_eq!(round_up(value), want, "{value}");
        check(0, 4);
        check(7, 7);
        check(41, 50);
        check(500, 500);
        check(12_345, 20_000);
    }

    #[test]
    fn numbers_are_grouped_and_names_are_escaped() {
        assert_eq!([grouped(7), grouped(1_234), grouped(1_234_567)], ["7", "1 234", "1 234 567"]);
        assert_eq!(escaped("a<b>&\"c\"\u{1}"), "a&lt;b&gt;&amp;&quot;c&quot;\u{fffd}");
    }
}
