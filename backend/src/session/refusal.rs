//! How requests are refused: with the frame that answers them, or with `REFUSED` if they have none.

use bytes::Bytes;

use crate::frame::{Frame, RefusalCode, Refused, SendErr, SyncErr};

/// The answer to a request that is not even looked at; `None` for a frame that is no request.
pub(super) fn refusal(request: Frame, code: RefusalCode, retry_after_ms: u32) -> Option<Frame> {
    let refused = |of, conv| refused(of, conv, code, retry_after_ms);
    Some(match request {
        Frame::Send(send) => send_err(send.client_msg_id, send.conv, code, retry_after_ms),
        Frame::Sync(sync) => sync_err(sync.conv, code, retry_after_ms),
        Frame::History(history) => sync_err(history.conv, code, retry_after_ms),
        Frame::Ack(ack) => refused("ack", ack.conv),
        Frame::Read(read) => refused("read", read.conv),
        Frame::Unread(_) => refused("unread", String::new()),
        Frame::PresenceSub(_) => refused("presence_sub", String::new()),
        Frame::PresenceSet(_) => refused("presence_set", String::new()),
        _ => return None,
    })
}

pub(super) fn send_err(client_msg_id: Bytes, conv: String, code: RefusalCode, retry_after_ms: u32) -> Frame {
    Frame::SendErr(SendErr { client_msg_id, conv, code: code.into(), retry_after_ms })
}

pub(super) fn sync_err(conv: String, code: RefusalCode, retry_after_ms: u32) -> Frame {
    Frame::SyncErr(SyncErr { conv, code: code.into(), retry_after_ms })
}

pub(super) fn refused(of: &str, conv: String, code: RefusalCode, retry_after_ms: u32) -> Frame {
    Frame::Refused(Refused { of: of.to_owned(), conv, code: code.into(), retry_after_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_of_a_client_has_a_refusal_that_names_it() {
        for (request, want) in [
            (r#"{"type":"send","conv":"room:a"}"#, r#"{"type":"send_err","client_msg_id":"","conv":"room:a""#),
            (r#"{"type":"sync","conv":"room:a"}"#, r#"{"type":"sync_err","conv":"room:a""#),
            (r#"{"type":"history","conv":"room:a"}"#, r#"{"type":"sync_err","conv":"room:a""#),
            (r#"{"type":"ack","conv":"room:a"}"#, r#"{"type":"refused","of":"ack","conv":"room:a""#),
            (r#"{"type":"read","conv":"room:a"}"#, r#"{"type":"refused","of":"read","conv":"room:a""#),
            (r#"{"type":"unread"}"#, r#"{"type":"refused","of":"unread","conv":"""#),
            (r#"{"type":"presence_sub"}"#, r#"{"type":"refused","of":"presence_sub","conv":"""#),
            (r#"{"type":"presence_set"}"#, r#"{"type":"refused","of":"presence_set","conv":"""#),
        ] {
            let request = Frame::from_json(request).unwrap().unwrap();
            let answer = refusal(request, RefusalCode::TooFast, 500).unwrap().to_json();
            assert_eq!(answer, format!("{want},\"code\":\"too_fast\",\"retry_after_ms\":500}}"));
        }
        let pong = Frame::from_json(r#"{"type":"pong"}"#).unwrap().unwrap();
        assert_eq!(refusal(pong, RefusalCode::TooFast, 500), None);
    }
}
