//! A small client of the protocol, in both of its forms.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use backend::frame::{
    Ack, Frame, History, Login, LoginOk, Msg, Read, Receipt, Resume, SUBPROTOCOL, SUBPROTOCOL_JSON, Send, SendAck,
    Sync, SyncPage, Unread, UnreadList,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use ring::hmac;
use tokio::{net::TcpStream, time::timeout};
use tokio_websockets::{ClientBuilder, MaybeTlsStream, Message, WebSocketStream};

use crate::process::{DEADLINE, SECRET};

pub(crate) struct Client {
    pub(crate) websocket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    json: bool,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::connect_as(address, SUBPROTOCOL).await
    }

    pub(crate) async fn connect_json(address: SocketAddr) -> Self {
        Self::connect_as(address, SUBPROTOCOL_JSON).await
    }

    async fn connect_as(address: SocketAddr, subprotocol: &'static str) -> Self {
        let (websocket, response) = ClientBuilder::from_uri(format!("ws://{address}/ws").parse().unwrap())
            .add_header(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol))
            .unwrap()
            .connect()
            .await
            .unwrap();
        assert_eq!(response.headers()[SEC_WEBSOCKET_PROTOCOL], subprotocol);
        Self { websocket, json: subprotocol == SUBPROTOCOL_JSON }
    }

    /// Connects and logs in.
    pub(crate) async fn login(address: SocketAddr, user: &str, device: &str) -> Self {
        let mut client = Self::connect(address).await;
        client.log_in(user, device).await;
        client
    }

    pub(crate) async fn log_in(&mut self, user: &str, device: &str) -> LoginOk {
        self.say_login(token(user, 3600), device).await;
        match self.hear().await {
            Frame::LoginOk(ok) => ok,
            other => panic!("{other:?}"),
        }
    }

    /// Logs in to go on with an earlier session.
    pub(crate) async fn resume(&mut self, user: &str, device: &str, session_id: &str) -> LoginOk {
        let resume = Some(Resume { session_id: session_id.into(), last_push: 0 });
        let login = Login { token: token(user, 3600), device_id: device.into(), resume, ..Login::default() };
        self.say(&Frame::Login(login)).await;
        match self.hear().await {
            Frame::LoginOk(ok) => ok,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn say_login(&mut self, token: String, device: &str) {
        self.say(&Frame::Login(Login { token, device_id: device.into(), ..Login::default() })).await;
    }

    pub(crate) async fn say(&mut self, frame: &Frame) {
        let message = if self.json { Message::text(frame.to_json()) } else { Message::binary(frame.to_bytes()) };
        self.websocket.send(message).await.unwrap();
    }

    /// The next frame; a close or silence fails the test.
    pub(crate) async fn hear(&mut self) -> Frame {
        let message = self.message().await.expect("a frame before the close");
        read(self.json, message)
    }

    /// The next frame, or `None` after the end.
    pub(crate) async fn hear_or_end(&mut self) -> Option<Frame> {
        match self.websocket.next().await {
            Some(Ok(message)) if !message.is_close() => Some(read(self.json, message)),
            _ => None,
        }
    }

    async fn message(&mut self) -> Option<Message> {
        loop {
            let message = timeout(DEADLINE, self.websocket.next()).await.expect("something in time");
            let message = message.map(Result::unwrap);
            // The answer to a ping is read by whoever reads next.
            if !message.as_ref().is_some_and(Message::is_pong) {
                return message;
            }
        }
    }

    /// Reads over everything until the server's close, and gives its code.
    pub(crate) async fn closed(&mut self) -> u16 {
        loop {
            let message = self.message().await.expect("a Close before the end");
            if let Some((code, _)) = message.as_close() {
                // Reading on sends our own Close.
                assert!(self.message().await.is_none());
                return code.into();
            }
        }
    }

    /// Sends and waits for the acknowledgement; pushes meanwhile are lost.
    pub(crate) async fn send(&mut self, conv: &str, id: u128, body: &[u8]) -> SendAck {
        self.say(&send(conv, id, body)).await;
        loop {
            match self.hear().await {
                Frame::SendAck(ack) => return ack,
                Frame::Msg(_) | Frame::Receipt(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn sync(&mut self, conv: &str, after_seq: u64, limit: u32) -> SyncPage {
        self.say(&Frame::Sync(Sync { conv: conv.into(), after_seq, limit })).await;
        self.page().await
    }

    pub(crate) async fn back(&mut self, conv: &str, before_seq: u64, limit: u32) -> SyncPage {
        self.say(&Frame::History(History { conv: conv.into(), before_seq, limit })).await;
        self.page().await
    }

    async fn page(&mut self) -> SyncPage {
        loop {
            match self.hear().await {
                Frame::SyncPage(page) => return page,
                Frame::Msg(_) | Frame::Receipt(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn ack(&mut self, conv: &str, seq: u64) {
        self.say(&Frame::Ack(Ack { conv: conv.into(), seq })).await;
    }

    pub(crate) async fn read(&mut self, conv: &str, seq: u64) {
        self.say(&Frame::Read(Read { conv: conv.into(), seq })).await;
    }

    pub(crate) async fn unread(&mut self, after: &str) -> UnreadList {
        self.say(&Frame::Unread(Unread { after: after.into() })).await;
        loop {
            match self.hear().await {
                Frame::UnreadList(list) => return list,
                Frame::Msg(_) | Frame::Receipt(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn hear_receipt(&mut self) -> Receipt {
        match self.hear().await {
            Frame::Receipt(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    /// The whole conversation, page by page.
    pub(crate) async fn history(&mut self, conv: &str) -> Vec<Msg> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = self.sync(conv, after, 0).await;
            after = page.next_seq;
            all.extend(page.msgs);
            if !page.more {
                return all;
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

fn read(json: bool, message: Message) -> Frame {
    let frame = if json {
        Frame::from_json(message.as_text().expect("text"))
    } else {
        assert!(message.is_binary());
        Frame::from_bytes(message.into_payload().into())
    };
    frame.unwrap().expect("a known frame")
}

pub(crate) fn send(conv: &str, id: u128, body: &[u8]) -> Frame {
    let client_msg_id = Bytes::copy_from_slice(&id.to_be_bytes());
    Frame::Send(Send { conv: conv.into(), client_msg_id, kind: 0, body: Bytes::copy_from_slice(body), sent_at: 1 })
}

/// A good token for a user, that expires so many seconds from now.
pub(crate) fn token(user: &str, expires_in: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let claims = format!(r#"{{"sub":"{user}","exp":{}}}"#, now + expires_in);
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, &claims, SECRET)
}

pub(crate) fn signed(header: &str, claims: &str, secret: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes()));
    format!("{text}.{signature}")
}
