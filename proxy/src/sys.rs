//! What the standard library and tokio do not offer of Linux: socket options against vanished peers, `TCP_INFO`, and
//! the descriptor limit.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use rustix::net::sockopt;

use crate::config::TcpOptions;

/// Six probes, ten seconds apart, find a dead phone within keepalive + 1 min; the kernel's nine at 75 s take 11 min.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
pub(crate) const KEEPALIVE_PROBES: u32 = 6;

/// Sets what keeps long-lived connections honest: no delay for small messages, keepalive, `TCP_USER_TIMEOUT`. Linux gives
/// what a listening socket has to those that are accepted on it; one that had other options before is never without.
pub(crate) fn prepare(socket: impl AsFd, options: TcpOptions) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_tcp_nodelay(socket, true)?;
    if !options.keepalive.is_zero() {
        sockopt::set_tcp_keepidle(socket, options.keepalive)?;
        sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
        sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    }
    sockopt::set_socket_keepalive(socket, !options.keepalive.is_zero())?;
    let millis = u32::try_from(options.user_timeout.as_millis()).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(socket, millis)?;
    Ok(())
}

/// The kernel's figures for a connected socket.
pub(crate) fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).map_err(io::Error::other)?;
    #[expect(unsafe_code, reason = "neither std nor rustix reads TCP_INFO")]
    // SAFETY: the descriptor is borrowed for the call; `info` is valid for `length` bytes, every bit pattern of this
    // struct of integers is valid, and the kernel writes at most `length` bytes.
    let info = unsafe {
        let done = libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        );
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        info.assume_init()
    };
    Ok(info)
}

/// The round trip of the handshake, if asked right after it.
pub(crate) fn handshake_rtt(socket: impl AsFd) -> Option<Duration> {
    let info = tcp_info(socket).ok()?;
    (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

/// The lowest round trip of the last minutes, as far as the kernel remembers (`net.ipv4.tcp_min_rtt_wlen`). Only for a
/// socket that has sent something a few times: before that, the kernel knows the handshake and no more.
pub(crate) fn lowest_rtt(socket: impl AsFd) -> Option<Duration> {
    const SENT: u32 = 3;
    let info = tcp_info(socket).ok()?;
    // The kernel writes all ones where it has no minimum.
    let known = info.tcpi_data_segs_out >= SENT && (1..u32::MAX).contains(&info.tcpi_min_rtt);
    known.then(|| Duration::from_micros(info.tcpi_min_rtt.into()))
}

/// Descriptors that this process may open; raised to the hard limit first.
pub(crate) fn raise_descriptor_limit() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without the right to raise it, what we have is what there is.
    setrlimit(Resource::Nofile, limit).ok();
    let current = getrlimit(Resource::Nofile).current.unwrap_or(1 << 20);
    usize::try_from(current).unwrap_or(1 << 20)
}

/// Whether an error of `accept` or `connect` means that descriptors or memory ran out.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Whether a failed `connect` is this machine's fault and says nothing about the other end.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    is_exhaustion(error) || error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

/// CPU time that this process has used, user and system.
pub(crate) fn cpu_time() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(keepalive: Duration, user_timeout: Duration) -> TcpOptions {
        TcpOptions { keepalive, user_timeout, backlog: 1 }
    }

    #[test]
    fn a_prepared_socket_looks_for_a_peer_that_has_vanished() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        prepare(&socket, options(Duration::from_secs(300), Duration::from_secs(60))).unwrap();
        assert!(sockopt::tcp_nodelay(&socket).unwrap() && sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), Duration::from_secs(300));
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), KEEPALIVE_PROBES);
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 60_000);
    }

    #[test]
    fn an_accepted_socket_has_what_its_listener_has_at_that_time() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let accept = || {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0, client)
        };
        prepare(&listener, options(Duration::from_secs(300), Duration::from_secs(60))).unwrap();
        let (socket, _client) = accept();
        assert!(sockopt::tcp_nodelay(&socket).unwrap() && sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&socket).unwrap(), Duration::from_secs(300));
        assert_eq!(sockopt::tcp_keepintvl(&socket).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&socket).unwrap(), KEEPALIVE_PROBES);
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 60_000);
        prepare(&listener, options(Duration::ZERO, Duration::ZERO)).unwrap();
        let (socket, _client) = accept();
        assert!(sockopt::tcp_nodelay(&socket).unwrap() && !sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 0);
    }

    #[test]
    fn a_socket_knows_its_handshake_at_once_and_its_lowest_round_trip_after_three_messages() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        assert!(handshake_rtt(&socket).unwrap() < Duration::from_secs(1));
        for sent in 0..3 {
            assert_eq!(lowest_rtt(&socket), None, "{sent}");
            socket.write_all(b"x").unwrap();
            peer.read_exact(&mut [0]).unwrap();
        }
        assert!(lowest_rtt(&socket).unwrap() < Duration::from_secs(1));
    }

    #[test]
    fn zero_leaves_a_socket_as_the_kernel_makes_it() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        prepare(&socket, options(Duration::ZERO, Duration::ZERO)).unwrap();
        assert!(!sockopt::socket_keepalive(&socket).unwrap());
        assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 0);
    }
}
