//! The work of a pick does not grow with the number of endpoints, save for least-connections, whose law it is.
//!
//! Counted in instructions by callgrind, which no neighbour on the machine changes. From a hundred endpoints to a thousand a
//! scan takes ten times as many; what is drawn or looked up takes as many as before, or a few more for a search by halves.
//! Figures are in docs/performance.md.

use std::{env, fs, hint::black_box, io, process::Command};

use policies::{Pick, Policy, RingSize, TableSize, Tick};

use edge::{Edge, cluster};
use every_policy::every_policy;

#[path = "simulation/edge.rs"]
#[expect(dead_code, reason = "simulations need more of it")]
mod edge;

#[path = "shared/every_policy.rs"]
mod every_policy;

/// Set where this program runs under callgrind.
const UNDER_CALLGRIND: &str = "POLICIES_GROWTH_UNDER_CALLGRIND";

const SIZES: [u32; 2] = [100, 1_000];
const PICKS: u32 = 20;

#[test]
fn a_pick_among_ten_times_as_many_endpoints_takes_no_more_instructions() -> io::Result<()> {
    if env::var_os(UNDER_CALLGRIND).is_some() {
        run_all();
        return Ok(());
    }
    let Some(counts) = counts()? else {
        println!("skipped: valgrind is missing (apt-get install valgrind)");
        return Ok(());
    };
    assert_eq!(counts.len(), every_policy().len() * SIZES.len(), "one count for each run: {counts:?}");
    for ((name, _), counts) in every_policy().into_iter().zip(counts.chunks(SIZES.len())) {
        let [few, many] = counts else { unreachable!("there are two sizes") };
        let grows = *many > 2 * few;
        assert_eq!(grows, name == "least-connections", "{name}: {few} and {many} instructions for {PICKS} picks");
    }
    Ok(())
}

/// What callgrind counts, in the order of the runs.
fn run_all() {
    for (_, policy) in every_policy() {
        for endpoints in SIZES {
            let mut edge = Edge::new(&cluster(with_small_table(policy), &[endpoints]), 1);
            let held = (0..300).map(|nth| edge.pick_at(Some(key(nth)), Tick::default()));
            let _held: Vec<Pick> = held.filter_map(Result::ok).collect();
            counted(&mut edge);
            run_is_over();
        }
    }
}

/// Tables of the default sizes take most of the time here, and their sizes make no difference to a pick.
fn with_small_table(policy: Policy) -> Policy {
    match policy {
        Policy::Maglev { balance, .. } => Policy::Maglev { size: TableSize::new(4099).expect("a prime"), balance },
        Policy::RingHash { balance, .. } => {
            Policy::RingHash { size: RingSize::new(2048, 4096).expect("in order"), balance }
        }
        other => other,
    }
}

#[inline(never)]
fn counted(edge: &mut Edge) {
    for nth in 0..PICKS {
        assert!(black_box(edge.pick_at(Some(key(nth)), Tick::default())).is_ok());
    }
}

/// Where callgrind writes down what it counted since the last time.
#[inline(never)]
fn run_is_over() {
    black_box(());
}

fn key(nth: u32) -> u64 {
    u64::from(nth).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Runs this program again, under callgrind. None without valgrind.
fn counts() -> io::Result<Option<Vec<u64>>> {
    let directory = env::temp_dir().join(format!("policies-growth-{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let ran = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=growth::counted", "--dump-before=growth::run_is_over"])
        .arg(format!("--callgrind-out-file={}", directory.join("out").display()))
        .arg(env::current_exe()?)
        .env(UNDER_CALLGRIND, "1")
        .output();
    let counts = match ran {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let dumps = (1..=every_policy().len() * SIZES.len()).map(|nth| directory.join(format!("out.{nth}")));
            let dumps = dumps.map(fs::read_to_string);
            Some(dumps.map(|dump| dump.map(|dump| total(&dump))).collect::<io::Result<_>>()?)
        }
    };
    fs::remove_dir_all(&directory)?;
    Ok(counts)
}

/// Of all functions and threads in one dump.
fn total(dump: &str) -> u64 {
    let totals = dump.lines().filter_map(|line| line.strip_prefix("totals: "));
    totals.map(|count| count.trim().parse::<u64>().expect("callgrind writes a number")).sum()
}
