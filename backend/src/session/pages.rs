//! What a client asks for to catch up: pages of a conversation, forwards and backwards, and what is unread.

use super::{
    Session,
    refusal::{refused, sync_err},
    waiting::RETRY_FAILED,
};
use crate::{
    connection::End,
    conversation::Conversation,
    frame::{
        Frame, History, MAX_FRAME, MAX_UNREAD, Receipt, RefusalCode, Sync, SyncPage, Unread, UnreadConv, UnreadList,
    },
    server::Server,
    store::{Cursor, Cut, Page, Part, Side, StoreError},
};

/// Messages in a page when the client does not say, and at most.
const PAGE: u32 = 100;
const PAGE_MAX: u32 = 500;
/// What a page needs besides its messages, in bytes.
const PAGE_HEAD: usize = 256;
/// Room for messages in a page, in bytes.
const PAGE_BYTES: usize = MAX_FRAME - PAGE_HEAD;

impl Session<'_> {
    pub(super) async fn sync(&mut self, Sync { conv, after_seq, limit }: Sync) -> Result<(), End> {
        match self.page(&conv, Side::After(after_seq), limit).await {
            Ok(Page { msgs, last_seq }) => {
                let next_seq = msgs.last().map_or(after_seq, |msg| msg.seq);
                let more = next_seq < last_seq;
                let receipt =
                    if more { None } else { receipt_of_the_other(&self.server, &conv, self.seat.user()).await };
                let page = Frame::SyncPage(SyncPage { conv, msgs, next_seq, last_seq, more });
                let wire = self.connection.wire();
                let frames: Vec<_> = [page].iter().chain(&receipt).map(|frame| wire.bytes(frame)).collect();
                self.connection.say_all(frames).await
            }
            Err((code, retry_after_ms)) => self.say(&sync_err(conv, code, retry_after_ms)).await,
        }
    }

    pub(super) async fn history(&mut self, History { conv, before_seq, limit }: History) -> Result<(), End> {
        let before = if before_seq == 0 { u64::MAX } else { before_seq };
        match self.page(&conv, Side::Before(before), limit).await {
            Ok(Page { msgs, last_seq }) => {
                // 1 and not 0 when nothing is left, or a client that goes on would begin again at the end.
                let next_seq = msgs.first().map_or(1, |msg| msg.seq);
                let page = SyncPage { conv, msgs, next_seq, last_seq, more: next_seq > 1 };
                self.say(&Frame::SyncPage(page)).await
            }
            Err((code, retry_after_ms)) => self.say(&sync_err(conv, code, retry_after_ms)).await,
        }
    }

    pub(super) async fn unread(&mut self, Unread { after }: Unread) -> Result<(), End> {
        self.all_answered().await?;
        // One more than is told, to know whether there is more.
        let limit = u32::try_from(MAX_UNREAD + 1).unwrap_or(u32::MAX);
        let frame = match self.server.store.taking_part(self.seat.user(), &after, limit).await {
            Ok(mut parts) => {
                let more = parts.len() > MAX_UNREAD;
                parts.truncate(MAX_UNREAD);
                Frame::UnreadList(UnreadList { convs: parts.into_iter().map(unread_conv).collect(), more })
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a user's conversations cannot be read");
                refused("unread", String::new(), RefusalCode::Busy, RETRY_FAILED)
            }
        };
        self.say(&frame).await
    }

    /// Or why not, and when to ask again.
    async fn page(&mut self, conv: &str, side: Side, limit: u32) -> Result<Page, (RefusalCode, u32)> {
        // A room is followed before it is read, so that no message falls between the page and the first push.
        self.come_in(conv).map_err(|code| (code, 0))?;
        let cut = Cut { side, limit: messages(limit), max_bytes: PAGE_BYTES };
        self.server.store.page(conv, self.seat.user(), cut).await.map_err(|error| match error {
            StoreError::NotAMember => (RefusalCode::NotAMember, 0),
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "a page cannot be read");
                (RefusalCode::Busy, RETRY_FAILED)
            }
        })
    }
}

/// How far the other user of a direct conversation has got, for one who may have missed it being pushed.
async fn receipt_of_the_other(server: &Server, conv: &str, user: &str) -> Option<Frame> {
    let Some(Conversation::Direct(one, other)) = Conversation::parse(conv) else { return None };
    let theirs = if one == user { other } else { one };
    if theirs == user {
        return None;
    }
    let Cursor { delivered_seq, read_seq } = server.store.cursor(conv, theirs).await.unwrap_or_else(|error| {
        tracing::error!(error = &error as &dyn std::error::Error, "a cursor cannot be read");
        // The page is worth sending without it.
        Cursor::default()
    });
    let receipt = Receipt { conv: conv.to_owned(), user: theirs.to_owned(), delivered_seq, read_seq };
    (delivered_seq > 0).then_some(Frame::Receipt(receipt))
}

fn messages(limit: u32) -> u32 {
    if limit == 0 { PAGE } else { limit.min(PAGE_MAX) }
}

fn unread_conv(part: Part) -> UnreadConv {
    let n = part.unread();
    UnreadConv { conv: part.conv, last_seq: part.last_seq, read_seq: part.cursor.read_seq, n }
}
