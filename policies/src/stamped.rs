//! A duration and when it was last moved, in one word that every worker reads and writes.
//!
//! The upper half is the value in microseconds as an `f32`, the lower half the time in milliseconds. Both change in one
//! atomic step, relaxed, as they order no other memory. Always true: a stored value is finite and above zero, so that the
//! word zero can mean "nothing yet".

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{
    dice::{high, low},
    tick::Tick,
};

#[derive(Debug, Default)]
pub(crate) struct StampedCell(AtomicU64);

impl Clone for StampedCell {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Relaxed)))
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamped {
    /// Microseconds.
    pub(crate) value: f32,
    /// Milliseconds, of which the count starts anew every 49.7 days.
    stamp: u32,
}

/// A nanosecond: the least that is stored.
const LEAST: f32 = 1e-3;

/// How far a sample can be behind the last one, in milliseconds. Whatever seems older than the stamp by no more than this
/// is late; everything else is new.
///
/// Half of the count's range would be the usual border, but an endpoint may well be silent for 25 days, and must not keep
/// its old cost for the next 25. After more than 49.7 days it looks younger than it is, and falls once more within the
/// usual time.
const LATEST: u32 = 60_000;

impl StampedCell {
    /// `None` before the first sample.
    #[inline]
    pub(crate) fn load(&self) -> Option<Stamped> {
        Stamped::unpack(self.0.load(Relaxed))
    }

    /// Replaces what is there. The first sample finds a value of zero, which is under every sample.
    pub(crate) fn update(&self, change: impl Fn(Stamped) -> Stamped) {
        let moved = |packed| {
            let before = Stamped::unpack(packed).unwrap_or(Stamped { value: 0.0, stamp: 0 });
            Some(change(before).pack())
        };
        // A closure that never answers `None` cannot fail; both cases hold what was there before.
        let (Ok(_before) | Err(_before)) = self.0.fetch_update(Relaxed, Relaxed, moved);
    }
}

impl Stamped {
    #[inline]
    fn unpack(packed: u64) -> Option<Self> {
        (packed != 0).then(|| Self { value: f32::from_bits(high(packed)), stamp: low(packed) })
    }

    fn pack(self) -> u64 {
        u64::from(self.value.max(LEAST).to_bits()) << 32 | u64::from(self.stamp)
    }

    /// Another value. The clock never moves back, save that the first sample sets it.
    pub(crate) fn with(self, value: f32, now: u32) -> Self {
        let keeps = self.value > 0.0 && self.is_late(now);
        Self { value, stamp: if keeps { self.stamp } else { now } }
    }

    /// Moves towards `sample`: of the old value counts `weight`, less what time has taken of it.
    pub(crate) fn blended(self, sample: f32, weight: f32, now: u32, decay: Duration) -> Self {
        let kept = weight * self.kept(now, decay);
        self.with(self.value * kept + sample * (1.0 - kept), now)
    }

    /// What time has left of the value.
    #[inline]
    pub(crate) fn fallen(self, now: u32, decay: Duration) -> f32 {
        self.value * self.kept(now, decay)
    }

    /// How long ago it was moved; zero if `now` is late.
    #[inline]
    pub(crate) fn age(self, now: u32) -> u32 {
        age(self.stamp, now)
    }

    /// The share that is left: 1 at once, 1/e after `decay`.
    #[inline]
    fn kept(self, now: u32, decay: Duration) -> f32 {
        // Without a decay everything is forgotten by the next millisecond; the smallest number keeps 0 / 0 away.
        let decay_ms = (decay.as_secs_f32() * 1e3).max(f32::MIN_POSITIVE);
        (-f32_of(self.age(now)) / decay_ms).exp()
    }

    #[inline]
    fn is_late(self, now: u32) -> bool {
        is_late(self.stamp, now)
    }
}

/// The milliseconds from a stamp to now, on the round count of [`millis`]; zero if `now` is late.
#[inline]
pub(crate) fn age(stamp: u32, now: u32) -> u32 {
    if is_late(stamp, now) { 0 } else { now.wrapping_sub(stamp) }
}

#[inline]
fn is_late(stamp: u32, now: u32) -> bool {
    (1..=LATEST).contains(&stamp.wrapping_sub(now))
}

/// Milliseconds since the epoch, counted round: a second is a whole number of them, so no wrap loses one.
#[inline]
pub(crate) fn millis(at: Tick) -> u32 {
    low(at.0.as_secs()).wrapping_mul(1000).wrapping_add(at.0.subsec_millis())
}

#[inline]
pub(crate) fn micros(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1e6
}

/// The nearest `f32`: exact up to 2^24, off by less than one part in 2^24 above.
#[inline]
#[expect(clippy::cast_precision_loss, reason = "ages and counts need no more than 24 bits")]
pub(crate) fn f32_of(number: u32) -> f32 {
    number as f32
}
