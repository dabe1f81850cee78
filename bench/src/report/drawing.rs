//! Pictures as SVG written by hand: without scripts and without fonts of their own, for light and dark pages.

use std::fmt::Write;

/// What all pictures share. Colours that people who see some colours alike can still tell apart (Okabe and Ito, 2008).
const STYLE: &str = "
text { font: 12px sans-serif; fill: #333333 }
.bold { font-weight: bold }
.faint { fill: #666666 }
.ground { fill: #ffffff }
.grid { stroke: #dddddd }
@media (prefers-color-scheme: dark) {
text { fill: #dddddd }
.faint { fill: #aaaaaa }
.ground { fill: #0d1117 }
.grid { stroke: #30363d }
}
";

/// A picture that is being drawn. Places are in pixels from the left and from the top.
#[derive(Debug, Default)]
pub(crate) struct Drawing {
    body: String,
}

impl Drawing {
    pub(crate) fn text(&mut self, x: f64, y: f64, anchor: &str, class: &str, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        self.add(format_args!(
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    pub(crate) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        self.add(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"
        ));
    }

    pub(crate) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.add(format_args!("<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    /// A path that is not filled, by its data.
    pub(crate) fn path(&mut self, data: &str, class: &str) {
        self.add(format_args!("<path class=\"{class}\" fill=\"none\" d=\"{data}\"/>"));
    }

    /// Both in one, the other above this.
    pub(crate) fn under(self, above: Self) -> Self {
        Self { body: self.body + &above.body }
    }

    /// The whole picture; `style` has the classes that are its own.
    pub(crate) fn finish(self, title: &str, width: f64, height: f64, style: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height:.0}\" viewBox=\"0 0 {width} \
             {height:.0}\">\n<title>{title}</title>\n<style>{STYLE}{style}</style>\n\
             <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n{}</svg>\n",
            self.body
        )
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string does not fail.
        _ = writeln!(self.body, "{element}");
    }
}

/// The data of a path over time, a dash for each step: from, to and height. Steps without a value part it; one that stands
/// alone is seen, too.
pub(crate) fn dashes(steps: impl Iterator<Item = Option<(f64, f64, f64)>>) -> String {
    let mut data = String::new();
    let mut pen = 'M';
    for step in steps {
        let Some((from, to, y)) = step else {
            pen = 'M';
            continue;
        };
        // Writing to a string does not fail.
        _ = write!(data, "{pen}{from:.1} {y:.1}H{to:.1}");
        pen = 'L';
    }
    data
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Every tag that is opened is closed, in order, and no text breaks out of it.
    pub(crate) fn assert_well_formed(svg: &str) {
        let mut open = Vec::new();
        for tag in svg.split('<').skip(1) {
            let (tag, text) = tag.split_once('>').expect("a tag has an end");
            assert!(!text.contains('>'), "{text}");
            assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split_whitespace().next().unwrap());
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }

    #[test]
    fn text_does_not_break_out_of_its_element() {
        let mut drawing = Drawing::default();
        drawing.text(1.0, 2.0, "start", "", "a < b & c > d");
        let svg = drawing.finish("title", 100.0, 50.0, "");
        assert_well_formed(&svg);
        assert!(svg.contains("a &lt; b &amp; c &gt; d"), "{svg}");
    }
}
