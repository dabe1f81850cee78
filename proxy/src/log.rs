//! What the process says on stderr: one line an event, at a level that a reload may change.

use tracing_subscriber::reload::Handle;
use tracing_subscriber::{EnvFilter, Registry, fmt, prelude::*, reload};

use crate::config::{Log, LogFormat};

/// pingora's own lines say what our events say, or name the inside.
const SILENCED: &str = "pingora=off,pingora_core=off,pingora_proxy=off,pingora_runtime=off,pingora_pool=off";

/// The running log's filter.
pub struct LogFilter(Option<Handle<EnvFilter, Registry>>);

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log.level: {0}")]
    Level(#[from] tracing_subscriber::filter::ParseError),
    #[error("log cannot be started: {0}")]
    Start(#[from] tracing_subscriber::util::TryInitError),
    #[error("log.level cannot be changed: {0}")]
    Change(#[from] reload::Error),
}

impl LogFilter {
    /// Starts the log of this process.
    ///
    /// # Errors
    /// When the level is none, or a log runs already.
    pub fn start(log: &Log) -> Result<LogFilter, LogError> {
        let (filter, handle) = reload::Layer::new(filter(&log.level)?);
        let registry = tracing_subscriber::registry().with(filter);
        let lines = fmt::layer().with_writer(std::io::stderr);
        match log.format {
            LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
            LogFormat::Text => registry.with(lines).try_init()?,
        }
        Ok(LogFilter(Some(handle)))
    }

    /// For tests: nothing is said.
    pub fn none() -> LogFilter {
        LogFilter(None)
    }

    /// # Errors
    /// When the level is none.
    pub fn change(&self, level: &str) -> Result<(), LogError> {
        let filter = filter(level)?;
        match &self.0 {
            Some(handle) => Ok(handle.reload(filter)?),
            None => Ok(()),
        }
    }
}

fn filter(level: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(format!("{level},{SILENCED}"))
}
