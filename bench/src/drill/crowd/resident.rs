//! One of the crowd: stays online, says something again and again, and hears what others say.

use std::time::Duration;

use anyhow::Result;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{Said, SaidByAll};
use crate::{harness::locked, im::Phone};

/// How long somebody tries to get something said, or to get online, over as many connections as that takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long somebody who has nothing to say listens before looking at the orders again.
const LISTEN: Duration = Duration::from_secs(1);

/// What everybody is told.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Orders {
    /// How often all connections were broken off.
    pub(super) broken_off: u64,
    /// Those who obey this neither read nor say anything.
    pub(super) deaf: bool,
    /// Stop talking, and give the phone back.
    pub(super) leave: bool,
}

#[derive(Debug)]
pub(super) struct Resident {
    pub(super) phone: Phone,
    /// With one other, and with the room.
    pub(super) conversations: [String; 2],
    pub(super) period: Duration,
    /// Bytes of what is said.
    pub(super) body: usize,
    pub(super) obeys_deafness: bool,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) said: SaidByAll,
}

impl Resident {
    /// Lives until told to leave, and gives the phone back.
    ///
    /// What is said has its time beforehand, and how long it took counts from there: a phone that was cut off has the
    /// delay of everything that it could not say meanwhile.
    pub(super) async fn live(mut self) -> Result<Phone> {
        for conv in &self.conversations {
            self.phone.follow(conv).await?;
        }
        self.phone.online(PATIENCE).await?;
        let mut broken_off = self.orders.borrow().broken_off;
        let mut due = Instant::now() + self.period.mul_f64(fastrand::f64());
        let mut count = 0;
        loop {
            let orders = *self.orders.borrow_and_update();
            if orders.leave {
                return Ok(self.phone);
            }
            if orders.broken_off != broken_off {
                broken_off = orders.broken_off;
                self.phone.break_off();
            }
            if orders.deaf && self.obeys_deafness {
                self.hear_nothing(&mut due).await;
                continue;
            }
            self.phone.online(PATIENCE).await?;
            if due <= Instant::now() {
                self.say(count, due).await?;
                count += 1;
                due += self.period;
            } else {
                self.listen_until(due).await;
            }
        }
    }

    /// Until the orders change. What would have been said meanwhile is not: it is no measure of anything.
    async fn hear_nothing(&mut self, due: &mut Instant) {
        // A sender that is gone gives no more orders, and everything ends with it.
        _ = self.orders.changed().await;
        *due = Instant::now() + self.period;
    }

    async fn say(&mut self, count: usize, due: Instant) -> Result<()> {
        let conv = &self.conversations[count % 2];
        let text = format!("{count} {}", "x".repeat(self.body));
        self.phone.say(conv, &text, PATIENCE).await?;
        locked(&self.said).push(Said { due: due.into_std(), took: due.elapsed() });
        Ok(())
    }

    async fn listen_until(&mut self, due: Instant) {
        tokio::select! {
            _ = self.orders.changed() => {}
            () = self.phone.listen(LISTEN) => {}
            () = sleep_until(due) => {}
        }
    }
}
