//! What a silent session takes.

use std::ops::Range;

use futures_util::{FutureExt as _, StreamExt as _, future::LocalBoxFuture, stream};
use tempfile::TempDir;

use crate::{
    process::{ANY, Im},
    tcp_client::TcpClient,
    ws::Client,
};

const SESSIONS: usize = 400;
/// Bytes of the server's memory by session: the goal of the project, measured with 4000 of them in docs/performance.md.
const MOST: usize = 8000;

/// Idle sessions once kept the read buffer that HTTP had before their upgrade, and later one of their own: 20 KB each.
#[tokio::test]
async fn a_silent_session_takes_no_buffer() {
    let data = TempDir::new().unwrap();
    let im = Im::start(data.path(), &["--tcp", ANY]).await;
    let (http, frames) = (im.address, im.address_of("tcp"));
    let websocket = move |user: String| async move { Client::login(http, &user, "phone").await }.boxed_local();
    let tcp = move |user: String| async move { TcpClient::login(frames, &user, "phone").await }.boxed_local();
    check(&im, "w", websocket).await;
    check(&im, "t", tcp).await;
}

async fn check<C>(im: &Im, name: &str, log_in: impl Fn(String) -> LocalBoxFuture<'static, C>) {
    let crowd = async |names: Range<usize>| -> Vec<C> {
        stream::iter(names).map(|number| log_in(format!("{name}{number}"))).buffer_unordered(16).collect().await
    };
    let _early = crowd(0..50).await;
    let before = im.memory();
    let sessions = crowd(50..50 + SESSIONS).await;
    let each = im.memory().saturating_sub(before) / sessions.len();
    assert!(each <= MOST, "{each} bytes by session");
}
