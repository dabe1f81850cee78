//! A small client of the protocol over plain TCP.

use std::net::SocketAddr;

use backend::frame::{Close, Frame, Login, LoginOk, Msg, SendAck};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    process::DEADLINE,
    ws::{send, token},
};

pub(crate) struct TcpClient {
    pub(crate) stream: TcpStream,
}

impl TcpClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    pub(crate) async fn login(address: SocketAddr, user: &str, device: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.log_in(user, device).await;
        client
    }

    pub(crate) async fn log_in(&mut self, user: &str, device: &str) -> LoginOk {
        self.say(&login(user, device)).await;
        match self.hear().await {
            Frame::LoginOk(ok) => ok,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        self.stream.write_all(&bytes(frame)).await.unwrap();
    }

    /// The next frame; an end or silence fails the test.
    pub(crate) async fn hear(&mut self) -> Frame {
        self.hear_or_end().await.expect("a frame before the end")
    }

    /// The next frame, or `None` after the end.
    pub(crate) async fn hear_or_end(&mut self) -> Option<Frame> {
        timeout(DEADLINE, async {
            let length = self.stream.read_u32().await.ok()?;
            let mut frame = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Frame::from_bytes(frame.into()).unwrap().expect("a known frame"))
        })
        .await
        .expect("something in time")
    }

    /// Reads over everything until the server's CLOSE, and gives its code; the end of the stream has to follow.
    pub(crate) async fn closed(&mut self) -> u32 {
        loop {
            if let Frame::Close(Close { code, reason }) = self.hear().await {
                assert!(!reason.is_empty());
                assert_eq!(self.hear_or_end().await, None, "CLOSE is the last frame");
                return code;
            }
        }
    }

    pub(crate) async fn send(&mut self, conv: &str, id: u128, body: &[u8]) -> SendAck {
        self.say(&send(conv, id, body)).await;
        loop {
            match self.hear().await {
                Frame::SendAck(ack) => return ack,
                Frame::Msg(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn hear_msg(&mut self) -> Msg {
        match self.hear().await {
            Frame::Msg(msg) => msg,
            other => panic!("{other:?}"),
        }
    }
}

/// A frame behind its length.
pub(crate) fn bytes(frame: &Frame) -> Vec<u8> {
    let frame = frame.to_bytes();
    [&u32::try_from(frame.len()).unwrap().to_be_bytes(), &frame[..]].concat()
}

pub(crate) fn login(user: &str, device: &str) -> Frame {
    Frame::Login(Login { token: token(user, 3600), device_id: device.into(), ..Login::default() })
}
