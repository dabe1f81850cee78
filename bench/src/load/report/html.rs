//! The report as one page without anything from elsewhere, for light and dark, wide and narrow.

use std::{collections::BTreeSet, fmt::Write};

use super::{
    QUANTILES, Run, TIMED, as_float, locality, percent,
    plot::{Curve, Plot, Scale},
    shown_ms, summary, verdicts,
};
use crate::load::tally::Step;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1f2328; --faint: #59636e; --ground: #ffffff; --line: #d1d9e0; --good: #1a7f37; --bad: #b35900 }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --faint: #9198a1; --ground: #0d1117; --line: #3d444d; --good: #3fb950; --bad: #f0883e } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 1080px; padding: 16px; font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--ground) }
h1 { font-size: 1.4em; margin: 0.2em 0 } h2 { font-size: 1.1em; margin: 1.6em 0 0.4em }
p { margin: 0.5em 0; overflow-wrap: anywhere } .small { color: var(--faint); font-size: 0.9em }
.verdict { border-left: 4px solid var(--good); padding-left: 10px; white-space: pre-line } .bad { border-color: var(--bad) }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px }
.plots svg { width: 100%; height: auto; border: 1px solid var(--line); border-radius: 6px; padding: 8px; background: var(--ground) }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: 3px 12px 3px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left } th { font-weight: 600 }
.bar { display: inline-block; height: 0.7em; background: #0072b2; border-radius: 2px }
";

/// The page.
pub(in super::super) fn html(run: &Run) -> String {
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Load on {target}</title>\n<style>{STYLE}</style>\n\
         <h1>Load on {target}</h1>\n<p class=\"small\">{headline}</p>\n<p>{summary}</p>\n",
        target = escaped(&run.plan.target.to_string()),
        headline = escaped(&run.headline),
        summary = escaped(&summary(run)),
    );
    for verdict in verdicts(run) {
        let bad = ["THE LOAD", "PROMISES", "NOT EVERY"].iter().any(|start| verdict.starts_with(start));
        add(&mut page, format_args!("<p class=\"verdict{}\">{}</p>", if bad { " bad" } else { "" }, escaped(&verdict)));
    }
    quantiles(&mut page, run);
    plots(&mut page, run);
    localities(&mut page, run);
    troubles(&mut page, run);
    settings(&mut page, run);
    page + "</html>\n"
}

fn quantiles(page: &mut String, run: &Run) {
    *page += "<h2>How long things took</h2>\n<p class=\"small\">Milliseconds, ";
    *page += TIMED;
    *page += ". What failed or had no answer counts as long as it waited, and as long as a client waits at least. Pushes \
              are those that came: who was away got the message in another way.</p>\n<div class=\"scroll\"><table>\n\
              <tr><th></th><th>count</th>";
    for (name, _) in QUANTILES {
        add(page, format_args!("<th>{name}</th>"));
    }
    *page += "</tr>\n";
    for (name, times) in run.histograms() {
        add(page, format_args!("<tr><td>{name}</td><td>{}</td>", times.count()));
        for (_, share) in QUANTILES {
            add(page, format_args!("<td>{}</td>", times.quantile_ms(share).map_or_else(String::new, shown_ms)));
        }
        *page += "</tr>\n";
    }
    *page += "</table></div>\n";
}

fn plots(page: &mut String, run: &Run) {
    *page += "<h2>Over time</h2>\n<div class=\"plots\">\n";
    let time = |name: &str, share: f64| curve(run, name, move |step| step.times.quantile_ms(share));
    let times = [time("p50", 0.5), time("p90", 0.9), time("p99", 0.99), time("max", 1.0)];
    plot(page, run, &format!("ms until {}, by when it was due", run.main().0), &times, Scale::Tenfold);
    let a_second = |count: u64| Some(as_float(count) / run.tally.step);
    let due = curve(run, "due", |step| a_second(step.due));
    let done = curve(run, run.main().0, |step| a_second(step.done));
    plot(page, run, "a second: due, and done", &[due, done], Scale::Linear);
    plot(page, run, "connections, by place", &connections(run), Scale::Linear);
    if run.plan.over.is_http() {
        plot(page, run, "went wrong, a second", &[curve(run, "", |step| a_second(step.wrong))], Scale::Linear);
    } else {
        let events = [
            curve(run, "pushes", |step| a_second(step.pushed)),
            curve(run, "logins", |step| a_second(step.logins)),
            curve(run, "went wrong", |step| a_second(step.wrong)),
        ];
        plot(page, run, "a second: pushes, logins, troubles", &events, Scale::Linear);
    }
    *page += "</div>\n";
}

fn plot(page: &mut String, run: &Run, title: &str, curves: &[Curve], scale: Scale) {
    *page += &Plot { title, curves, seconds: run.tally.step, scale }.svg();
}

fn curve(run: &Run, name: &str, value: impl Fn(&Step) -> Option<f64>) -> Curve {
    Curve { name: name.into(), values: run.tally.steps.iter().map(value).collect() }
}

fn connections(run: &Run) -> Vec<Curve> {
    let names: BTreeSet<String> =
        run.tally.steps.iter().flat_map(|step| step.online.keys()).map(|node| locality(node)).collect();
    let of = |name: &String| {
        let count = |step: &Step| {
            let own = step.online.iter().filter(|(node, _)| locality(node) == *name);
            Some(as_float(own.map(|(_, count)| count).sum()))
        };
        curve(run, name, count)
    };
    names.iter().map(of).collect()
}

fn localities(page: &mut String, run: &Run) {
    let localities = run.localities();
    let all: u64 = localities.values().sum();
    if all == 0 {
        return;
    }
    let what = if run.plan.over.is_http() { "Answers" } else { "Logins" };
    add(
        page,
        format_args!(
            "<h2>{what} by place</h2>\n<div class=\"scroll\"><table>\n<tr><th>place</th><th>share</th><th></th><th>{what}</th></tr>"
        ),
    );
    for (name, count) in &localities {
        let share = percent(*count, all);
        add(
            page,
            format_args!(
                "<tr><td>{}</td><td>{share:.1} %</td><td style=\"text-align: left\"><span class=\"bar\" style=\"width: {share:.0}px\"></span></td><td>{count}</td></tr>",
                escaped(name)
            ),
        );
    }
    *page += "</table></div>\n";
    if run.tally.places.keys().any(|country| !country.is_empty()) {
        by_country(page, run, &localities.keys().cloned().collect::<Vec<_>>());
    }
}

fn by_country(page: &mut String, run: &Run, names: &[String]) {
    *page += "<h2>Where people of each country went</h2>\n<div class=\"scroll\"><table>\n<tr><th>country</th>";
    for name in names {
        add(page, format_args!("<th>{}</th>", escaped(name)));
    }
    *page += "</tr>\n";
    for (country, nodes) in &run.tally.places {
        let all: u64 = nodes.values().sum();
        add(page, format_args!("<tr><td>{}</td>", escaped(if country.is_empty() { "nowhere" } else { country })));
        for name in names {
            let own = nodes.iter().filter(|(node, _)| locality(node) == *name).map(|(_, count)| count).sum();
            add(page, format_args!("<td>{:.1} %</td>", percent(own, all)));
        }
        *page += "</tr>\n";
    }
    *page += "</table></div>\n";
}

fn troubles(page: &mut String, run: &Run) {
    if run.tally.troubles.is_empty() {
        return;
    }
    *page += "<h2>Troubles, an example of each kind</h2>\n<ul>\n";
    for (kind, example) in &run.tally.troubles {
        add(page, format_args!("<li>{}: {}</li>", escaped(kind), escaped(example)));
    }
    *page += "</ul>\n";
}

fn settings(page: &mut String, run: &Run) {
    let settings = serde_json::to_string_pretty(&run.plan).unwrap_or_default();
    add(
        page,
        format_args!(
            "<details><summary>Settings, {} process{}</summary><div class=\"scroll\"><pre>{}</pre></div></details>",
            run.processes,
            if run.processes == 1 { "" } else { "es" },
            escaped(&settings)
        ),
    );
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn add(page: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    _ = writeln!(page, "{part}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::report::tests::run;

    #[test]
    fn it_is_one_page_with_everything_and_nothing_from_elsewhere() {
        let page = html(&run());
        assert_eq!(page.matches("<svg ").count(), 4);
        for wanted in [
            "Load on 127.0.0.1:1",
            "4000 messages were due",
            "Every promise was kept",
            "frankfurt",
            "virginia",
            ">DE<",
            "p99.9",
        ] {
            assert!(page.contains(wanted), "{wanted} is not in it");
        }
        let urls = page.matches("http").count() - page.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(urls, 0, "nothing is fetched");
    }

    #[test]
    fn what_others_say_is_no_markup() {
        let mut run = run();
        run.tally.trouble("broken", "<script>alert(1)</script>");
        run.tally.place("\"<b>", "im-1");
        let page = html(&run);
        assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
    }
}
