//! A `warbler-im` process that can be killed and come back to where it was.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::harness::{Launch, Process, Workspace, binary};

/// Where servers keep what was said, in the workspace of a run. `warbler-im` allows all servers of a machine the same
/// directory.
const MESSAGES: &str = "messages";

/// One IM server.
#[derive(Debug)]
pub struct Server {
    pub name: String,
    /// Fixed, so that it comes back to where others look for it.
    pub address: SocketAddr,
    pub process: Process,
    secret_file: PathBuf,
    arguments: Vec<&'static str>,
}

impl Server {
    /// Starts a server with one thread. All servers of a workspace share what was said.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(
        workspace: &Workspace,
        name: &str,
        address: SocketAddr,
        secret_file: &Path,
        arguments: &[&'static str],
    ) -> Result<Self> {
        let process = launch(workspace, name, address, secret_file, arguments).await?;
        let (name, secret_file) = (name.to_owned(), secret_file.to_owned());
        Ok(Self { name, address, process, secret_file, arguments: arguments.to_vec() })
    }

    /// The directory in which all servers of a workspace keep what was said.
    #[must_use]
    pub fn store(workspace: &Workspace) -> PathBuf {
        workspace.path(MESSAGES)
    }

    /// Kills it (SIGKILL), as a crash would.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again, where it was.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self, workspace: &Workspace) -> Result<()> {
        self.process = launch(workspace, &self.name, self.address, &self.secret_file, &self.arguments).await?;
        Ok(())
    }
}

async fn launch(
    workspace: &Workspace,
    name: &str,
    address: SocketAddr,
    secret_file: &Path,
    arguments: &[&'static str],
) -> Result<Process> {
    let launch = Launch::new(binary("warbler-im")?)
        .name(name)
        .args(["run", "--node", name, "--bind", &address.to_string(), "--threads", "1", "--data"])
        .arg(Server::store(workspace))
        .arg("--jwt-secret-file")
        .arg(secret_file)
        .args(arguments);
    Process::start(workspace, launch).await
}
