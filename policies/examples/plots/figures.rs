//! Each figure of the page: what was asked, the table, and the plot.

use std::time::Duration;

use policies::{BalanceFactor, Policy, RingSize, SlowStart, Tick};

use crate::{
    bins,
    chart::{Axis, Chart, Line, Style},
    edge::best_of,
    keys, members, newcomer, queues, storm,
};

const SEED: u64 = 1;

pub(crate) struct Figure {
    pub(crate) text: String,
    pub(crate) chart: Option<(&'static str, Chart)>,
}

pub(crate) fn all() -> Vec<Figure> {
    vec![
        fullest_endpoint(),
        mean_time(),
        old_information(),
        new_endpoint(),
        slow_start(),
        reconnects(),
        bounded_load(),
        disruption(),
    ]
}

fn fullest_endpoint() -> Figure {
    let runs = |n: u32| if n < 100_000 { 10 } else { 3 };
    let mean = |choices: u8, n: u32| {
        let of_run = |run| bins::fullest(&bins::throw(choices, n, n, SEED * 100 + run)) as f64;
        (0..runs(n)).map(of_run).sum::<f64>() / runs(n) as f64
    };
    let sizes = [10, 100, 1000, 10_000, 100_000];
    let lines: Vec<Line> = (1..=4)
        .map(|choices| line(&names_of(choices), Style::Both, sizes.map(|n| (f64::from(n), mean(choices, n)))))
        .collect();
    let rows = sizes.iter().enumerate().map(|(at, n)| {
        let published = f64::from(*n).ln().ln() / 2_f64.ln();
        let cells: Vec<String> = lines.iter().map(|line| format!("{:.1}", line.points[at].1)).collect();
        format!("| {n} | {} | {published:.1} |", cells.join(" | "))
    });
    let text = section(
        "The fullest endpoint",
        "As many clients as endpoints, nobody leaves. One choice: about ln n / ln ln n. With d choices ln ln n / ln d and a \
         constant (Azar, Broder, Karlin and Upfal, \"Balanced Allocations\", SIAM J. Comput. 29, 1999). With many more clients \
         than endpoints, two choices keep the fullest at most 4 over the mean however many there are, and one choice does not \
         (Berenbrink and others, STOC 2000). `policies/tests/simulation/bins.rs`",
        "| endpoints | random | 2 choices | 3 choices | 4 choices | ln ln n / ln 2 |\n|---|---|---|---|---|---|",
        rows,
        Some("fullest-endpoint"),
    );
    let chart = Chart {
        title: "Clients at the fullest endpoint, one client for each endpoint",
        x: Axis::logarithmic("endpoints", &[10.0, 100.0, 1000.0, 10_000.0, 100_000.0]),
        y: Axis::linear("clients", &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        lines,
    };
    Figure { text, chart: Some(("fullest-endpoint", chart)) }
}

fn mean_time() -> Figure {
    let simulated = |choices: u8, load: f64| {
        let scenario = queues::Scenario { servers: 200, load, time: 3000.0, seed: SEED };
        queues::run(best_of(choices), queues::Knowledge::Live, &scenario).mean_time
    };
    let choices = [1, 2, 3, 5];
    let loads = [0.5, 0.7, 0.8, 0.9, 0.95];
    let mut lines = Vec::new();
    let dots: Vec<Line> = choices
        .iter()
        .map(|&choices| line(&names_of(choices), Style::Dots, loads.map(|load| (load, simulated(choices, load)))))
        .collect();
    for &choices in &choices {
        let curve =
            (0..=97_u8).map(|percent| f64::from(percent) / 100.0).map(|load| (load, queues::limit(choices, load)));
        lines.push(line(&names_of(choices), Style::Curve, curve));
    }
    let rows = loads.iter().enumerate().map(|(at, &load)| {
        let cells = choices
            .iter()
            .zip(&dots)
            .map(|(&choices, dots)| format!("{:.2} ({:.2})", queues::limit(choices, load), dots.points[at].1));
        format!("| {load} | {} |", cells.collect::<Vec<_>>().join(" | "))
    });
    let text = section(
        "Time in queues",
        "Requests come at random, each server serves one at a time, and what counts is the mean time from arrival to answer, in \
         mean times of a service. Closed forms for infinitely many servers (Mitzenmacher, \"The Power of Two Choices in \
         Randomized Load Balancing\", IEEE TPDS 12, 2001), and in parentheses 200 simulated ones; the tests allow 6 to 10 %, and \
         20 % for one choice at 0.9, where chance is large. `policies/tests/simulation/queues.rs`",
        "| load | random | 2 choices | 3 choices | 5 choices |\n|---|---|---|---|---|",
        rows,
        Some("mean-time"),
    );
    lines.extend(dots);
    let chart = Chart {
        title: "Mean time of a request: formula (lines) and simulation (dots)",
        x: Axis::linear("load", &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        y: Axis::linear("mean times of a service", &[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]),
        lines,
    };
    Figure { text, chart: Some(("mean-time", chart)) }
}

fn old_information() -> Figure {
    let at = |policy, every: f64| {
        let scenario = queues::Scenario { servers: 100, load: 0.9, time: 1500.0, seed: SEED };
        queues::run(policy, queues::Knowledge::Board { every }, &scenario).mean_time
    };
    let ages = [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];
    let [two, all] = [Policy::P2C, Policy::LeastConnections].map(|policy| ages.map(|every| (every, at(policy, every))));
    let rows = ages.iter().enumerate().map(|(at, age)| format!("| {age} | {:.1} | {:.1} | 10 |", two[at].1, all[at].1));
    let text = section(
        "Old information",
        "The same queues at a load of 0.9, but edges see them as a shared board showed them when it was last written. The less \
         loaded of two stays better than random until the board is about 30 services old, while the apparently least loaded of all \
         is stampeded (Mitzenmacher, \"How Useful Is Old Information?\", IEEE TPDS 11, 2000). The figures are our own, over 1500 services; \
         the last of least-connections still grows. Each edge of \
         warbler counts its own clients without delay; what other edges send is what it does not see. \
         `policies/tests/simulation/queues.rs`",
        "| the board is written every | p2c | least-connections | random |\n|---|---|---|---|",
        rows,
        Some("old-information"),
    );
    let chart = Chart {
        title: "Mean time of a request at 0.9 load, by the age of what is known",
        x: Axis::logarithmic("mean times of a service between updates", &[0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0]),
        y: Axis::logarithmic("mean times of a service", &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0]),
        lines: vec![
            line("p2c", Style::Both, two),
            line("least-connections", Style::Both, all),
            line("random", Style::Curve, [(0.1, 10.0), (50.0, 10.0)]),
        ],
    };
    Figure { text, chart: Some(("old-information", chart)) }
}

fn new_endpoint() -> Figure {
    let policies = [
        ("least-connections", Policy::LeastConnections, 1.0),
        ("p2c, 4 choices", Policy::P2c { choices: 4 }, 0.366),
        ("p2c", Policy::P2C, 0.199),
        ("round-robin", Policy::RoundRobin, 0.1),
    ];
    let rows = policies.map(|(name, policy, share)| {
        let outcome = newcomer::run(&newcomer::Scenario::of(policy, SEED), 6000);
        let level = outcome.level_after.map_or_else(|| "over 6000".to_owned(), |level| format!("{level:.0}"));
        let formula = newcomer::level_after(share);
        format!("| {name} | {:.0} % | {level} s | {formula:.0} s |", 100.0 * outcome.share(0..60))
    });
    let text = section(
        "An endpoint that comes back empty",
        "Ten endpoints, 20 000 tunnels of half an hour on average. Among d choices the newcomer gets at most d shares of what \
         comes. That protects it, and levelling takes longer: `-lifetime · ln(1 − 0.9 / (share · 10))` until it has nine tenths of \
         the average. `policies/tests/simulation/newcomer.rs`",
        "| policy | its share of the first minute | nine tenths of the average after | by the formula |\n|---|---|---|---|",
        rows,
        None,
    );
    Figure { text, chart: None }
}

fn slow_start() -> Figure {
    let curve = |aggression: f64| {
        let slow_start =
            SlowStart { window: Duration::from_secs(60), aggression, least_percent: SlowStart::LEAST_PERCENT };
        (0..=60_u32).map(move |second| {
            let ramp = slow_start.ramp(Some(Tick::default()), Tick(Duration::from_secs(second.into())));
            (f64::from(second), f64::from(ramp.per_mille()) / 10.0)
        })
    };
    let minute =
        SlowStart { window: Duration::from_secs(60), aggression: 1.0, least_percent: SlowStart::LEAST_PERCENT };
    let rows = [
        ("p2c, a rush of 20 times the usual", Policy::P2C, 20.0, None),
        ("least-connections, a rush of 20 times the usual", Policy::LeastConnections, 20.0, None),
        ("least-connections, the usual arrivals", Policy::LeastConnections, 1.0, None),
        ("least-connections, the usual arrivals, `accept-rate = \"5/s\"`", Policy::LeastConnections, 1.0, Some(5.0)),
    ]
    .map(|(name, policy, rush, accept_rate)| {
        let without = newcomer::Scenario { rush, accept_rate, ..newcomer::Scenario::of(policy, SEED) };
        let with = newcomer::Scenario { slow_start: Some(minute), ..without };
        let [without, with] = [without, with].map(|scenario| {
            let outcome = newcomer::run(&scenario, 60);
            [0..6, 27..33, 54..60].map(|seconds| format!("{:.0}", 100.0 * outcome.share(seconds)))
        });
        format!("| {name} | {} | {} |", without.join(", "), with.join(", "))
    });
    let text = section(
        "Slow start",
        "`max(least, (t / window)^(1 / aggression))` of the weight, as in Envoy (arch_overview/upstream/load_balancing/slow_start). \
         The same ten endpoints; the share in percent of what comes that the newcomer gets in the seconds 0 to 6, 27 to 33 and 54 \
         to 60 of a minute. With least-connections the ramp bounds how full the newcomer is, so until it is that full it gets \
         everything: there only `accept-rate` keeps a rush away. `policies/tests/simulation/newcomer.rs`, \
         `policies/src/slow_start.rs`",
        "| | without slow start | with a slow start of a minute |\n|---|---|---|",
        rows,
        Some("slow-start"),
    );
    let chart = Chart {
        title: "Slow start of a minute: share of the weight, by aggression",
        x: Axis::linear("seconds since it came up", &[0.0, 15.0, 30.0, 45.0, 60.0]),
        y: Axis::linear("percent", &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0]),
        lines: [("aggression 2", 2.0), ("aggression 1", 1.0), ("aggression 0.5", 0.5)]
            .map(|(name, aggression)| line(name, Style::Curve, curve(aggression)))
            .into(),
    };
    Figure { text, chart: Some(("slow-start", chart)) }
}

fn reconnects() -> Figure {
    let told = storm::Return::Spread { within: 1.25 * storm::LEAST };
    let rows = [
        ("at a moment that the edge told it, within 62.5 s", told),
        ("after a random time up to 1 s, 2 s, 4 s, … 60 s", storm::Return::FullJitter),
        ("after 1 s, 2 s, 4 s, … 60 s exactly", storm::Return::Backoff),
    ]
    .map(|(name, how)| {
        let outcome = storm::run(Policy::P2C, how, SEED);
        let done = outcome.done_after.map_or_else(
            || format!("{:.0} % after an hour", 100.0 * outcome.back),
            |done| format!("all after {done:.0} s"),
        );
        format!("| {name} | {:.2} | {done} | {} |", outcome.attempts_each, outcome.most_in_a_second)
    });
    let text = section(
        "A reconnect storm",
        "A server of 20 000 tunnels dies, and ten others have `accept-rate = \"40/s\"`, so nobody can have all of them back before 50 s. \
         No endpoint lets in more than 44 in a second (a tenth of a second's worth may come at once). \
         `policies/tests/simulation/storm.rs`",
        "| a client comes back | attempts of each | back | most in a second at one endpoint |\n|---|---|---|---|",
        rows,
        None,
    );
    Figure { text, chart: None }
}

fn bounded_load() -> Figure {
    let factors = [105, 110, 115, 125, 150, 175, 200];
    let outcomes = factors.map(|percent| keys::run(BalanceFactor::new(percent), SEED));
    let unbounded = keys::run(None, SEED);
    let row = |name: String, outcome: &keys::Outcome| {
        format!("| {name} | {:.2} | {:.1} % |", outcome.fullest, 100.0 * outcome.away)
    };
    let rows = factors
        .iter()
        .zip(&outcomes)
        .map(|(percent, outcome)| row(format!("{:.2}", f64::from(*percent) / 100.0), outcome))
        .chain([row("off".to_owned(), &unbounded)]);
    let text = section(
        "Bounded load",
        "4000 clients of 10 000 users at 20 endpoints by `maglev`, where user number k connects in proportion to 1/k, so the first \
         alone has a tenth of all. Nobody is ever over ceil(factor · average) (Mirrokni, Thorup and Zadimoghaddam, \"Consistent \
         Hashing with Bounded Loads\", SODA 2018); the tighter, the more clients are elsewhere than their key says. \
         `policies/tests/simulation/keys.rs`",
        "| `balance-factor` | the fullest over the average | clients away from their endpoint |\n|---|---|---|",
        rows,
        Some("bounded-load"),
    );
    let points = |of: fn(&keys::Outcome) -> f64| {
        factors.iter().zip(&outcomes).map(|(percent, outcome)| (f64::from(*percent), of(outcome))).collect::<Vec<_>>()
    };
    let chart = Chart {
        title: "Bounded load on skewed keys, by the factor",
        x: Axis::linear("balance-factor", &[100.0, 125.0, 150.0, 175.0, 200.0]),
        y: Axis::linear("percent", &[0.0, 50.0, 100.0, 150.0, 200.0]),
        lines: vec![
            line("the fullest / average", Style::Both, points(|outcome| 100.0 * outcome.fullest)),
            line("clients away", Style::Both, points(|outcome| 100.0 * outcome.away)),
        ],
    };
    Figure { text, chart: Some(("bounded-load", chart)) }
}

fn disruption() -> Figure {
    const KEYS: u32 = 50_000;
    let members = [5, 10, 20, 50, 100, 200];
    let ring = |points| Policy::RingHash { size: RingSize::new(points, 65_536).expect("in range"), balance: None };
    let tables = [
        ("maglev, 65 537", members::maglev(65_537)),
        ("maglev, 10 007", members::maglev(10_007)),
        ("ring, 1024", ring(1024)),
        ("ring, 16 384", ring(16_384)),
    ];
    let moved: Vec<Vec<(f64, f64)>> = tables
        .iter()
        .map(|&(_, policy)| {
            let moved = |n| 100.0 * members::moved_without_need(policy, n, members::Change::Leaves, KEYS);
            members.map(|n| (f64::from(n), moved(n))).into()
        })
        .collect();
    let rows = members.iter().enumerate().map(|(at, &n)| {
        let cells = tables
            .iter()
            .zip(&moved)
            .map(|(&(_, policy), moved)| format!("{:.1} %, {:.2}", moved[at].1, members::fullest(policy, n, KEYS)));
        format!("| {n} | {} |", cells.collect::<Vec<_>>().join(" | "))
    });
    let text = section(
        "Members of a hash table",
        "One of the members is taken out of the configuration: the share of the keys of the others that go elsewhere, and the keys of \
         the fullest over the average, of 50 000 keys. A member that is only down moves nobody's keys but its own. Maglev is even \
         and moves a few keys, fewer with a larger table (Eisenbud and others, \"Maglev\", NSDI 2016, sections 3.4 and 5.3). A ring is \
         less even, by one over the root of the points of each. It keeps its size, so the others get as many new points as the one \
         that left had, and keys with them; only where rounding leaves them no new point, as 1024 points for fifty and more, does \
         no key move. \
         `policies/tests/simulation/members.rs`",
        "| members | maglev, 65 537 slots | maglev, 10 007 slots | ring, 1024 points | ring, 16 384 points |\n|---|---|---|---|---|",
        rows,
        Some("disruption"),
    );
    let lines = tables.iter().zip(moved).map(|(&(name, _), points)| line(name, Style::Both, points)).collect();
    let chart = Chart {
        title: "Keys of the others that move when one member leaves",
        x: Axis::logarithmic("members", &[5.0, 10.0, 20.0, 50.0, 100.0, 200.0]),
        y: Axis::linear("percent", &[0.0, 3.0, 6.0, 9.0, 12.0, 15.0]),
        lines,
    };
    Figure { text, chart: Some(("disruption", chart)) }
}

fn names_of(choices: u8) -> String {
    if choices == 1 { "random".to_owned() } else { format!("{choices} choices") }
}

fn line(name: &str, style: Style, points: impl IntoIterator<Item = (f64, f64)>) -> Line {
    Line { name: name.to_owned(), points: points.into_iter().collect(), style }
}

fn section(title: &str, words: &str, head: &str, rows: impl IntoIterator<Item = String>, plot: Option<&str>) -> String {
    let rows: String = rows.into_iter().map(|row| row + "\n").collect();
    let plot = plot.map(|plot| format!("![{title}](plots/{plot}.svg)\n\n")).unwrap_or_default();
    format!("### {title}\n\n{}\n\n{head}\n{rows}\n{plot}", wrapped(words))
}

/// In lines as wide as those of the page around them.
fn wrapped(words: &str) -> String {
    let mut lines = vec![String::new()];
    for word in words.split(' ') {
        let last = lines.len() - 1;
        if lines[last].is_empty() {
            lines[last].push_str(word);
        } else if lines[last].chars().count() + 1 + word.chars().count() <= 125 {
            lines[last] = format!("{} {word}", lines[last]);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n")
}
