//! Frames over plain TCP, each behind its length: four bytes, the most significant first.
//!
//! A connection at rest holds no buffer: it takes one when there is something to read, and lets go of it when all that
//! came has been taken. A buffer grows with what has come, not with what a length promises.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::End;
use crate::{
    downstream::Downstream,
    frame::{Close, Frame, MAX_FRAME},
};

/// Room for what is read at once, in bytes.
const READ: usize = 4096;
/// Bytes that leave in one write, if there are as many.
const TOGETHER: usize = 16 * 1024;

pub(super) struct Tcp {
    stream: Downstream,
    unread: BytesMut,
    /// A write has begun and not ended: perhaps the client has half of a frame.
    half_said: bool,
}

impl Tcp {
    pub(super) fn new(stream: Downstream) -> Self {
        Self { stream, unread: BytesMut::new(), half_said: false }
    }

    pub(super) async fn hear(&mut self) -> Result<Option<Frame>, End> {
        loop {
            if let Some(frame) = self.take_frame()? {
                return Ok(Frame::from_bytes(frame)?);
            }
            self.read().await?;
        }
    }

    /// The next frame, if all of it is there.
    fn take_frame(&mut self) -> Result<Option<Bytes>, End> {
        let Some((length, rest)) = self.unread.split_first_chunk() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(End::TooLong);
        }
        if rest.len() < length {
            return Ok(None);
        }
        self.unread.advance(size_of::<u32>());
        Ok(Some(self.unread.split_to(length).freeze()))
    }

    async fn read(&mut self) -> Result<(), End> {
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
            self.stream.readable().await.map_err(|_gone| End::Gone)?;
        }
        if self.unread.capacity() == self.unread.len() {
            self.unread.reserve(READ);
        }
        match self.stream.read_buf(&mut self.unread).await {
            Ok(0) if self.unread.is_empty() => Err(End::Finished),
            Ok(0) | Err(_) => Err(End::Gone),
            Ok(_) => Ok(()),
        }
    }

    pub(super) async fn say_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> Result<(), End> {
        self.write_all(frames).await.map_err(|_gone| End::Gone)
    }

    /// Not whole if it is dropped before it ends, as it is when the client takes nothing.
    async fn write_all(&mut self, frames: impl IntoIterator<Item = Bytes>) -> io::Result<()> {
        self.half_said = true;
        let mut bytes = Vec::new();
        for frame in frames {
            let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&frame);
            if bytes.len() >= TOGETHER {
                self.stream.write_all(&bytes).await?;
                bytes.clear();
            }
        }
        self.stream.write_all(&bytes).await?;
        self.half_said = false;
        Ok(())
    }

    pub(super) async fn close(mut self, end: End) -> io::Result<()> {
        // In the middle of another frame `CLOSE` would be taken for a part of it.
        if let Some((code, reason)) = end.code()
            && !self.half_said
        {
            let close = Frame::Close(Close { code: code.into(), reason: reason.into() });
            self.write_all([close.to_bytes()]).await?;
        }
        self.stream.shutdown().await?;
        // Closing a socket with unread bytes sends a reset, which may overtake the last frame; so read what still comes.
        let mut rest = [0; 512];
        while self.stream.read(&mut rest).await? > 0 {}
        Ok(())
    }
}
