//! The chat page in real Chromium, through a real edge, on real servers.
//!
//! Needs `warbler` and `warbler-im` beside `warbler-bench`, as `./check` builds them, and Debian's packages chromium and
//! chromium-driver.

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bench::{
    harness::{Browser, Driver, Launch, Process, Scheme, Workspace, binary, eventually, http, reserve_port},
    im::{Secret, Server},
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
/// The names of the servers.
const PLACES: [&str; 2] = ["frankfurt-1", "lisbon-1"];
/// Would be an alert if a browser took it for HTML.
const NASTY: &str = "<img/src=x/onerror=alert(1)>";
/// What a key is in WebDriver.
const ENTER: &str = "\u{e007}";

/// An edge in front of two places for servers, of which only those that were started are there.
struct World {
    workspace: Workspace,
    secret: Secret,
    secret_file: PathBuf,
    places: [SocketAddr; 2],
    edge: Process,
    driver: Driver,
}

impl World {
    async fn start() -> Result<Self> {
        let workspace = Workspace::new()?;
        let secret = Secret::random();
        let secret_file = workspace.write("jwt.secret", secret.reveal())?;
        let places = [reserve_port()?, reserve_port()?].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let configuration = format!(
            r#"
[admin]
bind = ["127.0.0.1:0"]

[listeners.web]
bind = ["127.0.0.1:0"]
protocol = "http"
[[listeners.web.routes]]
path-prefix = "/chat"
cluster = "im"
[[listeners.web.routes]]
path-prefix = "/api"
cluster = "im"
[[listeners.web.routes]]
path-prefix = "/ws"
cluster = "im"

[clusters.im]
health.http = {{ path = "/readyz", interval = "200ms", fast-interval = "100ms", timeout = "1s", rise = 1, fall = 1 }}
[clusters.im.localities.frankfurt]
endpoints = [{{ address = "{}" }}]
[clusters.im.localities.lisbon]
endpoints = [{{ address = "{}" }}]
"#,
            places[0], places[1]
        );
        let file = workspace.write("edge.toml", configuration)?;
        let launch = Launch::new(binary("warbler")?).args(["run", "--config"]).arg(file);
        let edge = Process::start(&workspace, launch).await?;
        let driver = Driver::start(&workspace).await?;
        Ok(Self { workspace, secret, secret_file, places, edge, driver })
    }

    /// Starts a server at one of the two places, and waits until the edge sends clients to it.
    async fn server(&self, place: usize) -> Result<Server> {
        let arguments = ["--demo-login", "--admin", "--faults", "--drain-rate", "1000"];
        self.server_with(place, &arguments).await
    }

    async fn server_with(&self, place: usize, arguments: &[&'static str]) -> Result<Server> {
        let name = PLACES[place];
        let address = self.places[place];
        let server = Server::start(&self.workspace, name, address, &self.secret_file, arguments).await?;
        self.reached(&server).await?;
        Ok(server)
    }

    async fn reached(&self, server: &Server) -> Result<()> {
        let (edge, name) = (self.web()?, server.name.clone());
        eventually(SOON, "the edge sends clients to the server", async || {
            let answer = http::get(edge, "/chat/").await.ok()?;
            (answer.field("x-im-node") == Some(&name)).then_some(())
        })
        .await
    }

    fn web(&self) -> Result<SocketAddr> {
        self.edge.address("listeners.web", 0)
    }

    async fn browser(&self) -> Result<Browser> {
        let browser = self.driver.browser().await?;
        browser.look(1280, 800, Scheme::Light).await?;
        browser.go(&format!("http://{}/chat/", self.web()?)).await?;
        Ok(browser)
    }

    /// A browser in which somebody has signed in.
    async fn person(&self, user: &str) -> Result<Browser> {
        let browser = self.browser().await?;
        sign_in(&browser, user).await?;
        Ok(browser)
    }
}

/// Closes all browsers.
async fn end(browsers: impl IntoIterator<Item = Browser>) -> Result<()> {
    for browser in browsers {
        browser.close().await?;
    }
    Ok(())
}

async fn sign_in(browser: &Browser, user: &str) -> Result<()> {
    browser.type_into("#user", user).await?;
    browser.click("#sign-in-form .primary").await?;
    connected(browser).await
}

async fn connected(browser: &Browser) -> Result<()> {
    browser.wait_until("document.querySelector('#app').dataset.link === 'up'", &[]).await
}

async fn chat_with(browser: &Browser, user: &str) -> Result<()> {
    browser.click("#new-chat").await?;
    browser.type_into("#chat-user", user).await?;
    browser.click("#chat-form .primary").await?;
    browser.wait_until("document.querySelector('#talk-name').textContent === arguments[0]", &[user.into()]).await
}

/// A row of the list of conversations, by its title.
const ROW: &str = "Array.from(document.querySelectorAll('#talks button'))\
                   .find((row) => row.querySelector('.title').textContent === arguments[0])";

/// Opens a conversation from the list.
async fn open(browser: &Browser, name: &str) -> Result<()> {
    browser.wait_until(ROW, &[name.into()]).await?;
    browser.run(&format!("{ROW}.click()"), &[name.into()]).await?;
    browser.wait_until("document.querySelector('#talk-name').textContent === arguments[0]", &[name.into()]).await
}

async fn say(browser: &Browser, text: &str) -> Result<()> {
    browser.type_into("#text", text).await?;
    browser.type_into("#text", ENTER).await
}

/// Waits until the last message is this one, with this at the end of its line of time and state.
async fn last_message(browser: &Browser, text: &str, state: &str) -> Result<()> {
    let last = "document.querySelector('#messages .message:last-child .body')?.textContent === arguments[0] \
                && document.querySelector('#messages .message:last-child .meta').textContent.endsWith(arguments[1])";
    browser.wait_until(last, &[text.into(), state.into()]).await
}

/// The texts of all messages that are shown, events among them.
async fn texts(browser: &Browser) -> Result<Vec<String>> {
    let rows = "return Array.from(document.querySelectorAll('#messages .message .body, #messages .event'),
                (row) => row.textContent)";
    serde_json::from_value(browser.run(rows, &[]).await?).context("a list of texts")
}

async fn wait_for_texts(browser: &Browser, want: &[&str]) -> Result<()> {
    let same = "JSON.stringify(Array.from(document.querySelectorAll('#messages .message .body, #messages .event'),
                (row) => row.textContent)) === arguments[0]";
    browser.wait_until(same, &[serde_json::to_string(want)?.into()]).await
}

async fn about(browser: &Browser, text: &str) -> Result<()> {
    browser
        .wait_until("document.querySelector('#talk-about').textContent.startsWith(arguments[0])", &[text.into()])
        .await
}

async fn served_by(browser: &Browser, node: &str) -> Result<()> {
    connected(browser).await?;
    browser.wait_until("document.querySelector('#node').textContent === arguments[0]", &[node.into()]).await
}

/// Nothing was said on the console, no dialog came up, and no address but this machine's was asked.
async fn is_clean(browser: &Browser) -> Result<()> {
    let said = browser.console().await?;
    ensure!(said.is_empty(), "the console said {said:#?}");
    only_loopback(browser).await
}

async fn only_loopback(browser: &Browser) -> Result<()> {
    // What begins with the others comes out of Chromium itself.
    let inside = ["http://127.0.0.1:", "ws://127.0.0.1:", "chrome://", "data:"];
    let requests = browser.requests().await?;
    let outside = requests.iter().find(|url| !inside.iter().any(|begin| url.starts_with(begin)));
    ensure!(outside.is_none(), "{outside:?} was asked for");
    ensure!(requests.iter().any(|url| url.contains("/chat/app.js")), "no requests were seen: {requests:?}");
    Ok(())
}

#[tokio::test]
async fn two_people_talk() {
    talking().await.unwrap();
}

async fn talking() -> Result<()> {
    let world = World::start().await?;
    let server = world.server(0).await?;
    let alice = world.person("alice").await?;
    let bob = world.person("bob").await?;
    served_by(&alice, PLACES[0]).await?;
    alice.wait_until("/^[0-9.]+ ms$/.test(document.querySelector('#rtt').textContent)", &[]).await?;

    chat_with(&alice, "bob").await?;
    about(&alice, "online").await?;
    say(&alice, "hello bob").await?;
    last_message(&alice, "hello bob", "Delivered").await?;
    let unread = format!("{ROW}?.querySelector('.unread')?.firstChild.data === '1'");
    bob.wait_until(&unread, &["alice".into()]).await?;
    bob.wait_until("document.title === '(1) warbler chat'", &[]).await?;
    open(&bob, "alice").await?;
    last_message(&bob, "hello bob", "").await?;
    last_message(&alice, "hello bob", "Read").await?;
    bob.wait_until("document.title === 'warbler chat'", &[]).await?;
    say(&bob, "hello alice").await?;
    last_message(&alice, "hello alice", "").await?;
    last_message(&bob, "hello alice", "Read").await?;

    // A push that is lost leaves a hole, which is seen at the next one and filled.
    fault(&server, r#"{"drop_push":true}"#).await?;
    say(&bob, "lost on the way").await?;
    eventually(SOON, "the push is lost", async || {
        let load = http::get(server.address, "/load").await.ok()?.json().ok()?;
        (load["pushes_dropped"].as_u64() > Some(0)).then_some(())
    })
    .await?;
    fault(&server, r#"{"drop_push":false}"#).await?;
    say(&bob, "and found").await?;
    wait_for_texts(&alice, &["hello bob", "hello alice", "lost on the way", "and found"]).await?;

    // What looks like HTML is text, and a person may be called so.
    let script = "<script>alert(1)</script> & \"'`";
    say(&bob, script).await?;
    last_message(&alice, script, "").await?;
    chat_with(&alice, NASTY).await?;
    say(&alice, NASTY).await?;
    last_message(&alice, NASTY, "Sent").await?;
    let made = alice.run("return document.querySelectorAll('#app img, #app script').length", &[]).await?;
    ensure!(made == 0, "a text became an element");

    // Who goes is seen to go.
    open(&alice, "bob").await?;
    bob.click("#sign-out").await?;
    about(&alice, "last seen Today").await?;
    say(&alice, "are you there?").await?;
    last_message(&alice, "are you there?", "Sent").await?;
    sign_in(&bob, "bob").await?;
    about(&alice, "online").await?;
    last_message(&alice, "are you there?", "Delivered").await?;
    for browser in [&alice, &bob] {
        is_clean(browser).await?;
    }
    end([alice, bob]).await
}

#[tokio::test]
async fn people_at_different_servers_see_each_other() {
    apart().await.unwrap();
}

async fn apart() -> Result<()> {
    let world = World::start().await?;
    let frankfurt = world.server(0).await?;
    let alice = world.person("alice").await?;
    served_by(&alice, PLACES[0]).await?;
    // Who comes now comes elsewhere, who is there stays.
    fault(&frankfurt, r#"{"ready":false}"#).await?;
    let _lisbon = world.server(1).await?;
    let bob = world.person("bob").await?;
    served_by(&bob, PLACES[1]).await?;
    served_by(&alice, PLACES[0]).await?;

    chat_with(&alice, "bob").await?;
    about(&alice, "online").await?;
    say(&alice, "where are you?").await?;
    open(&bob, "alice").await?;
    about(&bob, "online").await?;
    last_message(&bob, "where are you?", "").await?;
    last_message(&alice, "where are you?", "Read").await?;
    bob.click("#sign-out").await?;
    about(&alice, "last seen Today").await?;
    sign_in(&bob, "bob").await?;
    served_by(&bob, PLACES[1]).await?;
    about(&alice, "online").await?;
    for browser in [&alice, &bob] {
        is_clean(browser).await?;
    }
    end([alice, bob]).await
}

#[tokio::test]
async fn earlier_messages_come_by_scrolling_up() {
    scrolling().await.unwrap();
}

/// Sends as another device of the user who is signed in: with the page's own means, but without the page.
const FILL: &str = "const [conv, count] = arguments;
    const socket = new WebSocket(`ws://${location.host}/ws`, 'im.v1.json');
    const say = (frame) => socket.send(JSON.stringify(frame));
    socket.onopen = () => say({ type: 'login', token: sessionStorage['warbler.token'], device_id: 'filler' });
    socket.onmessage = ({ data }) => {
      if (JSON.parse(data).type !== 'login_ok') return;
      for (let number = 1; number <= count; number += 1) {
        const client_msg_id = number.toString(16).padStart(32, '0');
        say({ type: 'send', conv, client_msg_id, body: `line ${number}` });
      }
      say({ type: 'bye' });
    };";

async fn scrolling() -> Result<()> {
    const COUNT: usize = 150;
    let world = World::start().await?;
    let _server = world.server(0).await?;
    let alice = world.person("alice").await?;
    let bob = world.person("bob").await?;
    chat_with(&bob, "alice").await?;
    alice.run(FILL, &["dm:alice:bob".into(), COUNT.into()]).await?;
    // What was pushed is there, whole and in its order; what was not pushed is asked for.
    last_message(&bob, "line 150", "").await?;
    // Where the first page leaves room, so that nobody can scroll, the next ones come by themselves.
    alice.look(1280, 4000, Scheme::Light).await?;
    alice.reload().await?;
    connected(&alice).await?;
    open(&alice, "bob").await?;
    let full = "document.querySelector('#messages .message')
        && document.querySelector('#scroll').scrollHeight > document.querySelector('#scroll').clientHeight";
    alice.wait_until(full, &[]).await?;
    alice.look(1280, 800, Scheme::Light).await?;
    alice.reload().await?;
    connected(&alice).await?;
    last_message(&alice, "line 150", "Read").await?;
    let shown = texts(&alice).await?.len();
    ensure!(shown < COUNT, "only the end is there at first, not {shown}");
    let first = "document.querySelector('#messages .message .body').textContent";
    while alice.run(&format!("return {first}"), &[]).await? != "line 1" {
        let before = alice.run(&format!("return {first}"), &[]).await?;
        let place = "const row = document.querySelector('#messages .message');
            document.querySelector('#scroll').scrollTop = 0; return row.getBoundingClientRect().top";
        let at = alice.run(place, &[]).await?;
        alice.wait_until(&format!("{first} !== arguments[0]"), std::slice::from_ref(&before)).await?;
        // The message that was on top stays where it was.
        let still = "Math.abs(Array.from(document.querySelectorAll('#messages .message')).find((row) =>
            row.querySelector('.body').textContent === arguments[0]).getBoundingClientRect().top - arguments[1]) < 60";
        alice.wait_until(still, &[before, at]).await?;
    }
    let want: Vec<_> = (1..=COUNT).map(|number| format!("line {number}")).collect();
    for browser in [&alice, &bob] {
        ensure!(texts(browser).await?.ends_with(&want[110..]), "{:?}", texts(browser).await?);
        is_clean(browser).await?;
    }
    ensure!(texts(&alice).await? == want, "{:?}", texts(&alice).await?);
    end([alice, bob]).await
}

#[tokio::test]
async fn groups_are_made_talked_in_and_left() {
    grouping().await.unwrap();
}

async fn grouping() -> Result<()> {
    let world = World::start().await?;
    let _server = world.server(0).await?;
    let alice = world.person("alice").await?;
    let bob = world.person("bob").await?;
    alice.click("#new-group").await?;
    alice.type_into("#group-name", NASTY).await?;
    alice.type_into("#group-users", "bob carol:x").await?;
    alice.click("#group-form .primary").await?;
    alice
        .wait_until("/cannot be a name/.test(document.querySelector('#group-form .problem').textContent)", &[])
        .await?;
    alice.run("document.querySelector('#group-users').value = 'bob, carol'", &[]).await?;
    alice.click("#group-form .primary").await?;
    about(&alice, "3 members").await?;

    open(&bob, NASTY).await?;
    let created = format!("alice created the group “{NASTY}”");
    say(&bob, "where to?").await?;
    wait_for_texts(&bob, &[&created, "where to?"]).await?;
    last_message(&bob, "where to?", "Read by 1").await?;
    let mine = format!("You created the group “{NASTY}”");
    wait_for_texts(&alice, &[&mine, "where to?"]).await?;
    alice.wait_until("document.querySelector('#messages .sender').textContent === 'bob'", &[]).await?;

    // The list of members goes with its changes, on all devices.
    bob.click("#about-group").await?;
    bob.wait_until("document.querySelectorAll('#members li').length === 3", &[]).await?;
    bob.wait_until("document.querySelector('#add-form').hidden", &[]).await?;
    alice.click("#about-group").await?;
    alice.type_into("#add-user", "dave").await?;
    alice.click("#add-form button").await?;
    for browser in [&alice, &bob] {
        browser.wait_until("document.querySelectorAll('#members li').length === 4", &[]).await?;
    }
    bob.click("#members-dialog .cancel").await?;
    alice.click("#members [aria-label='Remove bob']").await?;
    bob.wait_until("document.querySelector('#open-talk').hidden", &[]).await?;
    bob.wait_until("document.querySelectorAll('#talks li').length === 0", &[]).await?;
    alice.click("#members-dialog .cancel").await?;
    wait_for_texts(&alice, &[&mine, "where to?", "You added dave", "You removed bob"]).await?;

    // Back again, and away by oneself.
    alice.click("#about-group").await?;
    alice.type_into("#add-user", "bob").await?;
    alice.click("#add-form button").await?;
    open(&bob, NASTY).await?;
    bob.wait_until("document.querySelector('#messages li:last-child').textContent === 'alice added you'", &[]).await?;
    bob.click("#about-group").await?;
    bob.click("#leave").await?;
    bob.wait_until("document.querySelectorAll('#talks li').length === 0", &[]).await?;
    alice.click("#members-dialog .cancel").await?;
    alice.wait_until("document.querySelector('#messages li:last-child').textContent === 'bob left'", &[]).await?;
    a_late_list_is_nobody_elses(&alice).await?;
    for browser in [&alice, &bob] {
        is_clean(browser).await?;
    }
    end([alice, bob]).await
}

/// The list of groups that somebody asked for who has signed out since it was.
async fn a_late_list_is_nobody_elses(browser: &Browser) -> Result<()> {
    let hold = "const real = fetch; window.held = [];
        window.fetch = async (path, rest) => {
          const answer = await real(path, rest);
          if (path.endsWith('/groups')) await new Promise((go) => window.held.push(go));
          return answer;
        };";
    browser.click("#sign-out").await?;
    browser.run(hold, &[]).await?;
    sign_in(browser, "alice").await?;
    browser.wait_until("window.held.length === 1", &[]).await?;
    browser.click("#sign-out").await?;
    sign_in(browser, "erin").await?;
    browser.wait_until("window.held.length === 2", &[]).await?;
    // Some time, because nothing tells when nothing has happened; then the page shows what it has.
    let rows = "window.held.forEach((go) => go());
        await new Promise((done) => setTimeout(done, 100));
        document.dispatchEvent(new Event('visibilitychange'));
        await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
        return document.querySelectorAll('#talks li').length;";
    let rows = browser.run(&format!("return (async () => {{ {rows} }})()"), &[]).await?;
    ensure!(rows == 0, "{rows} conversations of somebody else are shown");
    Ok(())
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_servers_die_drain_and_refuse() {
    moving().await.unwrap();
}

async fn moving() -> Result<()> {
    let world = World::start().await?;
    let mut frankfurt = world.server(0).await?;
    let alice = world.person("alice").await?;
    let bob = world.person("bob").await?;
    chat_with(&alice, "bob").await?;
    chat_with(&bob, "alice").await?;
    say(&alice, "one").await?;
    last_message(&alice, "one", "Read").await?;

    // Killed: both come back at the other one, and what was written meanwhile arrives.
    let lisbon = world.server(1).await?;
    // It may be back before it is looked for.
    let watch = "const app = document.querySelector('#app'); window.wasDown = false;
        new MutationObserver(() => { window.wasDown ||= app.dataset.link !== 'up'; })
            .observe(app, { attributeFilter: ['data-link'] });";
    alice.run(watch, &[]).await?;
    frankfurt.kill()?;
    alice.wait_until("window.wasDown", &[]).await?;
    say(&alice, "two").await?;
    for browser in [&alice, &bob] {
        served_by(browser, PLACES[1]).await?;
    }
    last_message(&alice, "two", "Read").await?;
    wait_for_texts(&bob, &["one", "two"]).await?;

    // An acknowledgement that is lost with the page: it is sent again, and there once.
    fault(&lisbon, r#"{"ack_delay_ms":60000}"#).await?;
    say(&alice, "three").await?;
    last_message(&bob, "three", "").await?;
    fault(&lisbon, r#"{"ack_delay_ms":0}"#).await?;
    alice.reload().await?;
    connected(&alice).await?;
    last_message(&alice, "three", "Read").await?;
    // A store that refuses: it is kept over a reload, and sent again there or elsewhere.
    frankfurt.start_again(&world.workspace).await?;
    world.reached(&frankfurt).await?;
    fault(&lisbon, r#"{"refuse_commit":true}"#).await?;
    say(&alice, "four").await?;
    last_message(&alice, "four", "Sending…").await?;
    alice.reload().await?;
    connected(&alice).await?;
    fault(&lisbon, r#"{"refuse_commit":false}"#).await?;
    last_message(&alice, "four", "Read").await?;
    for browser in [&alice, &bob] {
        wait_for_texts(browser, &["one", "two", "three", "four"]).await?;
    }

    // Drained: who is there follows the hint, with a goodbye, before being closed.
    served_by(&bob, PLACES[1]).await?;
    let drained = http::request(lisbon.address, "POST", "/admin/drain?deadline=60s", &[], b"").await?;
    ensure!(drained.status == 202, "{}", drained.text());
    for browser in [&alice, &bob] {
        served_by(browser, PLACES[0]).await?;
    }
    let closes = http::get(lisbon.address, "/metrics").await?.text();
    ensure!(!closes.contains(r#"closes_total{code="1012"}"#), "somebody did not follow the hint");
    say(&bob, "five").await?;
    last_message(&alice, "five", "").await?;
    for browser in [&alice, &bob] {
        wait_for_texts(browser, &["one", "two", "three", "four", "five"]).await?;
        only_loopback(browser).await?;
    }
    end([alice, bob]).await
}

#[tokio::test]
async fn a_restored_store_is_taken_as_it_is() {
    restoring().await.unwrap();
}

async fn restoring() -> Result<()> {
    let world = World::start().await?;
    let mut server = world.server(0).await?;
    let alice = world.person("alice").await?;
    let bob = world.person("bob").await?;
    chat_with(&alice, "bob").await?;
    chat_with(&bob, "alice").await?;
    say(&alice, "one").await?;
    last_message(&alice, "one", "Read").await?;
    let (store, backup) = (Server::store(&world.workspace), world.workspace.path("backup"));
    copied(&world, "backup", ["--data".as_ref(), store.as_ref(), "--to".as_ref(), backup.as_ref()]).await?;
    for text in ["two", "three"] {
        say(&bob, text).await?;
        last_message(&bob, text, "Read").await?;
    }
    server.kill()?;
    fs::rename(&store, world.workspace.path("lost"))?;
    copied(&world, "restore", ["--from".as_ref(), backup.as_ref(), "--data".as_ref(), store.as_ref()]).await?;
    server.start_again(&world.workspace).await?;
    for browser in [&alice, &bob] {
        wait_for_texts(browser, &["one"]).await?;
    }
    // The numbers are given again, to others.
    say(&alice, "four").await?;
    say(&bob, "five").await?;
    let both = "JSON.stringify(Array.from(document.querySelectorAll('#messages .message .body'),
                (row) => row.textContent).sort()) === '[\"five\",\"four\",\"one\"]'";
    for browser in [&alice, &bob] {
        browser.wait_until(both, &[]).await?;
    }
    ensure!(texts(&alice).await? == texts(&bob).await?, "both see the same order");
    let read = "Array.from(document.querySelectorAll('#messages .mine .meta')).at(-1).textContent.endsWith('Read')";
    alice.wait_until(read, &[]).await?;
    for browser in [&alice, &bob] {
        only_loopback(browser).await?;
    }
    end([alice, bob]).await
}

/// Runs `warbler-im backup` or `restore`.
async fn copied(world: &World, command: &str, arguments: [&OsStr; 4]) -> Result<()> {
    let launch = Launch::new(binary("warbler-im")?).arg(command).args(arguments);
    let done = Process::run(&world.workspace, launch, SOON).await?;
    ensure!(done.code() == 0, "{command}: {}", done.stderr);
    Ok(())
}

async fn fault(server: &Server, wanted: &str) -> Result<()> {
    let done = http::request(server.address, "POST", "/admin/fault", &[], wanted.as_bytes()).await?;
    ensure!(done.status == 200, "{}", done.text());
    Ok(())
}

#[tokio::test]
async fn a_device_that_signs_in_elsewhere_is_told_and_may_come_back() {
    kicking().await.unwrap();
}

async fn kicking() -> Result<()> {
    let world = World::start().await?;
    let _server = world.server(0).await?;
    let bob = world.person("bob").await?;
    let again = world.browser().await?;
    let device = bob.run("return sessionStorage['warbler.device']", &[]).await?;
    again.run("sessionStorage['warbler.device'] = arguments[0]", &[device]).await?;
    again.reload().await?;
    sign_in(&again, "bob").await?;
    let kicked = "document.querySelector('#app').dataset.link === 'kicked'
                  && document.querySelector('#notice').checkVisibility()";
    bob.wait_until(kicked, &[]).await?;
    is_in_order(&bob).await?;
    bob.picture(&picture("kicked")).await?;
    // It stays away until somebody wants it back.
    bob.click("#notice-action").await?;
    connected(&bob).await?;
    bob.wait_until("document.querySelector('#notice').hidden", &[]).await?;
    again.wait_until("document.querySelector('#link-text').textContent === 'Signed in elsewhere'", &[]).await?;

    // What the server does not take is not said again after each login.
    let spoil = r#"window.send = WebSocket.prototype.send;
        WebSocket.prototype.send = function (text) {
          window.send.call(this, JSON.parse(text).type === 'ping' ? '{"type":"pong","t":1,"server_time":1}' : text);
        };"#;
    bob.run(spoil, &[]).await?;
    let stopped = "document.querySelector('#link-text').textContent === 'Stopped by the server (1008)'
                   && document.querySelector('#notice').checkVisibility()";
    bob.wait_until(stopped, &[]).await?;
    is_in_order(&bob).await?;
    bob.run("WebSocket.prototype.send = window.send", &[]).await?;
    bob.click("#notice-action").await?;
    connected(&bob).await?;
    for browser in [&bob, &again] {
        is_clean(browser).await?;
    }
    end([bob, again]).await
}

#[tokio::test]
async fn without_the_demo_login_a_token_is_asked_for() {
    asking_for_a_token().await.unwrap();
}

async fn asking_for_a_token() -> Result<()> {
    let world = World::start().await?;
    let _server = world.server_with(0, &[]).await?;
    let alice = world.browser().await?;
    alice.type_into("#user", "alice").await?;
    alice.click("#sign-in-form .primary").await?;
    alice.wait_until("!document.querySelector('#token-field').hidden", &[]).await?;
    alice.type_into("#token", "nonsense").await?;
    alice.click("#sign-in-form .primary").await?;
    let refused = "document.querySelector('#sign-in-problem').textContent.includes('token malformed')";
    alice.wait_until(refused, &[]).await?;
    alice
        .run(
            "document.querySelector('#token').value = arguments[0]",
            &[world.secret.token("alice", Duration::from_secs(60)).into()],
        )
        .await?;
    alice.click("#sign-in-form .primary").await?;
    connected(&alice).await?;
    end([alice]).await
}

#[tokio::test]
async fn each_part_of_the_page_keeps_to_the_protocol() {
    checking_parts().await.unwrap();
}

async fn checking_parts() -> Result<()> {
    const PARTS: &str = include_str!("chat/parts.js");
    let world = World::start().await?;
    let _server = world.server(0).await?;
    let browser = world.browser().await?;
    let found = browser.run(&format!("return (async () => {{\n{PARTS}\n}})()"), &[]).await?;
    ensure!(found == Value::Array(Vec::new()), "{found:#}");
    is_clean(&browser).await?;
    end([browser]).await
}

/// Where pictures of the page are left, to be looked at.
fn picture(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat");
    fs::create_dir_all(&folder).expect("a folder for pictures");
    folder.join(format!("{name}.png"))
}

#[tokio::test]
async fn it_fits_and_can_be_read_light_and_dark_narrow_and_wide() {
    looking().await.unwrap();
}

async fn looking() -> Result<()> {
    let world = World::start().await?;
    let _server = world.server(0).await?;
    let bob = world.person("bob").await?;
    let alice = world.browser().await?;
    for (name, scheme) in [("light", Scheme::Light), ("dark", Scheme::Dark)] {
        alice.look(360, 640, scheme).await?;
        is_in_order(&alice).await.with_context(|| format!("signing in, {name}"))?;
        alice.picture(&picture(&format!("sign-in-{name}"))).await?;
    }
    sign_in(&alice, "alice").await?;
    conversation(&alice, &bob).await?;
    for (name, scheme) in [("light", Scheme::Light), ("dark", Scheme::Dark)] {
        for (size, width, height) in [("narrow", 360, 640), ("wide", 1280, 800)] {
            alice.look(width, height, scheme).await?;
            let shown = format!("{size}-{name}");
            is_in_order(&alice).await.with_context(|| format!("a conversation, {shown}"))?;
            alice.picture(&picture(&format!("talk-{shown}"))).await?;
            alice.click("#about-group").await?;
            is_in_order(&alice).await.with_context(|| format!("members, {shown}"))?;
            alice.picture(&picture(&format!("members-{shown}"))).await?;
            alice.click("#members-dialog .cancel").await?;
        }
        alice.look(360, 640, scheme).await?;
        alice.click("#back").await?;
        is_in_order(&alice).await.with_context(|| format!("the list, {name}"))?;
        alice.picture(&picture(&format!("list-{name}"))).await?;
        alice.wait_until("document.activeElement.closest('#talks')", &[]).await?;
        open(&alice, "Weekend in the mountains").await?;
    }
    faults_are_found(&alice).await?;
    end([alice, bob]).await
}

/// Something of everything: a group, long words, several lines, who is away, what is unread.
async fn conversation(alice: &Browser, bob: &Browser) -> Result<()> {
    alice.click("#new-group").await?;
    alice.type_into("#group-name", "Weekend in the mountains").await?;
    alice.type_into("#group-users", "bob carol").await?;
    alice.click("#group-form .primary").await?;
    about(alice, "3 members").await?;
    open(bob, "Weekend in the mountains").await?;
    for (who, text) in [
        (alice, "Shall we take the early train on Saturday?"),
        (bob, "Yes. 07:12 from platform 4, two changes."),
        (
            bob,
            "I have the tickets: https://example.com/a/very/long/address/that/does/not/fit/into/one/line?id=0123456789abcdef",
        ),
        (alice, "Perfect, thank you"),
    ] {
        say(who, text).await?;
        last_message(alice, text, "").await?;
        last_message(bob, text, "").await?;
    }
    chat_with(bob, "alice").await?;
    say(bob, "And bring the map, please").await?;
    let unread = format!("{ROW}?.querySelector('.unread')");
    alice.wait_until(&unread, &["bob".into()]).await?;
    last_message(alice, "Perfect, thank you", "Read by 1").await
}

/// What is wrong with how the page looks: things beyond its edges, and text that is too faint (WCAG 2.1, 1.4.3).
const FAULTS: &str = "
    const faults = [];
    const wide = document.documentElement.scrollWidth;
    if (wide > innerWidth) faults.push(`the page is ${wide} wide, the window ${innerWidth}`);
    const shown = (element) => element.checkVisibility({ visibilityProperty: true }) && !element.closest('.unseen');
    const channels = (colour) => colour.match(/[0-9.]+/g).map(Number);
    const light = (colour) => {
      const [r, g, b] = channels(colour).slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
      return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        if ((channels(colour)[3] ?? 1) === 1) return colour;
      }
      return 'rgb(255, 255, 255)';
    };
    const modal = document.querySelector('dialog[open]');
    for (const element of (modal ?? document.body).querySelectorAll('*')) {
      if (!shown(element)) continue;
      const box = element.getBoundingClientRect();
      if (box.width && (box.left < -0.5 || box.right > innerWidth + 0.5)) faults.push(`${element.tagName}.${element.className} goes from ${box.left} to ${box.right}`);
      const scrolls = /auto|scroll/.test(getComputedStyle(element).overflowX) && !element.matches('input, textarea');
      if (scrolls && element.scrollWidth > element.clientWidth) faults.push(`${element.tagName}.${element.className} scrolls sideways`);
      const text = Array.from(element.childNodes).some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
      const field = element.matches('input, textarea');
      if (!text && !field) continue;
      const style = getComputedStyle(element);
      const [one, other] = [light(style.color), light(behind(element))].sort((a, b) => b - a);
      const ratio = (one + 0.05) / (other + 0.05);
      if (ratio < 4.5) faults.push(`${element.tagName}.${element.className} has ${ratio.toFixed(2)} to 1: ${element.textContent.slice(0, 30)}`);
      const label = element.labels?.length || element.ariaLabel;
      if (field && !label) faults.push(`${element.id} has no label`);
    }
    return faults;";

async fn is_in_order(browser: &Browser) -> Result<()> {
    let faults = browser.run(FAULTS, &[]).await?;
    ensure!(faults == Value::Array(Vec::new()), "{faults:#}");
    Ok(())
}

/// The look above would be worth nothing if it found nothing.
async fn faults_are_found(browser: &Browser) -> Result<()> {
    for (plant, want) in [
        (
            "document.querySelector('#talk-about').style.color = '#999'; document.querySelector('#talk-about').style.background = '#aaa'",
            "to 1",
        ),
        ("document.querySelector('#compose').style.width = '2000px'", "goes from"),
        ("document.querySelector('#messages').style.minWidth = '2000px'", "scrolls sideways"),
        ("document.querySelector('label[for=text]').remove()", "has no label"),
    ] {
        browser.run(plant, &[]).await?;
        let faults = browser.run(FAULTS, &[]).await?.to_string();
        ensure!(faults.contains(want), "{plant} was not found: {faults}");
    }
    Ok(())
}
