//! What goes on in one session: which request waits for which answer, and what has to be said when.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use backend::frame::{
    Ack, Bye, Frame, Msg, Ping, Read, Reconnect, RefusalCode, Refused, SendAck, SendErr, Sync, SyncErr, SyncPage,
    Unread, UnreadList,
};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use super::Receipts;
use crate::im::{
    Session, SessionError,
    outbox::Outbox,
    session::{PAGE, further, millis},
    shelf::Shelf,
};

/// How long what was delivered waits to be told to the server, so that much of it is told at once.
const RECEIPTS_WAIT: Duration = Duration::from_millis(500);
/// Nothing is due sooner.
const FAR: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub(super) struct Talk {
    pub(super) session: Session,
    since: Instant,
    patience: Duration,
    last_said: Instant,
    /// What was asked and not answered, the oldest first, and since when.
    unanswered: VecDeque<(Request, Instant)>,
    /// The list of unread conversations: asked for after the login, page by page, and when next.
    unread: UnreadState,
    receipts_at: Option<Instant>,
    pings: u64,
    pongs: u64,
    leaving: Option<Leaving>,
    told_caught_up: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Request {
    Send(Bytes),
    /// What is missing of a conversation.
    Sync(String),
    /// A conversation from its beginning, and after which message this page is.
    Whole(String, u64),
    Unread,
    Ping,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum UnreadState {
    /// The page after this conversation is to be asked for then.
    Due(String, Instant),
    Asked(String),
    Known,
}

/// How the client is to leave.
#[derive(Debug)]
struct Leaving {
    /// When it begins: nothing new is said from then on, and `BYE` when all sends are answered.
    at: Instant,
    /// When it is gone in any case; `None` while nobody has set a time.
    deadline: Option<Instant>,
    said_bye: bool,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// The server has asked it to connect again, to this address and with this session if they are to be had.
    Asked { prefer: Option<SocketAddr>, resume: bool },
    /// Its user wants to go.
    Own,
}

/// What came of waiting.
#[derive(Debug)]
pub(super) enum Next {
    /// Nothing that others have to know.
    Nothing,
    CaughtUp,
    Push(Msg),
    Acknowledged(SendAck),
    Refused {
        id: Bytes,
        code: RefusalCode,
    },
    Closed {
        conv: String,
        code: RefusalCode,
    },
    /// A page of the conversation that is wanted from its beginning, and whether there are more.
    Whole(Result<(Vec<Msg>, bool), SessionError>),
    /// The client has left as the server wanted.
    Moves {
        resume: bool,
        prefer: Option<SocketAddr>,
    },
    /// The client has left because it wanted to: in order, or however the session ended before that.
    Left(Result<(), SessionError>),
}

impl Talk {
    pub(super) fn new(session: Session, patience: Duration, now: Instant) -> Self {
        Self {
            session,
            since: now,
            patience,
            last_said: now,
            unanswered: VecDeque::new(),
            unread: UnreadState::Due(String::new(), now),
            receipts_at: None,
            pings: 0,
            pongs: 0,
            leaving: None,
            told_caught_up: false,
        }
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn knows_what_is_unread(&self) -> bool {
        self.unread == UnreadState::Known
    }

    /// Says `PING`; answered when there are as many [`pongs`](Self::pongs).
    pub(super) fn ping(&mut self) -> u64 {
        self.pings += 1;
        self.ask(&Frame::Ping(Ping { t: self.pings }), Request::Ping, Instant::now());
        self.pings
    }

    pub(super) fn pongs(&self) -> u64 {
        self.pongs
    }

    /// Begins to leave: `BYE` is said when all sends are answered.
    pub(super) fn leave(&mut self, now: Instant) {
        let (deadline, said_bye) = (Some(now + self.patience), self.said_bye());
        self.leaving = Some(Leaving { at: now, deadline, said_bye, why: Why::Own });
    }

    /// Says what has to be said by now, and waits for the next frame or until there is something to say again.
    /// `whole` is the conversation that is wanted from its beginning, and how far it is there.
    pub(super) async fn next(
        &mut self,
        outbox: &mut Outbox,
        shelf: &mut Shelf,
        receipts: Receipts,
        whole: Option<(&str, u64)>,
    ) -> Result<Next, SessionError> {
        match self.go_on(outbox, shelf, receipts, whole).await {
            Err(error) => self.ended(error),
            next => next,
        }
    }

    async fn go_on(
        &mut self,
        outbox: &mut Outbox,
        shelf: &mut Shelf,
        receipts: Receipts,
        whole: Option<(&str, u64)>,
    ) -> Result<Next, SessionError> {
        let now = Instant::now();
        if let Some(left) = self.say_what_is_due(outbox, shelf, receipts, whole, now)? {
            return Ok(left);
        }
        let caught_up = self.knows_what_is_unread() && shelf.is_caught_up();
        if caught_up != std::mem::replace(&mut self.told_caught_up, caught_up) && caught_up {
            return Ok(Next::CaughtUp);
        }
        let until = self.next_due(outbox, shelf, now);
        match timeout_at(until, self.session.next()).await {
            Ok(Ok(frame)) => self.hear(frame, outbox, shelf),
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Ok(Next::Nothing),
        }
    }

    fn say_what_is_due(
        &mut self,
        outbox: &mut Outbox,
        shelf: &mut Shelf,
        receipts: Receipts,
        whole: Option<(&str, u64)>,
        now: Instant,
    ) -> Result<Option<Next>, SessionError> {
        if let Some(left) = self.leave_when_due(shelf, receipts, now) {
            return Ok(Some(left));
        }
        if self.said_bye() {
            return Ok(None);
        }
        if let Some((_, asked)) = self.unanswered.front()
            && now.duration_since(*asked) >= self.patience
        {
            return Err(SessionError::Silent { waited: self.patience });
        }
        if let UnreadState::Due(after, at) = &self.unread
            && *at <= now
        {
            let after = after.clone();
            self.ask(&Frame::Unread(Unread { after: after.clone() }), Request::Unread, now);
            self.unread = UnreadState::Asked(after);
        }
        for (conv, after_seq) in shelf.ask(now) {
            let sync = Sync { conv: conv.clone(), after_seq, limit: PAGE };
            self.ask(&Frame::Sync(sync), Request::Sync(conv), now);
        }
        if let Some((conv, after_seq)) = whole
            && !self.unanswered.iter().any(|(request, _)| matches!(request, Request::Whole(..)))
        {
            let sync = Sync { conv: conv.into(), after_seq, limit: PAGE };
            self.ask(&Frame::Sync(sync), Request::Whole(conv.into(), after_seq), now);
        }
        // Who is about to leave says nothing new: it would be answered elsewhere.
        while !self.is_leaving(now)
            && let Some(send) = outbox.next_to_send(now)
        {
            let request = Request::Send(send.client_msg_id.clone());
            self.ask(&Frame::Send(send), request, now);
        }
        self.tell_when_due(shelf, receipts, now);
        if now.duration_since(self.last_said) >= self.session.heartbeat() {
            self.ping();
        }
        Ok(None)
    }

    /// Says what was delivered and `BYE` when it is time to leave and all sends are answered. When the deadline has
    /// come this session is over.
    fn leave_when_due(&mut self, shelf: &mut Shelf, receipts: Receipts, now: Instant) -> Option<Next> {
        let leaving = self.leaving.as_ref().filter(|leaving| leaving.at <= now)?;
        if leaving.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(match leaving.why {
                Why::Asked { prefer, resume } => Next::Moves { resume: resume && !leaving.said_bye, prefer },
                Why::Own => Next::Left(Err(SessionError::Silent { waited: self.patience })),
            });
        }
        let answered = !self.unanswered.iter().any(|(request, _)| matches!(request, Request::Send(_)));
        if answered && !leaving.said_bye {
            self.tell(shelf, receipts, now);
            self.say(&Frame::Bye(Bye {}), now);
            let end = now + self.patience;
            if let Some(leaving) = &mut self.leaving {
                leaving.said_bye = true;
                leaving.deadline = Some(leaving.deadline.map_or(end, |deadline| deadline.min(end)));
            }
        }
        None
    }

    fn is_leaving(&self, now: Instant) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.at <= now)
    }

    fn said_bye(&self) -> bool {
        self.leaving.as_ref().is_some_and(|leaving| leaving.said_bye)
    }

    /// What it means that the session has ended.
    fn ended(&self, error: SessionError) -> Result<Next, SessionError> {
        match &self.leaving {
            // Everything was answered, and the client was about to connect again.
            Some(Leaving { why: Why::Asked { prefer, .. }, said_bye: true, .. }) if error.may_pass() => {
                Ok(Next::Moves { resume: false, prefer: *prefer })
            }
            Some(Leaving { why: Why::Own, said_bye: true, .. }) if error.is_farewell() => Ok(Next::Left(Ok(()))),
            Some(Leaving { why: Why::Own, .. }) => Ok(Next::Left(Err(error))),
            _ => Err(error),
        }
    }

    fn tell_when_due(&mut self, shelf: &mut Shelf, receipts: Receipts, now: Instant) {
        match self.receipts_at {
            None if receipts != Receipts::None && shelf.has_news_for_the_server() => {
                self.receipts_at = Some(now + RECEIPTS_WAIT)
            }
            Some(at) if at <= now => {
                self.receipts_at = None;
                self.tell(shelf, receipts, now);
            }
            None | Some(_) => {}
        }
    }

    /// Tells the server what was delivered, at once.
    fn tell(&mut self, shelf: &mut Shelf, receipts: Receipts, now: Instant) {
        if receipts == Receipts::None {
            return;
        }
        for (conv, seq) in shelf.tell() {
            let frame = match receipts {
                Receipts::Read => Frame::Read(Read { conv, seq }),
                Receipts::Delivered | Receipts::None => Frame::Ack(Ack { conv, seq }),
            };
            self.say(&frame, now);
        }
    }

    fn next_due(&self, outbox: &Outbox, shelf: &Shelf, now: Instant) -> Instant {
        let leave =
            self.leaving.as_ref().and_then(|leaving| Some(leaving.at).filter(|at| now < *at).or(leaving.deadline));
        if self.said_bye() {
            return leave.unwrap_or(now + FAR);
        }
        let send = outbox.next_due().filter(|_| !self.is_leaving(now));
        let silence = self.unanswered.front().map(|(_, asked)| *asked + self.patience);
        let unread = match &self.unread {
            UnreadState::Due(_, at) => Some(*at),
            UnreadState::Asked(_) | UnreadState::Known => None,
        };
        let heartbeat = Some(self.last_said + self.session.heartbeat());
        [silence, leave, unread, heartbeat, self.receipts_at, send, shelf.next_due()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(now + FAR)
    }

    fn ask(&mut self, frame: &Frame, request: Request, now: Instant) {
        self.unanswered.push_back((request, now));
        self.say(frame, now);
    }

    fn say(&mut self, frame: &Frame, now: Instant) {
        self.last_said = now;
        self.session.say(frame);
    }

    /// Takes the oldest request out that fits.
    fn answered(&mut self, fits: impl Fn(&Request) -> bool) -> Option<Request> {
        let place = self.unanswered.iter().position(|(request, _)| fits(request))?;
        self.unanswered.remove(place).map(|(request, _)| request)
    }

    fn hear(&mut self, frame: Frame, outbox: &mut Outbox, shelf: &mut Shelf) -> Result<Next, SessionError> {
        let now = Instant::now();
        Ok(match frame {
            Frame::Msg(message) => {
                shelf.push(&message, now);
                Next::Push(message)
            }
            Frame::SendAck(ack) => {
                self.answered(|request| *request == Request::Send(ack.client_msg_id.clone()));
                Next::Acknowledged(ack)
            }
            Frame::SendErr(refusal) => self.send_refused(refusal, outbox, now),
            Frame::SyncPage(page) => self.page(page, shelf, now)?,
            Frame::SyncErr(refusal) => self.no_page(refusal, shelf, now),
            Frame::UnreadList(list) => self.unread(&list, shelf, now),
            Frame::Refused(refusal) => self.refused(&refusal, shelf, now),
            Frame::Pong(_) => {
                self.pongs += u64::from(self.answered(|request| *request == Request::Ping).is_some());
                Next::Nothing
            }
            Frame::Reconnect(hint) => {
                self.asked_to_leave(&hint, now);
                Next::Nothing
            }
            Frame::Kick(_) => return Err(SessionError::Kicked),
            _ => Next::Nothing,
        })
    }

    /// The latest hint counts, unless the client is gone already in all but the answer.
    fn asked_to_leave(&mut self, hint: &Reconnect, now: Instant) {
        let is_going = |leaving: &Leaving| leaving.said_bye || matches!(leaving.why, Why::Own);
        if !self.leaving.as_ref().is_some_and(is_going) {
            self.leaving = Some(Leaving::asked(hint, now));
        }
    }

    fn send_refused(&mut self, refusal: SendErr, outbox: &mut Outbox, now: Instant) -> Next {
        self.answered(|request| *request == Request::Send(refusal.client_msg_id.clone()));
        if refusal.retry_after_ms == 0 {
            return Next::Refused { code: refusal.code(), id: refusal.client_msg_id };
        }
        outbox.postpone(&refusal.client_msg_id, now + millis(refusal.retry_after_ms));
        Next::Nothing
    }

    /// Pages come in the order of the requests, so the oldest one for this conversation is answered.
    fn page(&mut self, page: SyncPage, shelf: &mut Shelf, now: Instant) -> Result<Next, SessionError> {
        let SyncPage { ref conv, next_seq, more, .. } = page;
        Ok(match self.answered(|request| request.is_about(conv)) {
            Some(Request::Whole(_, after)) => {
                if more {
                    further(after, next_seq)?;
                }
                Next::Whole(Ok((page.msgs, more)))
            }
            Some(_) => {
                if more {
                    further(shelf.known(conv), next_seq)?;
                }
                shelf.page(&page, now);
                Next::Nothing
            }
            None => Next::Nothing,
        })
    }

    fn no_page(&mut self, refusal: SyncErr, shelf: &mut Shelf, now: Instant) -> Next {
        let retry_after = millis(refusal.retry_after_ms);
        let code = refusal.code();
        let again = (!retry_after.is_zero()).then(|| now + retry_after);
        match self.answered(|request| request.is_about(&refusal.conv)) {
            Some(Request::Whole(..)) => Next::Whole(Err(SessionError::Refused { code, retry_after })),
            Some(_) => {
                shelf.no_page(&refusal.conv, again);
                if again.is_some() { Next::Nothing } else { Next::Closed { conv: refusal.conv, code } }
            }
            None => Next::Nothing,
        }
    }

    fn unread(&mut self, list: &UnreadList, shelf: &mut Shelf, now: Instant) -> Next {
        self.answered(|request| *request == Request::Unread);
        for entry in &list.convs {
            shelf.unread(entry, now);
        }
        self.unread = match list.convs.last().filter(|_| list.more) {
            Some(last) => UnreadState::Due(last.conv.clone(), now),
            None => UnreadState::Known,
        };
        Next::Nothing
    }

    /// A request without an answer of its own was refused.
    fn refused(&mut self, refusal: &Refused, shelf: &mut Shelf, now: Instant) -> Next {
        let again = now + millis(refusal.retry_after_ms);
        match &*refusal.of {
            "ack" | "read" if refusal.retry_after_ms > 0 => {
                shelf.told_in_vain(&refusal.conv);
                self.receipts_at = Some(again);
            }
            "unread" => {
                self.answered(|request| *request == Request::Unread);
                if let UnreadState::Asked(after) = &self.unread {
                    self.unread = UnreadState::Due(after.clone(), again);
                }
            }
            _ => {}
        }
        Next::Nothing
    }
}

impl Request {
    fn is_about(&self, wanted: &str) -> bool {
        matches!(self, Self::Sync(conv) | Self::Whole(conv, _) if conv == wanted)
    }
}

impl Leaving {
    /// Not before `after_ms`, after a random part of `spread_ms` more, and before `deadline_ms`, if there is one that
    /// leaves the time for it.
    fn asked(hint: &Reconnect, now: Instant) -> Self {
        let after = millis(hint.after_ms);
        let deadline = (hint.deadline_ms > 0).then(|| millis(hint.deadline_ms).max(after));
        let at = after + millis(hint.spread_ms).mul_f64(fastrand::f64());
        // The protocol leaves open what an address looks like: what is none of ours is passed over.
        let prefer = hint.prefer.iter().find_map(|address| address.parse().ok());
        Self {
            at: now + deadline.map_or(at, |deadline| at.min(deadline)),
            deadline: deadline.map(|deadline| now + deadline),
            said_bye: false,
            why: Why::Asked { prefer, resume: hint.resume_ok },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_obeyed_within_its_times() {
        let now = Instant::now();
        let hint = Reconnect { after_ms: 100, spread_ms: 400, deadline_ms: 450, ..Reconnect::default() };
        let leaves: Vec<Duration> = (0..1000).map(|_| Leaving::asked(&hint, now).at - now).collect();
        let least = leaves.iter().min().copied().unwrap_or_default();
        assert!(least >= Duration::from_millis(100) && least < Duration::from_millis(150), "{least:?}");
        assert_eq!(leaves.iter().max(), Some(&Duration::from_millis(450)), "never behind the deadline");
    }

    #[test]
    fn no_hint_makes_a_client_leave_before_its_time() {
        let now = Instant::now();
        let after = now + Duration::from_millis(500);
        for (deadline_ms, deadline) in [(0, None), (100, Some(after)), (500, Some(after))] {
            let leaving = Leaving::asked(&Reconnect { after_ms: 500, deadline_ms, ..Reconnect::default() }, now);
            assert_eq!((leaving.at, leaving.deadline), (after, deadline), "deadline_ms {deadline_ms}");
        }
    }

    #[test]
    fn an_address_to_prefer_is_one_that_can_be_connected_to() {
        let prefer = ["im.example.com".to_owned(), "192.0.2.7:443".into()].to_vec();
        let hint = Reconnect { prefer, ..Reconnect::default() };
        let why = Leaving::asked(&hint, Instant::now()).why;
        assert!(
            matches!(why, Why::Asked { prefer: Some(prefer), .. } if prefer == ([192, 0, 2, 7], 443).into()),
            "{why:?}"
        );
    }
}
