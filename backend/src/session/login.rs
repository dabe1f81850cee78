//! From a connection's first frame to its session, or to the reason why there is none.

use std::{sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::time::{Instant, timeout_at};

use super::{Pushes, silence};
use crate::{
    clock::now,
    connection::{Connection, End},
    conversation::is_id,
    delivery::{Newcomer, Resumed, Seat},
    frame::{Frame, Login, LoginCode, LoginErr, LoginOk},
    server::Server,
    token::Identity,
};

/// When another server may be tried, in milliseconds.
const RETRY_ELSEWHERE: u32 = 500;

pub(super) async fn log_in(
    server: &Arc<Server>,
    connection: &mut Connection,
    login_by: Instant,
) -> Result<(Seat, Identity, Pushes), End> {
    let first = timeout_at(login_by, first_frame(connection));
    let login = tokio::select! {
        first = first => first.map_err(|_elapsed| End::LoginTimeout)??,
        () = server.leaving.cancelled() => return Err(End::Restart),
    };
    let session_id = session_id()?;
    let resume = login.resume.as_ref().map(|resume| resume.session_id.as_str());
    let admitted = check(server, &login).and_then(|identity| {
        let (user, device) = (identity.user.clone(), login.device_id.clone());
        // Online before the answer: what is stored after it is pushed, and what was stored before it the client asks
        // for.
        let seat = Seat::take(server, Newcomer { user, device, session_id: session_id.clone(), resume })?;
        Ok((identity, seat))
    });
    let (identity, (seat, pushes, resumed)) = match admitted {
        Ok(admitted) => admitted,
        Err(code) => {
            server.metrics.login_refused(code);
            let retry_after_ms = retry_after(code, server);
            connection.say(&Frame::LoginErr(LoginErr { code: code.into(), retry_after_ms })).await?;
            return Err(End::LoginRefused);
        }
    };
    let heartbeat_s = u32::try_from(server.config.heartbeat.as_secs()).unwrap_or(u32::MAX).max(1);
    let node = server.config.node.clone();
    let resumed = resumed == Resumed::Yes;
    server.metrics.logged_in(resumed);
    let ok = LoginOk { session_id, server_time: now(), heartbeat_s, resumed, node, caps: Vec::new() };
    connection.say(&Frame::LoginOk(ok)).await?;
    Ok((seat, identity, pushes))
}

async fn first_frame(connection: &mut Connection) -> Result<Login, End> {
    loop {
        match connection.hear().await? {
            None => {}
            Some(Frame::Login(login)) => return Ok(login),
            Some(Frame::Bye(_)) => return Err(End::Bye),
            Some(_) => return Err(End::LoginFirst),
        }
    }
}

fn check(server: &Server, login: &Login) -> Result<Identity, LoginCode> {
    if server.draining() {
        return Err(LoginCode::TryLater);
    }
    let now = Duration::from_millis(now()).as_secs_f64();
    let identity = server.config.verifier.verify(&login.token, now)?;
    if !is_id(&login.device_id) {
        return Err(LoginCode::DeviceInvalid);
    }
    Ok(identity)
}

/// When another try may succeed, in milliseconds; 0: not with this token.
fn retry_after(code: LoginCode, server: &Server) -> u32 {
    match code {
        LoginCode::TryLater => RETRY_ELSEWHERE,
        // Sessions whose device has gone end after some silence.
        LoginCode::TooManySessions => u32::try_from(silence(server).as_millis()).unwrap_or(u32::MAX),
        _ => 0,
    }
}

fn session_id() -> Result<String, End> {
    let mut id = [0; 15];
    SystemRandom::new().fill(&mut id).map_err(|_no_entropy| End::Internal)?;
    Ok(URL_SAFE_NO_PAD.encode(id))
}
