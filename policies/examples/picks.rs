//! Picks, to count their instructions under callgrind, which no neighbour on the machine changes:
//!
//! ```text
//! cargo build --release -p policies --example picks
//! valgrind --tool=callgrind --toggle-collect='picks::counted*' target/release/examples/picks p2c 1000 10000
//! ```
//!
//! The arguments are the policy, the number of endpoints, and the number of picks. Each endpoint holds a client on average,
//! and each has answered once. What is counted is a pick and the end of its lease.

use std::{env, hint::black_box, time::Duration};

use policies::{Answer, Kind, Pick, Tick};

use edge::{Edge, cluster};
use every_policy::every_policy;

#[path = "../tests/simulation/edge.rs"]
#[expect(dead_code, reason = "simulations need more of it")]
mod edge;

#[path = "../tests/shared/every_policy.rs"]
mod every_policy;

fn main() -> Result<(), String> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let usage =
        || format!("usage: picks POLICY ENDPOINTS PICKS, of the policies {:?}", every_policy().map(|(name, _)| name));
    let [name, endpoints, picks] = arguments.as_slice() else { return Err(usage()) };
    let number = |text: &str| text.parse::<u32>().map_err(|error| format!("{text}: {error}"));
    let (endpoints, picks) = (number(endpoints)?, number(picks)?);
    let (_, policy) = every_policy().into_iter().find(|(known, _)| known == name).ok_or_else(usage)?;

    let view = cluster(policy, &[endpoints]);
    let mut edge = Edge::new(&view, 1);
    let held = (0..endpoints).map(|nth| edge.pick_at(Some(key(nth)), Tick::default()));
    let _held: Vec<Pick> = held.filter_map(Result::ok).collect();
    let answer = Answer { took: Duration::from_millis(10), failed: false, in_flight: 1 };
    view.endpoints.iter().for_each(|endpoint| endpoint.load.answered(Kind::Tunnel, answer, policy, Tick::default()));
    counted(&mut edge, picks);
    Ok(())
}

#[inline(never)]
fn counted(edge: &mut Edge, picks: u32) {
    for nth in 0..picks {
        drop(black_box(edge.pick_at(Some(key(nth)), Tick::default())));
    }
}

fn key(nth: u32) -> u64 {
    u64::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
