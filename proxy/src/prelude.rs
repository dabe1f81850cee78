//! The prelude: what is read of a connection before the pick, and sent first.
//!
//! Nothing for opaque TCP; a PROXY header; an HTTP request head. Each part has a deadline and a largest size.

pub mod head;
pub mod proxy_protocol;
pub mod sound;
