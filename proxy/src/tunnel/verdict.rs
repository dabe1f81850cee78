//! What the end of a tunnel says about its endpoint.

use super::Side;
use super::websocket::Frames;
use crate::trip::Outcome;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    /// The endpoint ended it where it should not have.
    EarlyClose,
    /// Neither: the client left too soon to tell, or the end was our doing.
    Nothing,
}

/// How a tunnel ended while an end by the endpoint was still early.
#[derive(Debug, Clone, Copy)]
pub(super) struct EarlyEnd {
    pub(super) outcome: Outcome,
    /// `None`: not a WebSocket.
    pub(super) websocket: Option<Closing>,
    /// The endpoint has sent something.
    pub(super) answered: bool,
}

/// The Close frames of a WebSocket: who sent the first, and its code if that was the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closing {
    None,
    ByClient,
    ByEndpoint(Option<u16>),
}

impl Closing {
    pub(super) fn new(first: Option<Side>, to_client: &Frames) -> Closing {
        match first {
            None => Closing::None,
            Some(Side::Client) => Closing::ByClient,
            Some(Side::Endpoint) => Closing::ByEndpoint(to_client.close_code()),
        }
    }
}

impl EarlyEnd {
    pub(super) fn verdict(self) -> Verdict {
        let by_endpoint = matches!(self.outcome, Outcome::EndpointClosed | Outcome::EndpointReset);
        let by_client = matches!(self.outcome, Outcome::ClientClosed | Outcome::ClientReset);
        match self.websocket {
            _ if !by_endpoint && !by_client => Verdict::Nothing,
            // It agreed to the upgrade; after Close frames either side may end the connection.
            Some(Closing::ByEndpoint(Some(code))) if is_trouble(code) => Verdict::EarlyClose,
            Some(Closing::None) if by_endpoint => Verdict::EarlyClose,
            Some(_) => Verdict::Good,
            // What an opaque answer says nobody knows here, but it is one: a short conversation is no failure.
            None if self.answered => Verdict::Good,
            None if by_endpoint => Verdict::EarlyClose,
            None => Verdict::Nothing,
        }
    }
}

/// Whether a server that says so is in trouble itself: internal error, restart, try again later, bad gateway (RFC 6455
/// section 7.4.1 and the IANA registry). All other codes are about the client, or the end of a conversation.
fn is_trouble(code: u16) -> bool {
    matches!(code, 1011..=1014)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::LeaveReason;

    fn check(outcome: Outcome, websocket: Option<Closing>, answered: bool, want: Verdict) {
        let end = EarlyEnd { outcome, websocket, answered };
        assert_eq!(end.verdict(), want, "{end:?}");
    }

    #[test]
    fn a_websocket_that_is_closed_as_websockets_are_never_counts() {
        for outcome in [Outcome::EndpointClosed, Outcome::ClientClosed, Outcome::EndpointReset, Outcome::ClientReset] {
            check(outcome, Some(Closing::ByClient), false, Verdict::Good);
            for code in [None, Some(1000), Some(1001), Some(1008), Some(4401)] {
                check(outcome, Some(Closing::ByEndpoint(code)), false, Verdict::Good);
            }
        }
    }

    #[test]
    fn a_websocket_that_ends_without_a_close_or_with_one_that_tells_of_trouble_counts() {
        check(Outcome::EndpointClosed, Some(Closing::None), true, Verdict::EarlyClose);
        check(Outcome::EndpointReset, Some(Closing::None), false, Verdict::EarlyClose);
        for code in 1011..=1014 {
            check(Outcome::EndpointClosed, Some(Closing::ByEndpoint(Some(code))), true, Verdict::EarlyClose);
            check(Outcome::ClientClosed, Some(Closing::ByEndpoint(Some(code))), true, Verdict::EarlyClose);
        }
    }

    #[test]
    fn an_opaque_tunnel_counts_when_its_endpoint_ends_it_without_a_word() {
        check(Outcome::EndpointClosed, None, false, Verdict::EarlyClose);
        check(Outcome::EndpointReset, None, false, Verdict::EarlyClose);
        check(Outcome::EndpointClosed, None, true, Verdict::Good);
    }

    #[test]
    fn clients_that_leave_and_ends_of_ours_say_nothing_against_an_endpoint() {
        check(Outcome::ClientClosed, None, false, Verdict::Nothing);
        check(Outcome::ClientReset, None, true, Verdict::Good);
        check(Outcome::ClientReset, Some(Closing::None), false, Verdict::Good);
        for ours in [Outcome::Left(LeaveReason::Stop), Outcome::Cut(LeaveReason::Stop), Outcome::Dropped] {
            check(ours, Some(Closing::None), true, Verdict::Nothing);
            check(ours, None, false, Verdict::Nothing);
        }
    }
}
