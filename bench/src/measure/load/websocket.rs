//! As much of WebSocket as the load needs.

use anyhow::{Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Stream;

const MASK: [u8; 4] = [0x17, 0x2a, 0xf3, 0x5c];

/// An upgrade with the key of RFC 6455's own example: the load is no place to test handshakes.
pub(super) async fn upgrade(stream: &mut Stream) -> Result<()> {
    let request = b"GET /ws HTTP/1.1\r\nhost: im.example.com\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    stream.write_all(request).await?;
    // A task that has had its turn (tokio gives 128 steps) may have put this into the TLS session only.
    stream.flush().await?;
    let mut head = Vec::with_capacity(512);
    let end = loop {
        if let Some(at) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut head).await? == 0 || head.len() > 4096 {
            bail!("the upgrade got no answer: {}", head.escape_ascii());
        }
    };
    ensure!(head.starts_with(b"HTTP/1.1 101"), "the upgrade was refused: {}", head.escape_ascii());
    ensure!(
        end == head.len(),
        "the endpoint is silent until it is spoken to, yet it said: {}",
        head[end..].escape_ascii()
    );
    Ok(())
}

/// A final binary frame from the server.
pub(super) fn frame(message: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(message.len(), 0);
    frame.extend(message);
    frame
}

/// A final binary frame from a client.
pub(super) fn masked_frame(message: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(message.len(), 0x80);
    frame.extend(MASK);
    frame.extend(message.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn frame_head(length: usize, mask_bit: u8) -> Vec<u8> {
    let [high, low] = u16::try_from(length).expect("the load's messages are short").to_be_bytes();
    if high == 0 && low < 126 { vec![0x82, mask_bit | low] } else { vec![0x82, mask_bit | 126, high, low] }
}
