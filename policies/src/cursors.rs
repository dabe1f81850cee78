//! Whose turn it is, for one worker.
//!
//! A counter shared by all workers would be the most contended cache line of the process, so each worker keeps its own.
//! The counters live apart from the plans because plans are replaced every second or so, and a round that starts over
//! with each plan always favours the first endpoints.

use crate::dice::{Dice, SeededDice};

/// Round-robin positions of one worker, by candidate set. Its size is fixed: 16 KiB, 1024 sets. When more are in use, one
/// that was not used lately starts its round at a random place, and nothing else happens.
#[derive(Debug, Clone)]
pub struct Cursors {
    rows: Box<[Row]>,
    dice: SeededDice,
}

/// A set can stand in any place of its row, the one used last in front.
type Row = [Cursor; 4];

#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    /// Which candidate set; zero is nobody.
    tag: u64,
    next: u32,
}

const ROWS: u32 = 256;

impl Cursors {
    /// Workers with different seeds start their rounds at different places, so that after a restart they do not all send
    /// their first client to the first endpoint.
    pub fn new(seed: u64) -> Self {
        Self { rows: (0..ROWS).map(|_| Row::default()).collect(), dice: SeededDice::new(seed) }
    }

    /// The next position under `len` for the set with this tag. A tag always comes with the same `len`.
    pub(crate) fn next(&mut self, tag: u64, len: u32) -> u32 {
        let tag = tag.max(1);
        let row = &mut self.rows[usize::try_from(tag % u64::from(ROWS)).expect("a row number is small")];
        match row.iter().position(|cursor| cursor.tag == tag) {
            Some(place) => row[..=place].rotate_right(1),
            None => {
                row.rotate_right(1);
                row[0] = Cursor { tag, next: self.dice.below(len) };
            }
        }
        let cursor = &mut row[0];
        let position = cursor.next;
        cursor.next = if position + 1 < len { position + 1 } else { 0 };
        position
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_goes_round_in_its_own_time() {
        let mut cursors = Cursors::new(1);
        let (a, b) = (cursors.next(10, 3), cursors.next(20, 2));
        assert_eq!(cursors.next(10, 3), (a + 1) % 3);
        assert_eq!(cursors.next(20, 2), (b + 1) % 2);
        assert_eq!(cursors.next(10, 3), (a + 2) % 3);
        assert_eq!(cursors.next(10, 3), a);
    }

    #[test]
    fn workers_start_at_different_places() {
        let starts: std::collections::BTreeSet<u32> = (0..20).map(|seed| Cursors::new(seed).next(10, 1000)).collect();
        assert!(starts.len() > 15, "{starts:?}");
    }

    #[test]
    fn sets_that_share_a_row_do_not_disturb_each_other_until_there_are_more_than_four() {
        let mut cursors = Cursors::new(1);
        let tags: Vec<u64> = (1..=4).map(|n| n * u64::from(ROWS)).collect();
        let starts: Vec<u32> = tags.iter().map(|&tag| cursors.next(tag, 100)).collect();
        for round in 1..50 {
            for (&tag, start) in tags.iter().zip(&starts) {
                assert_eq!(cursors.next(tag, 100), (start + round) % 100);
            }
        }
    }

    #[test]
    fn too_many_sets_in_a_row_still_spread_their_picks() {
        let mut cursors = Cursors::new(1);
        let mut seen = [0_u32; 4];
        for _ in 0..1000 {
            for n in 1..=9 {
                let position = cursors.next(n * u64::from(ROWS), 4);
                if n == 1 {
                    seen[position as usize] += 1;
                }
            }
        }
        assert!(seen.iter().all(|&count| count.abs_diff(250) < 80), "{seen:?}");
    }
}
