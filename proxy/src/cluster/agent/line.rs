//! One line of HAProxy's agent protocol (its configuration manual, section 5.2, `agent-check`).
//!
//! Words in any order, separated by blanks, tabs or commas, up to the end of the line; letters may be of either case.
//! What a line does not name stays as it was, so a word that is not known does no harm: it is reported.

use std::num::NonZeroU32;

/// How much of a description or of an unknown word is kept, in characters.
const KEPT: usize = 128;
/// The largest percentage: far beyond what an operator would mean, and safe to multiply.
const MOST_PERCENT: u16 = 10_000;

/// What an agent said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// Of the configured weight.
    pub weight_percent: Option<u16>,
    pub max_connections: Option<MaxConnections>,
    pub administration: Option<Administration>,
    pub operation: Option<Operation>,
    /// The first word that is not known.
    pub unclear: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxConnections {
    /// `maxconn:0`: what the configuration says.
    Configured,
    Limit(NonZeroU32),
}

/// What the agent wants to be done with its endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Administration {
    #[default]
    Ready,
    Drain,
    Maint,
}

/// How the agent finds its endpoint to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Up,
    /// `down`, `fail` or `stopped`, with the description behind it.
    Down(String),
}

impl Line {
    /// Reads the first line of `bytes`. Of words that contradict each other the last one counts.
    pub fn parse(bytes: &[u8]) -> Line {
        let first = bytes.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let text = String::from_utf8_lossy(first);
        let (words, description) = match text.split_once('#') {
            Some((words, description)) => (words, kept(description.trim())),
            None => (&*text, String::new()),
        };
        let mut line = Line::default();
        for word in words.split([' ', '\t', ',']).filter(|word| !word.is_empty()) {
            line.take(&word.to_ascii_lowercase(), &description);
        }
        line
    }

    fn take(&mut self, word: &str, description: &str) {
        match word {
            "ready" => self.administration = Some(Administration::Ready),
            "drain" => self.administration = Some(Administration::Drain),
            "maint" => self.administration = Some(Administration::Maint),
            "up" => self.operation = Some(Operation::Up),
            "down" | "fail" | "failed" | "stopped" => {
                let reason = if description.is_empty() { word.to_owned() } else { format!("{word}: {description}") };
                self.operation = Some(Operation::Down(reason));
            }
            _ => match (percent(word), max_connections(word)) {
                (Some(percent), _) => self.weight_percent = Some(percent),
                (_, Some(limit)) => self.max_connections = Some(limit),
                (None, None) => _ = self.unclear.get_or_insert_with(|| kept(word)),
            },
        }
    }
}

/// `75%`, and `weight:75%` as some agents write it. A number without `%` is none: HAProxy's manual has percentages only,
/// and its parser skips a bare number as a word that it does not know.
fn percent(word: &str) -> Option<u16> {
    let number = word.strip_prefix("weight:").unwrap_or(word).strip_suffix('%')?;
    digits(number)?.parse().ok().filter(|percent| *percent <= MOST_PERCENT)
}

fn max_connections(word: &str) -> Option<MaxConnections> {
    let limit: u32 = digits(word.strip_prefix("maxconn:")?)?.parse().ok()?;
    Some(NonZeroU32::new(limit).map_or(MaxConnections::Configured, MaxConnections::Limit))
}

/// `+5` is a number for Rust, and none for HAProxy.
fn digits(text: &str) -> Option<&str> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then_some(text)
}

fn kept(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(KEPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn down(reason: &str) -> Option<Operation> {
        Some(Operation::Down(reason.to_owned()))
    }

    fn limit(connections: u32) -> Option<MaxConnections> {
        NonZeroU32::new(connections).map(MaxConnections::Limit)
    }

    #[test]
    fn every_word_of_the_manual_is_understood() {
        let check = |text: &str, want: Line| assert_eq!(Line::parse(text.as_bytes()), want, "{text:?}");
        check("", Line::default());
        check("75%\n", Line { weight_percent: Some(75), ..Line::default() });
        check("weight:150%", Line { weight_percent: Some(150), ..Line::default() });
        check("maxconn:30\r\n", Line { max_connections: limit(30), ..Line::default() });
        check("maxconn:0", Line { max_connections: Some(MaxConnections::Configured), ..Line::default() });
        check("ready", Line { administration: Some(Administration::Ready), ..Line::default() });
        check("DRAIN", Line { administration: Some(Administration::Drain), ..Line::default() });
        check("maint", Line { administration: Some(Administration::Maint), ..Line::default() });
        check("up", Line { operation: Some(Operation::Up), ..Line::default() });
        check("fail", Line { operation: down("fail"), ..Line::default() });
        check("stopped #by hand, 50% done", Line { operation: down("stopped: by hand, 50% done"), ..Line::default() });
        check(
            "up,ready\t50%  maxconn:7\nmaint",
            Line {
                weight_percent: Some(50),
                max_connections: limit(7),
                administration: Some(Administration::Ready),
                operation: Some(Operation::Up),
                unclear: None,
            },
        );
        check(
            "drain 0% down#disk",
            Line {
                weight_percent: Some(0),
                administration: Some(Administration::Drain),
                operation: down("down: disk"),
                ..Line::default()
            },
        );
    }

    #[test]
    fn a_word_that_is_not_known_is_reported_and_the_others_count() {
        for word in [
            "hello",
            "75",
            "weight:75",
            "%",
            "-5%",
            "+5%",
            "10001%",
            "99999%",
            "maxconn:",
            "maxconn:x",
            "maxconn:5000000000",
        ] {
            let line = Line::parse(format!("{word} 10%").as_bytes());
            assert_eq!((line.weight_percent, line.unclear.as_deref()), (Some(10), Some(word)));
        }
    }

    #[test]
    fn a_description_cannot_forge_the_log() {
        let line = Line::parse(format!("down#\x1b[31m{}", "x".repeat(1000)).as_bytes());
        let Some(Operation::Down(reason)) = line.operation else { panic!("{line:?}") };
        assert!(reason.starts_with("down: [31mxxx") && reason.len() < 150, "{reason:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Line::parse(&bytes);
        }

        #[test]
        fn words_in_any_order_say_the_same(
            words in Just(vec!["up", "drain", "40%", "maxconn:9", "nonsense"]).prop_shuffle(),
            separators in prop::collection::vec("[ \t,]{1,3}", 5),
        ) {
            let text: String = words.iter().zip(&separators).map(|(word, gap)| format!("{word}{gap}")).collect();
            let line = Line::parse(text.as_bytes());
            prop_assert_eq!(line, Line {
                weight_percent: Some(40),
                max_connections: limit(9),
                administration: Some(Administration::Drain),
                operation: Some(Operation::Up),
                unclear: Some("nonsense".into()),
            });
        }
    }
}
