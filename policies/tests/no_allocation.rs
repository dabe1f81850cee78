//! A pick allocates nothing: not the first, not one that meets full and tried endpoints, not one that is refused.
#![expect(unsafe_code, reason = "counting allocations takes a global allocator of our own")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    num::NonZeroU32,
    time::Duration,
};

use policies::{
    AcceptRate, BalanceFactor, ClassView, ClusterView, Criterion, Cursors, Endpoint, EndpointIx, Kind, Latency, Limits,
    Locality, LocalityIx, NoPick, Pick, PickContext, Policy, Reason, RingSize, SeededDice, Standing, Steering,
    TableSize, Tick, Tried, Weight, compile,
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

fn policies() -> Vec<Policy> {
    let balance = Some(BalanceFactor::default());
    vec![
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
    ]
}

#[test]
fn picking_and_giving_back_allocate_nothing() {
    for policy in policies() {
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

/// Something that leads picks another way, and how to know that it did.
struct Detour {
    about: &'static str,
    change: fn(&mut ClusterView),
    pinned: bool,
    was_taken: fn(&Result<Pick, NoPick>) -> bool,
}

fn limits(max_connections: u32, max_pending: u32) -> Limits {
    Limits { max_connections: NonZeroU32::new(max_connections), max_pending: NonZeroU32::new(max_pending) }
}

fn has_reason(pick: &Result<Pick, NoPick>, reason: Reason) -> bool {
    pick.as_ref().is_ok_and(|pick| pick.reason == reason)
}

const DETOURS: [Detour; 8] = [
    Detour { about: "a pin", change: |_| {}, pinned: true, was_taken: |pick| has_reason(pick, Reason::Sticky) },
    Detour {
        about: "a limit of the cluster",
        change: |view| view.limits = limits(20, 0),
        pinned: false,
        was_taken: |pick| matches!(pick, Err(NoPick::LimitReached)),
    },
    Detour {
        about: "a limit of pending connections",
        change: |view| view.limits = limits(0, 20),
        pinned: false,
        was_taken: |pick| matches!(pick, Err(NoPick::LimitReached)),
    },
    Detour {
        about: "a limit of a priority",
        change: |view| view.priority_limits = vec![(0, limits(5, 5))],
        pinned: false,
        was_taken: |pick| pick.as_ref().is_ok_and(|pick| pick.tier > 0),
    },
    Detour {
        about: "accept rates",
        change: |view| {
            view.endpoints.iter_mut().for_each(|endpoint| endpoint.accept_rate = AcceptRate::per_second(10.0));
        },
        pinned: false,
        was_taken: |pick| matches!(pick, Err(NoPick::RateLimited)),
    },
    Detour {
        about: "degraded levels",
        change: |view| view.endpoints.iter_mut().skip(3).for_each(|endpoint| endpoint.degraded = true),
        pinned: false,
        was_taken: |pick| has_reason(pick, Reason::Degraded),
    },
    Detour {
        about: "panic",
        change: |view| view.endpoints.iter_mut().for_each(|endpoint| endpoint.standing = Standing::Down),
        pinned: false,
        was_taken: |pick| has_reason(pick, Reason::Panic),
    },
    Detour {
        about: "panic with a pin",
        change: |view| view.endpoints.iter_mut().for_each(|endpoint| endpoint.standing = Standing::Down),
        pinned: true,
        was_taken: |pick| has_reason(pick, Reason::Panic),
    },
];

#[test]
fn no_way_to_a_pick_allocates() {
    for policy in policies() {
        for Detour { about, change, pinned, was_taken } in DETOURS {
            let mut view = view(policy);
            change(&mut view);
            let plan = compile(&view, &ClassView::default());
            let (mut dice, mut cursors, tried) = (SeededDice::new(1), Cursors::new(1), Tried::new());
            let mut held = Vec::with_capacity(400);
            let counted = allocations_of(|| {
                for ix in 0..400_u32 {
                    let mut cx = PickContext::new(&mut dice, &mut cursors, &tried, Tick::default());
                    cx.key = (ix % 2 == 0).then_some(u64::from(ix));
                    cx.pin = pinned.then_some(EndpointIx(ix % 61));
                    held.push(plan.pick(if ix % 3 == 0 { Kind::Request } else { Kind::Tunnel }, &mut cx));
                }
            });
            assert_eq!(counted, 0, "{about}, {policy:?}");
            assert!(held.iter().any(was_taken), "{about} led no pick another way, {policy:?}");
            assert_eq!(allocations_of(|| held.clear()), 0, "giving back: {about}, {policy:?}");
        }
    }
}

#[test]
fn the_counter_counts() {
    assert!(allocations_of(|| drop(std::hint::black_box(vec![1_u8; 100]))) > 0);
}
