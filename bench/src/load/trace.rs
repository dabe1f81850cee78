//! Who did what when, from a file: lines of `offset,address,action`, the offset in seconds from the beginning.
//!
//! ```text
//! # seconds, address, action
//! 0.000,203.0.113.7,login
//! 0.250,198.51.100.9,login
//! 1.500,203.0.113.7,say
//! 9.000,203.0.113.7,cut
//! ```

use std::{collections::HashMap, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::plan::LONGEST;

/// What somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Action {
    /// Goes online.
    Login,
    /// Ends the session in order.
    Leave,
    /// Loses the connection without a word.
    Cut,
    /// Says something, in turn to the partner and to the room.
    Say,
    /// Asks for the path, over HTTP.
    Request,
}

impl Action {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "login" => Self::Login,
            "leave" => Self::Leave,
            "cut" => Self::Cut,
            "say" => Self::Say,
            "request" => Self::Request,
            _ => return None,
        })
    }

    fn fits(self, http: bool) -> bool {
        (self == Self::Request) == http
    }
}

/// One line.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// Seconds from the beginning.
    pub(crate) at: f64,
    /// By the order in which addresses appear.
    pub(crate) user: usize,
    pub(crate) action: Action,
}

impl Entry {
    pub(crate) fn due(&self) -> Duration {
        Duration::from_secs_f64(self.at)
    }
}

/// A whole file.
#[derive(Debug, PartialEq)]
pub(crate) struct Trace {
    /// In the order of time.
    pub(crate) entries: Vec<Entry>,
    /// By user.
    pub(crate) addresses: Vec<IpAddr>,
}

/// Reads a file for the IM protocol, or for HTTP.
///
/// # Errors
/// A line for each thing that is wrong, with its number.
pub(crate) fn parse(text: &str, http: bool) -> Result<Trace, Vec<String>> {
    let mut trace = Trace { entries: Vec::new(), addresses: Vec::new() };
    let mut users = HashMap::new();
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match parse_line(line, http) {
            Ok((at, address, action)) => {
                let user = *users.entry(address).or_insert_with(|| {
                    trace.addresses.push(address);
                    trace.addresses.len() - 1
                });
                trace.entries.push(Entry { at, user, action });
            }
            Err(why) => wrong.push(format!("line {number}: {why}")),
        }
    }
    if wrong.is_empty() && trace.entries.is_empty() {
        wrong.push("nothing happens in it".into());
    }
    trace.entries.sort_by(|one, other| one.at.total_cmp(&other.at));
    if wrong.is_empty() { Ok(trace) } else { Err(wrong) }
}

fn parse_line(line: &str, http: bool) -> Result<(f64, IpAddr, Action), String> {
    let fields: Vec<&str> = line.split(',').map(str::trim).collect();
    let [at, address, action] = fields[..] else {
        return Err(format!("{} fields instead of three: offset,address,action", fields.len()));
    };
    let seconds = at.parse::<f64>().ok().filter(|at| at.is_finite() && *at >= 0.0);
    let seconds = seconds.ok_or_else(|| format!("{at:?} is no time in seconds"))?;
    if seconds > LONGEST.as_secs_f64() {
        return Err(format!("{at:?} is later than the {} s of the longest run", LONGEST.as_secs()));
    }
    let address = address.parse().map_err(|error| format!("{address:?} is no address: {error}"))?;
    let known = if http { "request" } else { "login, leave, cut or say" };
    let action = Action::named(action)
        .filter(|action| action.fits(http))
        .ok_or_else(|| format!("{action:?} is no action here: {known}"))?;
    Ok((seconds, address, action))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_addresses_and_lines_are_put_in_order() {
        let text = "# a comment\n\n1.5, 203.0.113.7 ,say\n0,198.51.100.9,login\n0.25,203.0.113.7,login\n";
        let trace = parse(text, false).unwrap();
        let entry = |at, user, action| Entry { at, user, action };
        assert_eq!(
            trace.entries,
            [entry(0.0, 1, Action::Login), entry(0.25, 0, Action::Login), entry(1.5, 0, Action::Say)]
        );
        assert_eq!(trace.addresses.len(), 2);
    }

    #[test]
    fn everything_that_is_wrong_is_said_with_its_line() {
        let wrong =
            parse("1,2\n-1,203.0.113.7,say\n1,here,say\n\n1,203.0.113.7,request\n1e30,203.0.113.7,say\n", false)
                .unwrap_err();
        assert_eq!(
            wrong,
            [
                "line 1: 2 fields instead of three: offset,address,action",
                "line 2: \"-1\" is no time in seconds",
                "line 3: \"here\" is no address: invalid IP address syntax",
                "line 5: \"request\" is no action here: login, leave, cut or say",
                "line 6: \"1e30\" is later than the 3600 s of the longest run",
            ]
        );
        assert!(parse("1,203.0.113.7,request\n", true).is_ok());
        assert_eq!(parse("# nothing\n", true).unwrap_err(), ["nothing happens in it"]);
    }
}
