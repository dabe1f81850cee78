//! Requests over HTTP/2, several in flight on one connection.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{Request, StatusCode, Version};

use super::Way;
use crate::serve::BODY;

/// One request at a time, on a connection that others share. The connection ends with the last of them.
#[derive(Debug, Clone)]
pub(in super::super) struct Lane {
    requests: SendRequest<Bytes>,
}

impl Lane {
    pub(super) async fn open(way: &Way) -> Result<Self> {
        let stream = way.open().await?;
        let (requests, connection) = client::handshake(stream).await.context("no HTTP/2")?;
        // How it ends, its requests tell.
        tokio::spawn(async move { _ = connection.await });
        Ok(Self { requests })
    }

    pub(super) async fn exchange(&mut self) -> Result<()> {
        let request = Request::get("https://im.example.com/hello")
            .version(Version::HTTP_2)
            .header("user-agent", "warbler-bench")
            .body(())
            .context("no request")?;
        let mut requests = self.requests.clone().ready().await.context("the connection takes no more requests")?;
        let (answer, _) = requests.send_request(request, true).context("the request was not taken")?;
        let answer = answer.await.context("no answer")?;
        ensure!(answer.status() == StatusCode::OK, "answered: {}", answer.status());
        let mut body = answer.into_body();
        let mut read = 0;
        while let Some(piece) = body.data().await {
            let piece = piece.context("the answer broke off")?;
            ensure!(BODY[read..].starts_with(&piece), "answered: {}", piece.escape_ascii());
            read += piece.len();
            body.flow_control().release_capacity(piece.len()).context("no flow control")?;
        }
        ensure!(read == BODY.len(), "the answer ended after {read} bytes");
        Ok(())
    }
}
