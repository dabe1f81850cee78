//! What a pick costs in time, with the end of its lease, and what a compilation costs.
//!
//! `cargo bench -p policies --bench pick`. The figures of docs/performance.md come from here.

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use policies::{Answer, ClassView, ClusterView, HashTables, Kind, Pick, Policy, Standing, TableSize, Tick, compile};

use edge::{Edge, cluster};
use every_policy::every_policy;

#[path = "../tests/simulation/edge.rs"]
#[expect(dead_code, reason = "simulations need more of it")]
mod edge;

#[path = "../tests/shared/every_policy.rs"]
mod every_policy;

const SIZES: [u32; 4] = [10, 100, 1000, 10_000];

/// Each endpoint holds a client on average, and each has answered once.
fn in_use(view: &ClusterView) -> (Edge, Vec<Pick>) {
    let mut edge = Edge::new(view, 1);
    let held = (0..view.endpoints.len() as u64).map(|nth| edge.pick_at(Some(key(nth)), Tick::default()));
    let held = held.filter_map(Result::ok).collect();
    let answer = Answer { took: Duration::from_millis(10), failed: false, in_flight: 1 };
    view.endpoints
        .iter()
        .for_each(|endpoint| endpoint.load.answered(Kind::Tunnel, answer, view.policy, Tick::default()));
    (edge, held)
}

fn key(nth: u64) -> u64 {
    nth.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn picks(criterion: &mut Criterion) {
    for (name, policy) in every_policy() {
        let mut group = criterion.benchmark_group(name);
        for size in SIZES {
            let view = cluster(policy, &[size]);
            let (mut edge, _held) = in_use(&view);
            let (mut nth, now) = (0, Tick(Duration::from_secs(1)));
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| {
                    nth += 1;
                    drop(black_box(edge.pick_at(Some(key(nth)), now)));
                });
            });
        }
    }
}

/// Three tiers, of which the first has lost half of its endpoints, so that each pick draws its tier.
fn pipeline(criterion: &mut Criterion) {
    let mut view = cluster(Policy::P2C, &[100; 3]);
    view.endpoints[..50].iter_mut().for_each(|endpoint| endpoint.standing = Standing::Down);
    let (mut edge, _held) = in_use(&view);
    let (mut nth, now) = (0, Tick(Duration::from_secs(1)));
    criterion.bench_function("three tiers, p2c", |bencher| {
        bencher.iter(|| {
            nth += 1;
            drop(black_box(edge.pick_at(Some(key(nth)), now)));
        });
    });
}

fn compilations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile 1000 endpoints");
    let maglev = Policy::Maglev { size: TableSize::default(), balance: None };
    for (name, policy) in [("p2c", Policy::P2C), ("maglev, table kept", maglev)] {
        let view = cluster(policy, &[1000]);
        let _kept = compile(&view, &ClassView::default());
        group.bench_function(name, |bencher| bencher.iter(|| compile(&view, &ClassView::default())));
    }
    let mut view = cluster(maglev, &[1000]);
    group.bench_function("maglev, table built", |bencher| {
        bencher.iter(|| {
            view.tables = HashTables::new();
            compile(&view, &ClassView::default())
        });
    });
}

criterion_group!(benches, picks, pipeline, compilations);
criterion_main!(benches);
