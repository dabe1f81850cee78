//! How long messages take at a fixed rate, whoever is slow. Each has its instant, and its time counts from there, not
//! from when it was sent: a proxy that stalls delays all that were due meanwhile, and all of them tell.

mod clock;
mod quiet;

use std::{collections::VecDeque, future::pending, time::Duration};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{
    Measurement,
    figure::Figure,
    load::{Client, Dialogue, Way, exchange_all},
    meter::{Meter, Watched, as_float},
};
use clock::Clock;

/// The first part of the time does not count: one in so many.
const WARM_UP_SHARE: u32 = 10;
/// How long the closed loop of a calibration runs.
const CALIBRATION: Duration = Duration::from_millis(400);
/// Exchanges by client between two looks at the clock of a calibration.
const BURST: usize = 10;

/// A fixed rate, over so many connections, for so long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schedule {
    /// By second.
    pub(super) rate: f64,
    pub(super) connections: usize,
    pub(super) time: Duration,
}

/// Exchanges by second when each client asks again as soon as it has its answer.
pub(super) async fn throughput(way: &Way, connections: usize) -> Result<f64> {
    let mut clients = way.connect_all(connections).await?;
    exchange_all(&mut clients, BURST, connections).await?;
    let start = Instant::now();
    let mut done = 0;
    while start.elapsed() < CALIBRATION {
        exchange_all(&mut clients, BURST, connections).await?;
        done += BURST * connections;
    }
    Ok(as_float(done) / start.elapsed().as_secs_f64())
}

/// Quantiles of the time from the instant that a message was due until its answer was there, in microseconds.
/// Without a proxy there is none to be watched.
pub(super) async fn measure(proxy: Option<Watched>, way: &Way, schedule: Schedule) -> Result<Measurement> {
    let clients = way.connect_all(schedule.connections).await?;
    let meter = Meter::start(proxy).await?;
    let (answers, late) = run(clients, schedule).await?;
    let mut conditions = meter.stop().await?.conditions;
    conditions.late = Some(micros(&late, 0.99));
    let times = histogram_of(answers.iter().map(|(_, time)| *time))?;
    Ok(Measurement {
        figures: vec![
            (Figure::P50, micros(&times, 0.5)),
            (Figure::QuietP99, quiet::p99(&answers)?),
            (Figure::P99, micros(&times, 0.99)),
            (Figure::P999, micros(&times, 0.999)),
        ],
        conditions,
    })
}

/// All answers that count, and how late the load was.
async fn run(clients: Vec<Client>, schedule: Schedule) -> Result<(Vec<Answer>, Histogram<u64>)> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate times a time is a small count")]
    let messages = (schedule.rate * schedule.time.as_secs_f64()) as usize;
    ensure!(messages >= clients.len(), "{messages} messages are not one for each of {} connections", clients.len());
    // Room for all: a proxy that stalls must not make the load late.
    let room = messages.div_ceil(clients.len());
    let mut lanes = Vec::new();
    let mut carriers = JoinSet::new();
    for client in clients {
        let (lane, due) = mpsc::channel(room);
        lanes.push(lane);
        carriers.spawn(carry(client, due));
    }
    let start = Instant::now();
    let (late, mut answers) = tokio::try_join!(send(lanes, start, messages, schedule.rate), all(carriers))?;
    let counts_from = start + schedule.time / WARM_UP_SHARE;
    answers.retain(|(due, _)| *due >= counts_from);
    Ok((answers, late))
}

async fn all(mut carriers: JoinSet<Result<Vec<Answer>>>) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while let Some(carried) = carriers.join_next().await {
        answers.extend(carried.context("a carrier broke off")??);
    }
    Ok(answers)
}

/// Hands each message to its connection when it is due, and notes how late that was.
async fn send(lanes: Vec<mpsc::Sender<Instant>>, start: Instant, messages: usize, rate: f64) -> Result<Histogram<u64>> {
    let clock = Clock::new()?;
    let mut late = histogram()?;
    for (number, lane) in (0..messages).zip(lanes.iter().cycle()) {
        let due = start + Duration::from_secs_f64(as_float(number) / rate);
        clock.until(due).await?;
        late.saturating_record(nanoseconds(due.elapsed()));
        // Fails when the carrier has ended, which then tells why.
        if lane.send(due).await.is_err() {
            pending::<()>().await;
        }
    }
    Ok(late)
}

/// When a message was due, and how long it took from then.
type Answer = (Instant, Duration);

async fn carry(client: Client, due: mpsc::Receiver<Instant>) -> Result<Vec<Answer>> {
    match client {
        Client::Dialogue(dialogue) if dialogue.is_tunnel() => carry_at_once(*dialogue, due).await,
        client => carry_in_turn(client, due).await,
    }
}

/// As many in flight as are due.
async fn carry_at_once(mut dialogue: Dialogue, mut due: mpsc::Receiver<Instant>) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    let mut in_flight = VecDeque::new();
    let mut more = true;
    while more || !in_flight.is_empty() {
        tokio::select! {
            next = due.recv(), if more => match next {
                Some(instant) => {
                    dialogue.ask().await?;
                    in_flight.push_back(instant);
                }
                None => more = false,
            },
            answer = dialogue.answer(), if !in_flight.is_empty() => {
                answer?;
                answers.extend(in_flight.pop_front().map(|instant| (instant, instant.elapsed())));
            }
        }
    }
    Ok(answers)
}

/// One in flight; what is due meanwhile waits, and its time runs.
async fn carry_in_turn(mut client: Client, mut due: mpsc::Receiver<Instant>) -> Result<Vec<Answer>> {
    let mut answers = Vec::new();
    while let Some(instant) = due.recv().await {
        client.exchange().await?;
        answers.push((instant, instant.elapsed()));
    }
    Ok(answers)
}

/// Nanoseconds up to a minute, to three digits.
fn histogram() -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).context("no histogram")
}

fn histogram_of(times: impl IntoIterator<Item = Duration>) -> Result<Histogram<u64>> {
    let mut histogram = histogram()?;
    times.into_iter().for_each(|time| histogram.saturating_record(nanoseconds(time)));
    Ok(histogram)
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a minute are far below 2^52")]
fn micros(times: &Histogram<u64>, quantile: f64) -> f64 {
    times.value_at_quantile(quantile) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        harness::{EchoTcp, echo_tcp::Manner},
        measure::{certificate::Sessions, row::Protocol},
    };

    const SCHEDULE: Schedule = Schedule { rate: 500.0, connections: 5, time: Duration::from_millis(400) };

    #[tokio::test]
    async fn every_message_has_an_answer_and_a_time() {
        let server = EchoTcp::start().await.unwrap();
        let way = Way::new(server.address(), Protocol::Tcp, Sessions::Fresh).unwrap();
        let clients = way.connect_all(5).await.unwrap();
        let (answers, late) = run(clients, SCHEDULE).await.unwrap();
        assert_eq!(late.len(), 200);
        assert_eq!(answers.len(), 180, "without the first tenth");
        assert!(answers.iter().all(|(_, time)| *time > Duration::from_micros(1)));
    }

    #[tokio::test]
    async fn messages_that_were_due_while_the_server_stalled_tell_of_it() {
        let server = EchoTcp::start().await.unwrap();
        let way = Way::new(server.address(), Protocol::Tcp, Sessions::Fresh).unwrap();
        let clients = way.connect_all(5).await.unwrap();
        server.behave(Manner::Slow(Duration::from_millis(100)));
        let (answers, _) = run(clients, SCHEDULE).await.unwrap();
        let times = histogram_of(answers.into_iter().map(|(_, time)| time)).unwrap();
        assert!(micros(&times, 0.5) > 50_000.0, "{}", micros(&times, 0.5));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_off_ends_the_measurement() {
        let mut server = EchoTcp::start().await.unwrap();
        let way = Way::new(server.address(), Protocol::Tcp, Sessions::Fresh).unwrap();
        let clients = way.connect_all(5).await.unwrap();
        server.stop().await;
        assert!(run(clients, SCHEDULE).await.is_err());
    }
}
