//! A real Chromium, driven over WebDriver as a person would drive it, for tests of pages.
//!
//! The protocol is JSON over HTTP, and a dozen of its commands are enough; the crates that speak it bring the `webdriver`
//! crate (MPL-2.0, which `deny.toml` does not take) or a whole HTTP client of their own.
//!
//! Nothing of it reaches the network: every name but the loopback address does not resolve, and what Chromium does by
//! itself in the background is off. Each browser has a fresh profile, and ends with its driver: it is spoken to over a
//! pipe, whose end it notices.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Launch, Process, RawClient, Workspace, eventually, http};

/// Debian's names. `WARBLER_CHROMIUM` and `WARBLER_CHROMEDRIVER` name others.
const CHROMIUM: (&str, &str) = ("WARBLER_CHROMIUM", "/usr/bin/chromium");
const CHROMEDRIVER: (&str, &str) = ("WARBLER_CHROMEDRIVER", "/usr/bin/chromedriver");
/// How long a command may take: a browser starts in a second, and in many on a busy machine.
const COMMAND: Duration = Duration::from_secs(60);
/// How long a page may take to become what it should be.
const SOON: Duration = Duration::from_secs(20);
/// The driver takes a free port for IPv6 and then wants the same one for IPv4, which somebody else may have: it gives up
/// with these words, and another start takes another port.
const TAKEN: &str = "port not available";
const STARTS: usize = 5;
/// What Chromium would do by itself is switched off; without a screen and in a container it needs the first three.
const ARGUMENTS: [&str; 13] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--remote-debugging-pipe",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];
/// The member of a WebDriver answer that names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Starts browsers.
#[derive(Debug)]
pub struct Driver {
    process: Process,
    address: SocketAddr,
}

/// One browser with a profile of its own, which is one window.
#[derive(Debug)]
pub struct Browser {
    address: SocketAddr,
    /// The path of its session at the driver.
    session: String,
    _profile: TempDir,
}

/// How a page is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

impl Driver {
    /// Starts Chromium's driver on a free port.
    ///
    /// # Errors
    /// When Chromium or its driver is not installed: the error says how to install it.
    pub async fn start(workspace: &Workspace) -> Result<Self> {
        find(CHROMIUM)?;
        let launch = Launch::new(find(CHROMEDRIVER)?).arg("--port=0");
        let mut starts = 0;
        let (process, line) = loop {
            starts += 1;
            let process = Process::spawn(workspace, launch.clone())?;
            match process.wait_for_log("started successfully on port", SOON).await {
                Ok(line) => break (process, line),
                Err(_) if starts < STARTS && process.stdout_lines().iter().any(|line| line.contains(TAKEN)) => {}
                Err(error) => return Err(error),
            }
        };
        let port: u16 = line
            .rsplit(' ')
            .next()
            .and_then(|word| word.trim_end_matches('.').parse().ok())
            .with_context(|| format!("no port in {line:?}"))?;
        Ok(Self { process, address: SocketAddr::from(([127, 0, 0, 1], port)) })
    }

    /// Opens a browser.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn browser(&self) -> Result<Browser> {
        let profile = tempfile::Builder::new().prefix("warbler-chromium-").tempdir().context("no directory")?;
        let mut arguments = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", profile.path().display()));
        let options = json!({ "binary": find(CHROMIUM)?, "args": arguments });
        let wanted = json!({
            "capabilities": { "alwaysMatch": {
                "browserName": "chrome",
                "goog:chromeOptions": options,
                "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
            } }
        });
        let begun =
            command(self.address, "POST", "/session", &wanted).await.with_context(|| self.process.last_lines())?;
        let id = begun["sessionId"].as_str().context("no session")?;
        Ok(Browser { address: self.address, session: format!("/session/{id}"), _profile: profile })
    }
}

impl Browser {
    /// Shows a page in a window of this size, in CSS pixels, to somebody who wants no motion: what is seen is final.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub async fn look(&self, width: u32, height: u32, scheme: Scheme) -> Result<()> {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size).await?;
        let value = if scheme == Scheme::Dark { "dark" } else { "light" };
        let media = json!({ "features": [
            { "name": "prefers-color-scheme", "value": value },
            { "name": "prefers-reduced-motion", "value": "reduce" },
        ] });
        self.devtools("Emulation.setEmulatedMedia", &media).await
    }

    async fn devtools(&self, name: &str, parameters: &Value) -> Result<()> {
        self.ask("POST", "/goog/cdp/execute", &json!({ "cmd": name, "params": parameters })).await.map(drop)
    }

    /// Goes to an address and waits until it is loaded.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn go(&self, url: &str) -> Result<()> {
        self.ask("POST", "/url", &json!({ "url": url })).await.map(drop)
    }

    /// Loads the page again.
    ///
    /// # Errors
    /// When it cannot be loaded.
    pub async fn reload(&self) -> Result<()> {
        self.ask("POST", "/refresh", &json!({})).await.map(drop)
    }

    /// Runs a function's body in the page, with `arguments`, and gives what it returns.
    ///
    /// # Errors
    /// When it throws.
    pub async fn run(&self, body: &str, arguments: &[Value]) -> Result<Value> {
        self.ask("POST", "/execute/sync", &json!({ "script": body, "args": arguments })).await
    }

    /// Clicks on the first element of a CSS selector, once it is there and can be clicked.
    ///
    /// # Errors
    /// When that does not come to be.
    pub async fn click(&self, selector: &str) -> Result<()> {
        self.on(selector, "/click", &json!({})).await
    }

    /// Types into an element, as if by keys.
    ///
    /// # Errors
    /// When it does not come to be there.
    pub async fn type_into(&self, selector: &str, text: &str) -> Result<()> {
        self.on(selector, "/value", &json!({ "text": text })).await
    }

    async fn on(&self, selector: &str, what: &str, parameters: &Value) -> Result<()> {
        let mut last = None;
        let done = eventually(SOON, "", async || match self.try_on(selector, what, parameters).await {
            Ok(()) => Some(()),
            Err(error) => {
                last = Some(error);
                None
            }
        });
        let done = done.await;
        done.map_err(|late| last.unwrap_or(late)).with_context(|| format!("{what} on {selector}"))
    }

    async fn try_on(&self, selector: &str, what: &str, parameters: &Value) -> Result<()> {
        let found = self.ask("POST", "/element", &json!({ "using": "css selector", "value": selector })).await?;
        let element = found[ELEMENT].as_str().context("no element")?;
        self.ask("POST", &format!("/element/{element}{what}"), parameters).await.map(drop)
    }

    /// Waits until an expression of the page is true.
    ///
    /// # Errors
    /// When it does not come to be: the error shows the text of the page.
    pub async fn wait_until(&self, expression: &str, arguments: &[Value]) -> Result<()> {
        let body = format!("return Boolean({expression})");
        let seen = eventually(SOON, expression, async || {
            let now = self.run(&body, arguments).await.ok()?;
            (now == true).then_some(())
        });
        match seen.await {
            Ok(()) => Ok(()),
            Err(late) => {
                let shown = self.run("return document.body.innerText", &[]).await?;
                bail!("{late} with {arguments:?}; the page shows:\n{}", shown.as_str().unwrap_or_default())
            }
        }
    }

    /// Writes a picture of the page as PNG.
    ///
    /// # Errors
    /// When there is none, or it cannot be written.
    pub async fn picture(&self, file: &Path) -> Result<()> {
        let taken = self.ask("GET", "/screenshot", &Value::Null).await?;
        let png = STANDARD.decode(taken.as_str().context("no picture")?).context("a picture in base64")?;
        fs::write(file, png).with_context(|| format!("cannot write {}", file.display()))
    }

    /// What the console has said since the last call, errors of loading among it.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub async fn console(&self) -> Result<Vec<String>> {
        let told = self.log("browser").await?;
        Ok(told.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect())
    }

    /// The addresses that were asked for since the last call, over HTTP and WebSocket.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub async fn requests(&self) -> Result<Vec<String>> {
        let mut urls = Vec::new();
        for entry in self.log("performance").await? {
            let event: Value =
                serde_json::from_str(entry["message"].as_str().unwrap_or_default()).context("an event")?;
            let (event, parameters) = (&event["message"]["method"], &event["message"]["params"]);
            let url = match event.as_str() {
                Some("Network.requestWillBeSent") => &parameters["request"]["url"],
                Some("Network.webSocketCreated") => &parameters["url"],
                _ => continue,
            };
            urls.extend(url.as_str().map(str::to_owned));
        }
        Ok(urls)
    }

    async fn log(&self, kind: &str) -> Result<Vec<Value>> {
        let log = self.ask("POST", "/se/log", &json!({ "type": kind })).await?;
        Ok(log.as_array().cloned().unwrap_or_default())
    }

    /// Closes the browser and removes its profile. One that is only dropped ends with its driver, and what it still
    /// writes stays behind.
    ///
    /// # Errors
    /// When the driver refuses it.
    pub async fn close(self) -> Result<()> {
        self.ask("DELETE", "", &Value::Null).await.map(drop)
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        command(self.address, method, &format!("{}{path}", self.session), body).await
    }
}

/// One command of WebDriver; what is in its `value`.
async fn command(driver: SocketAddr, method: &str, path: &str, body: &Value) -> Result<Value> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let client = RawClient::connect(driver).await?.with_patience(COMMAND);
    let fields = [("content-type", "application/json")];
    let answer = http::request_over(client, &driver.to_string(), method, path, &fields, body.as_bytes()).await?;
    let mut told = answer.json()?;
    let value = told["value"].take();
    ensure!(answer.status == 200, "{}: {}", value["error"], value["message"]);
    Ok(value)
}

fn find((variable, usual): (&str, &str)) -> Result<String> {
    let path = std::env::var(variable).unwrap_or_else(|_unset| usual.to_owned());
    ensure!(
        Path::new(&path).is_file(),
        "{path} is not there: install Chromium with `apt-get install chromium chromium-driver`, or name it in {variable}"
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        let error = find(("WARBLER_NO_SUCH_VARIABLE", "/nowhere/chromium")).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/chromium is not there: install Chromium with `apt-get install"), "{error}");
    }
}
