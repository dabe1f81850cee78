//! The answer for people: one page of columns.

use std::fmt::{self, Write};

use super::{Answer, Endpoint, KnownBy, Locality};

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let asn = self.place.asn.map_or_else(|| "-".into(), |asn| format!("AS{asn}"));
        write!(f, "client    {}", self.from)?;
        write!(f, "  {asn}  country {}", or_dash(&self.place.country))?;
        if let Some(subdivision) = &self.place.subdivision {
            write!(f, "  subdivision {subdivision}")?;
        }
        write!(f, "  continent {}", or_dash(&self.place.continent))?;
        if let Some([latitude, longitude]) = self.place.location {
            write!(f, "  at {latitude:.2},{longitude:.2}")?;
        }
        writeln!(f, "  ({})", self.place.source)?;
        write!(f, "listener  {}", self.listener)?;
        if let Some(route) = &self.route {
            write!(f, "  route {route}")?;
        }
        writeln!(f, "  cluster {}  {} by {}", self.cluster, self.kind, self.policy)?;
        writeln!(f, "class     cell {}  steered by {}", self.class.cell, self.steer.join(", "))?;
        match &self.class.matched {
            Some(matched) => writeln!(f, "rule      {matched}")?,
            None => writeln!(f, "rule      none")?,
        }
        if let Some(known_by) = &self.known_by {
            writeln!(f, "known by  {known_by}")?;
        }
        if let Some(remembered) = &self.remembered {
            let verdict = if remembered.applies { "brought back there" } else { "which cannot take it now" };
            writeln!(f, "had       {}, {verdict}", remembered.endpoint)?;
        }
        writeln!(
            f,
            "\n{:<16} {:>4} {:>5} {:>10} {:>12} {:>10} {:>8} {:>6}",
            "locality", "tier", "rule", "distance", "rtt", "confidence", "priority", "share"
        )?;
        for locality in &self.localities {
            writeln!(f, "{locality}")?;
        }
        writeln!(
            f,
            "\n{:<28} {:<16} {:<12} {:>6} {:>11}  may be picked",
            "endpoint", "locality", "standing", "weight", "connections"
        )?;
        for endpoint in &self.endpoints {
            writeln!(f, "{endpoint}")?;
        }
        write!(f, "\ncompared  {}", self.tie_break)?;
        match (&self.pick, &self.refused) {
            (Some(pick), _) => {
                write!(f, "\npick      {} in {} (tier {}, {})", pick.endpoint, pick.locality, pick.tier, pick.reason)
            }
            (None, Some(refused)) => write!(f, "\nrefused   {refused}"),
            (None, None) => f.write_char('\n'),
        }
    }
}

impl fmt::Display for KnownBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source.as_deref().unwrap_or("nothing of `hash-on`"))?;
        if let Some(user) = &self.user {
            write!(f, " {}", user.escape_debug())?;
        }
        match &self.token_refused {
            Some(why) => write!(f, "  (its token does not count: {why})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let band = |band: Option<String>| band.map_or_else(String::new, |band| format!(" b{band}"));
        let distance = self.distance_km.map_or_else(
            || "-".to_owned(),
            |km| format!("{km:.0} km{}", band(self.distance_band.map(|band| band.to_string()))),
        );
        let rtt = self.rtt_ms.map_or_else(
            || "-".to_owned(),
            |ms| {
                format!(
                    "{}{ms:.1} ms{}",
                    if self.rtt_measured { "" } else { "~" },
                    band(self.rtt_band.map(|band| band.to_string()))
                )
            },
        );
        let confidence = match self.rtt_confidence {
            Some(confidence) => format!("{:.0}%", confidence * 100.0),
            None if self.rtt_ms.is_some() => "prior".to_owned(),
            None => "-".to_owned(),
        };
        let tier = self.tier.map_or_else(|| "never".to_owned(), |tier| tier.to_string());
        let panic = if self.panic { " panic" } else { "" };
        write!(
            f,
            "{:<16} {tier:>4} {:>5} {distance:>10} {rtt:>12} {confidence:>10} {:>8} {:>5}%{panic}",
            self.name,
            self.preference.map_or_else(|| "-".to_owned(), |preference| preference.to_string()),
            self.priority,
            self.load_percent
        )?;
        if self.degraded_percent > 0 {
            write!(f, " +{}% to degraded ones", self.degraded_percent)?;
        }
        match (&self.share_by, self.share_percent) {
            (None, _) => Ok(()),
            (Some(by), 0) => write!(f, "  disabled {by}"),
            (Some(by), percent) => write!(f, "  held to {percent}% {by}"),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = match self.max_connections {
            Some(max) => format!("{}/{max}", self.connections),
            None => self.connections.to_string(),
        };
        write!(
            f,
            "{:<28} {:<16} {:<12} {:>6} {connections:>11}  {}",
            self.name, self.locality, self.standing, self.weight, self.eligibility
        )?;
        if self.standing != "up" {
            write!(f, " ({}: {}, for {} s", self.source, self.reason, self.since_seconds)?;
            if let Some(left) = self.seconds_left {
                write!(f, ", until in {left} s")?;
            }
            f.write_char(')')?;
        }
        if self.degraded {
            f.write_str(" (degraded)")?;
        }
        if self.ramp < 1.0 {
            write!(f, " (slow start: {:.0}%)", self.ramp * 100.0)?;
        }
        if let Some(by) = &self.weight_by {
            write!(f, " (weight {by}; {} in the files)", self.configured_weight)?;
        }
        Ok(())
    }
}
