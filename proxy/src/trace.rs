//! A trace: who came when, from where, and for how long. One JSON object a line.
//!
//! The access log is a trace as it stands, which is why the fields have its names. What a replay does not need may be left
//! out, and a line may carry a place instead of an address. docs/simulate.md documents the format.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use geoip::{ContinentCode, Coordinates, CountryCode, Place, continent_of};
use policies::Kind;
use serde::{Deserialize, Serialize};

/// Broken lines that a trace may have; with one more it is not believed.
pub const MOST_BROKEN: u64 = 10;

/// From the earliest client to the latest: more is a slip, such as seconds where milliseconds are meant.
pub const LONGEST_SPAN: Duration = Duration::from_secs(400 * 86_400);

/// Bytes of a line at most: a file without line ends is no trace, and is not read into memory to find out.
const LONGEST_LINE: usize = 1024 * 1024;

/// One client that came: what can be replayed of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Visit<'a> {
    /// When, since 1970.
    pub at: Duration,
    /// For how long it stayed.
    pub lasts: Duration,
    pub kind: Kind,
    pub address: Option<IpAddr>,
    /// Where it was, if the line says so itself; that counts more than what a database knows of the address.
    pub place: Option<Place>,
    pub listener: Option<&'a str>,
    pub route: Option<&'a str>,
    pub cluster: Option<&'a str>,
    pub host: Option<&'a str>,
    pub path: Option<&'a str>,
}

/// How many lines of each sort a trace had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Lines {
    pub clients: u64,
    /// About something else: connections that asked for nothing, and what else stands in a log.
    pub skipped: u64,
    pub broken: u64,
}

/// A line that says something of a client, but nothing that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub file: String,
    /// From 1.
    pub line: u64,
    pub message: String,
    /// The way out.
    pub help: &'static str,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: error: {}\n   help: {}", self.file, self.line, self.message, self.help)
    }
}

/// Why a trace was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    #[error("{file}:{line} cannot be read")]
    Read {
        file: String,
        line: u64,
        #[source]
        cause: io::Error,
    },
    #[error("{file}:{line} is longer than 1 MiB: a trace has one JSON object a line")]
    NoLines { file: String, line: u64 },
    #[error(
        "{file}: more than {MOST_BROKEN} lines are broken, the last one read is line {line}; is this a trace or an access log?"
    )]
    TooManyBroken { file: String, line: u64 },
    #[error(
        "{file}:{earliest} is {} days before the latest, {file}:{latest}: a trace spans {} days at most, and `time_ms` is \
         in milliseconds since 1970",
        days(*.span), days(LONGEST_SPAN)
    )]
    TooLong { file: String, earliest: u64, latest: u64, span: Duration },
}

/// Reads a trace and hands over its clients as they come. `file` is what problems call it; each broken line goes to
/// `complain` and is left out.
///
/// # Errors
/// When it cannot be read, when more than [`MOST_BROKEN`] lines are broken, or when it spans more than [`LONGEST_SPAN`].
pub fn read(
    mut input: impl BufRead,
    file: &str,
    mut take: impl FnMut(&Visit<'_>),
    mut complain: impl FnMut(&Broken),
) -> Result<Lines, TraceError> {
    let mut lines = Lines::default();
    let mut span = Span::default();
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        let limited = &mut (&mut input).take(LONGEST_LINE as u64);
        match limited.read_until(b'\n', &mut bytes) {
            Ok(0) => break,
            Ok(LONGEST_LINE) if bytes.last() != Some(&b'\n') => {
                return Err(TraceError::NoLines { file: file.to_owned(), line });
            }
            Ok(_) => {}
            Err(cause) => return Err(TraceError::Read { file: file.to_owned(), line, cause }),
        }
        let text = bytes.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match with_visit(text, &mut take) {
            Ok(Found::Client { at }) => {
                lines.clients += 1;
                span.add(at, line);
            }
            Ok(Found::SomethingElse) => lines.skipped += 1,
            Err((message, help)) => {
                lines.broken += 1;
                complain(&Broken { file: file.to_owned(), line, message, help });
                if lines.broken > MOST_BROKEN {
                    return Err(TraceError::TooManyBroken { file: file.to_owned(), line });
                }
            }
        }
    }
    span.check(file)?;
    Ok(lines)
}

/// The earliest and the latest client, each with its line.
#[derive(Default)]
struct Span(Option<[(Duration, u64); 2]>);

impl Span {
    fn add(&mut self, at: Duration, line: u64) {
        let [earliest, latest] = self.0.get_or_insert([(at, line); 2]);
        if at < earliest.0 {
            *earliest = (at, line);
        }
        if at > latest.0 {
            *latest = (at, line);
        }
    }

    fn check(&self, file: &str) -> Result<(), TraceError> {
        let Some([(first, earliest), (last, latest)]) = self.0 else { return Ok(()) };
        let span = last - first;
        if span > LONGEST_SPAN {
            return Err(TraceError::TooLong { file: file.to_owned(), earliest, latest, span });
        }
        Ok(())
    }
}

/// Whole ones.
pub fn days(time: Duration) -> u64 {
    time.as_secs() / 86_400
}

enum Found {
    Client { at: Duration },
    SomethingElse,
}

/// What is wrong, and the way out.
type Wrong = (String, &'static str);

/// The fields that are read; an access log has more.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Line<'a> {
    time_ms: Option<u64>,
    seconds: Option<f64>,
    #[serde(borrow)]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    client: Option<Text<'a>>,
    #[serde(borrow)]
    listener: Option<Text<'a>>,
    #[serde(borrow)]
    route: Option<Text<'a>>,
    #[serde(borrow)]
    cluster: Option<Text<'a>>,
    #[serde(borrow)]
    host: Option<Text<'a>>,
    #[serde(borrow)]
    path: Option<Text<'a>>,
    #[serde(borrow)]
    country: Option<Text<'a>>,
    #[serde(borrow)]
    continent: Option<Text<'a>>,
    #[serde(borrow)]
    subdivision: Option<Text<'a>>,
    location: Option<[f64; 2]>,
    asn: Option<u32>,
}

/// A text that is borrowed from the line unless it has escapes. (A bare `Cow` inside an `Option` is always copied.)
#[derive(Debug, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn with_visit(text: &[u8], take: &mut impl FnMut(&Visit<'_>)) -> Result<Found, Wrong> {
    let line: Line<'_> = serde_json::from_slice(text)
        .map_err(|error| (said(&error), "a line is one JSON object; docs/simulate.md lists its fields"))?;
    let kind = match line.kind.as_deref() {
        None | Some("tcp" | "upgrade" | "tunnel") => Kind::Tunnel,
        Some("request") => Kind::Request,
        Some(_) => return Ok(Found::SomethingElse),
    };
    // The edge's other lines (it is ready, an event happened) have none of these.
    if line.time_ms.is_none() && line.seconds.is_none() && line.client.is_none() {
        return Ok(Found::SomethingElse);
    }
    let visit = line.visit(kind)?;
    take(&visit);
    Ok(Found::Client { at: visit.at })
}

/// serde's message without the position, which counts inside the line.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line ") {
        Some((message, _)) => format!("not a line of a trace: {message} (column {})", error.column()),
        None => format!("not a line of a trace: {text}"),
    }
}

impl Line<'_> {
    fn visit(&self, kind: Kind) -> Result<Visit<'_>, Wrong> {
        let time = self.time_ms.ok_or_else(|| {
            ("`time_ms` is missing".to_owned(), "say when the client came, in milliseconds since 1970")
        })?;
        let seconds = self
            .seconds
            .ok_or_else(|| ("`seconds` is missing".to_owned(), "say for how long the client stayed; 0 is allowed"))?;
        Ok(Visit {
            at: Duration::from_millis(time),
            lasts: lasted(seconds)?,
            kind,
            address: self.client.as_deref().map(address).transpose()?,
            place: self.place()?,
            listener: self.listener.as_deref(),
            route: self.route.as_deref(),
            cluster: self.cluster.as_deref(),
            host: self.host.as_deref(),
            path: self.path.as_deref(),
        })
    }

    fn place(&self) -> Result<Option<Place>, Wrong> {
        let country = self.country.as_deref().map(country).transpose()?;
        let continent = self.continent.as_deref().map(continent).transpose()?;
        let place = Place {
            continent: continent.or_else(|| country.and_then(continent_of)),
            country,
            subdivision: self.subdivision.as_deref().map(str::to_owned),
            city: None,
            location: self.location.map(location).transpose()?,
            accuracy_radius_km: None,
            asn: self.asn,
        };
        Ok((!place.is_unknown()).then_some(place))
    }
}

impl std::ops::Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// More than ten years is a slip, and would overflow clocks that add it to a date.
fn lasted(seconds: f64) -> Result<Duration, Wrong> {
    const TEN_YEARS: f64 = 3650.0 * 86_400.0;
    match seconds {
        0.0..=TEN_YEARS => Ok(Duration::from_secs_f64(seconds)),
        _ => Err((format!("`seconds` is {seconds}"), "it must be from 0 to ten years")),
    }
}

/// With or without a port.
fn address(text: &str) -> Result<IpAddr, Wrong> {
    let parsed = text.parse::<SocketAddr>().map(|socket| socket.ip()).or_else(|_| text.parse::<IpAddr>());
    parsed.map(|address| address.to_canonical()).map_err(|_cause| {
        (format!("`client` is no address: `{}`", text.escape_debug()), "write an IP address, with or without a port")
    })
}

fn country(text: &str) -> Result<CountryCode, Wrong> {
    CountryCode::parse(text).ok_or_else(|| {
        (format!("no country has the code `{}`", text.escape_debug()), "use the two letters of ISO 3166-1, such as SG")
    })
}

fn continent(text: &str) -> Result<ContinentCode, Wrong> {
    ContinentCode::parse(text).ok_or_else(|| {
        (format!("no continent has the code `{}`", text.escape_debug()), "one of AF, AN, AS, EU, NA, OC, SA")
    })
}

fn location([latitude, longitude]: [f64; 2]) -> Result<Coordinates, Wrong> {
    Coordinates::new(latitude, longitude).ok_or_else(|| {
        (format!("[{latitude}, {longitude}] is no place on Earth"), "`location` is [latitude, longitude] in degrees")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a trace: a word for each client, each complaint, and the count of lines.
    fn check(trace: &str, clients: &[&str], complaints: &[&str]) -> Lines {
        let (mut seen, mut said) = (Vec::new(), Vec::new());
        let lines = read(
            trace.as_bytes(),
            "t",
            |visit| seen.push(format!("{:?} {:?} {:?}", visit.at, visit.lasts, visit.kind)),
            |broken| said.push(broken.to_string()),
        );
        assert_eq!(
            (seen, said),
            (clients.iter().map(|s| s.to_string()).collect(), complaints.iter().map(|s| s.to_string()).collect())
        );
        lines.unwrap()
    }

    #[test]
    fn a_line_needs_a_time_and_a_length_and_counts_as_a_tunnel() {
        let trace = "{\"time_ms\":1500,\"seconds\":2.5}\n\n{\"time_ms\":2000,\"seconds\":0,\"kind\":\"request\"}";
        let lines = check(trace, &["1.5s 2.5s Tunnel", "2s 0ns Request"], &[]);
        assert_eq!(lines, Lines { clients: 2, skipped: 0, broken: 0 });
    }

    #[test]
    fn what_is_about_something_else_is_skipped() {
        let trace = "{\"time_ms\":1,\"kind\":\"connection\",\"seconds\":1}\n{\"ready\":true}\n{\"time_ms\":1,\"seconds\":1,\"kind\":\"tcp\"}\n";
        let lines = check(trace, &["1ms 1s Tunnel"], &[]);
        assert_eq!(lines, Lines { clients: 1, skipped: 2, broken: 0 });
    }

    #[test]
    fn a_broken_line_is_told_with_its_place_and_the_way_out() {
        let broken = |line: &str, want: &str| check(line, &[], &[want]);
        broken(
            "{\"time_ms\":1}",
            "t:1: error: `seconds` is missing\n   help: say for how long the client stayed; 0 is allowed",
        );
        broken(
            "{\"seconds\":1}",
            "t:1: error: `time_ms` is missing\n   help: say when the client came, in milliseconds since 1970",
        );
        broken(
            "\n{\"time_ms\":1,\"seconds\":1,\"client\":\"x\"}",
            "t:2: error: `client` is no address: `x`\n   help: write an IP address, with or without a port",
        );
        broken(
            "{\"time_ms\":1,\"seconds\":-1}",
            "t:1: error: `seconds` is -1\n   help: it must be from 0 to ten years",
        );
        broken(
            "{\"time_ms\":1,\"seconds\":1,\"location\":[95,0]}",
            "t:1: error: [95, 0] is no place on Earth\n   help: `location` is [latitude, longitude] in degrees",
        );
        broken(
            "{\"time_ms\":",
            "t:1: error: not a line of a trace: EOF while parsing a value (column 11)\n   help: a line is one JSON \
             object; docs/simulate.md lists its fields",
        );
    }

    #[test]
    fn addresses_come_with_or_without_a_port_and_places_instead_of_them() {
        let trace = "{\"time_ms\":1,\"seconds\":1,\"client\":\"[::ffff:192.0.2.1]:99\"}\n\
                     {\"time_ms\":1,\"seconds\":1,\"client\":\"2001:db8::1\",\"country\":\"sg\",\"asn\":7}\n";
        let mut seen = Vec::new();
        read(trace.as_bytes(), "t", |visit| seen.push((visit.address, visit.place.clone())), |_| {}).unwrap();
        assert_eq!(seen[0], (Some("192.0.2.1".parse().unwrap()), None));
        let place = seen[1].1.clone().unwrap();
        assert_eq!((place.country, place.continent), (CountryCode::parse("SG"), Some(ContinentCode::ASIA)));
        assert_eq!(place.asn, Some(7));
    }

    #[test]
    fn a_file_that_is_no_trace_is_given_up() {
        let nonsense = "nonsense\n".repeat(50);
        let mut told = 0;
        let error = read(nonsense.as_bytes(), "t", |_| {}, |_| told += 1).unwrap_err();
        assert_eq!((told, error.to_string().contains("line 11")), (11, true), "{error}");
        let endless = vec![b' '; LONGEST_LINE + 1];
        let error = read(&endless[..], "t", |_| {}, |_| {}).unwrap_err();
        assert!(matches!(error, TraceError::NoLines { line: 1, .. }), "{error}");
    }
}
