//! A pick allocates nothing: not the first, not one that meets full and tried endpoints, not one that is refused.
#![expect(unsafe_code, reason = "counting allocations takes a global allocator of our own")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    num::NonZeroU32,
    time::Duration,
};

use policies::{
    BalanceFactor, ClassView, ClusterView, Criterion, Cursors, Endpoint, EndpointIx, Kind, Latency, Locality,
    LocalityIx, PickContext, Policy, RingSize, SeededDice, Standing, Steering, TableSize, Tick, Tried, Weight, compile,
};

/// The system's allocator, counting what each thread asks for.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every method hands its arguments to the system's allocator unchanged. The counter is a thread-local with a
// constant initial value and no destructor, so touching it allocates nothing itself.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise about `layout` is the one that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `alloc` or `realloc` above, hence from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for `dealloc`, and the caller's promise about `new_size` is passed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations_of(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn view(policy: Policy) -> ClusterView {
    let endpoint = |ix: u16| Endpoint {
        name: "e".into(),
        locality: LocalityIx(ix % 3),
        weight: Weight::new(ix % 7 + 1).expect("1 to 7"),
        max_connections: if ix.is_multiple_of(2) { NonZeroU32::new(2) } else { None },
        standing: if ix.is_multiple_of(5) { Standing::Down } else { Standing::Up },
        ..Endpoint::default()
    };
    let locality = |ix: u16| Locality { name: "l".into(), priority: ix.into(), ..Locality::default() };
    ClusterView {
        endpoints: (0..60).map(endpoint).collect(),
        localities: (0..3).map(locality).collect(),
        policy,
        request_policy: policy,
        steering: Steering { criteria: vec![Criterion::Priority], ..Steering::default() },
        ..ClusterView::default()
    }
}

#[test]
fn picking_and_giving_back_allocate_nothing() {
    let balance = Some(BalanceFactor::default());
    for policy in [
        Policy::RoundRobin,
        Policy::LeastConnections,
        Policy::Random,
        Policy::P2C,
        Policy::P2c { choices: 16 },
        Policy::PeakEwma { choices: 2, latency: Latency::default() },
        Policy::Prequal {
            choices: 16,
            hot_above_percent: 84,
            report_age: Duration::from_secs(5),
            latency: Latency::default(),
        },
        Policy::Maglev { size: TableSize::default(), balance },
        Policy::RingHash { size: RingSize::default(), balance },
    ] {
        let view = view(policy);
        let plan = compile(&view, &ClassView::default());
        let (mut dice, mut cursors) = (SeededDice::new(1), Cursors::new(1));
        let mut held = Vec::with_capacity(1000);
        let counted = allocations_of(|| {
            for ix in 0..1000 {
                let mut tried = Tried::new();
                tried.push(EndpointIx(ix % 60));
                let mut cx = PickContext::new(&mut dice, &mut cursors, &tried, Tick::default());
                cx.key = Some(u64::from(ix));
                let kind = if ix % 2 == 0 { Kind::Tunnel } else { Kind::Request };
                let pick = plan.pick(kind, &mut cx);
                if ix % 3 == 0 {
                    held.push(pick);
                }
            }
            held.clear();
        });
        assert_eq!(counted, 0, "{policy:?}");
    }
}

#[test]
fn being_refused_allocates_nothing() {
    let mut view = view(Policy::P2C);
    for endpoint in &mut view.endpoints {
        endpoint.max_connections = NonZeroU32::new(1);
    }
    let _held: Vec<_> = view.endpoints.iter().map(|endpoint| endpoint.load.reserve(None)).collect();
    let plan = compile(&view, &ClassView::default());
    let (mut dice, mut cursors, tried) = (SeededDice::new(1), Cursors::new(1), Tried::new());
    let counted = allocations_of(|| {
        let mut cx = PickContext::new(&mut dice, &mut cursors, &tried, Tick::default());
        assert!(plan.pick(Kind::Tunnel, &mut cx).is_err());
    });
    assert_eq!(counted, 0);
}

#[test]
fn the_counter_counts() {
    assert!(allocations_of(|| drop(std::hint::black_box(vec![1_u8; 100]))) > 0);
}
