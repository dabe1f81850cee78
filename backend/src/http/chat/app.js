// The page: signing in, and what happens when somebody clicks, types, or looks.

import { ApiError, Groups, demoLogin } from "./api.js";
import { Outbox } from "./outbox.js";
import { Session } from "./session.js";
import { Talks } from "./talks.js";
import { initial, isGroup, isUser } from "./words.js";
import { allIsInSight, byId, isAtEnd, setText, showHead, showMembers, showMessages, showTalks } from "./view.js";

/** How often it is asked what there is, in milliseconds. */
const LOOK_EVERY = 50_000;

/** What outlives a reload, for this tab alone: another tab is another device. */
const kept = {
  get: (name) => sessionStorage.getItem(`warbler.${name}`),
  set: (name, value) => sessionStorage.setItem(`warbler.${name}`, value),
  clear: () => ["user", "token", "open"].forEach((name) => sessionStorage.removeItem(`warbler.${name}`)),
};

let session;
let talks;
let groups;
let open;
let paint;

const device = kept.get("device") ?? crypto.getRandomValues(new Uint32Array(2)).reduce((id, part) => id + part.toString(36), "web-");
kept.set("device", device);

/* Signing in and out */

byId("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const user = byId("user").value.trim();
  const given = byId("token").value.trim();
  const problem = byId("sign-in-problem");
  setText(problem, "");
  if (!isUser(user)) return setText(problem, "A name has no spaces and no colons, and at most 60 bytes.");
  try {
    begin(user, given || (await demoLogin(user)).token);
  } catch (error) {
    if (error.code === "demo_login_off") {
      byId("token-field").hidden = false;
      byId("token").focus();
    } else {
      setText(problem, error.message);
    }
  }
  return undefined;
});

function begin(user, token) {
  session?.leave();
  kept.set("user", user);
  kept.set("token", token);
  // What is under way when somebody signs out ends with these, and not with the next one's.
  const mine = {
    groups: new Groups(token),
    talks: new Talks(user, new Outbox(user), {
      say: (frame) => mine.session.say(frame),
      changed: () => repaint(),
      groupChanged: (conv) => conv === open && showGroup(conv),
    }),
    session: new Session({ token, device, renew: () => renew(user) }, {
      state: showState,
      up: () => {
        mine.talks.loggedIn();
        const known = Array.from(mine.talks.all.keys());
        mine.groups.list().then((list) => mine.talks.groupsListed(list, known), quiet);
        if (open && isGroup(open)) showGroup(open);
      },
      frame: (frame) => mine.talks.heard(frame),
      renewed: (another) => {
        kept.set("token", another);
        mine.groups.token = another;
      },
    }),
  };
  ({ session, talks, groups } = mine);
  setText(byId("my-name"), user);
  setText(byId("my-avatar"), initial(user));
  byId("sign-in").hidden = true;
  byId("app").hidden = false;
  session.connect();
  if (kept.get("open")) openTalk(kept.get("open"));
  repaint();
  byId("new-chat").focus();
}

/** Another token, or null from a server that gives none out; any other trouble may pass. */
async function renew(user) {
  try {
    return (await demoLogin(user)).token;
  } catch (error) {
    if (error.code === "demo_login_off") return null;
    throw error;
  }
}

byId("sign-out").addEventListener("click", () => {
  session.leave();
  signedOut("");
});

function signedOut(problem) {
  kept.clear();
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  talks = undefined;
  open = undefined;
  if (!problem) byId("sign-in-form").reset();
  setText(byId("sign-in-problem"), problem);
  byId("app").hidden = true;
  byId("open-talk").hidden = true;
  byId("nothing-open").hidden = false;
  delete byId("app").dataset.open;
  byId("sign-in").hidden = false;
  byId("user").focus();
}

/* The connection */

const states = {
  connecting: () => ["Connecting…", "down"],
  up: () => ["Connected", "up"],
  moving: () => ["Moving to another server…", "away"],
  waiting: ({ seconds }) => [`Connecting again in ${seconds} s`, "down"],
  kicked: () => ["Signed in elsewhere", "down"],
  stopped: ({ code }) => [`Stopped by the server (${code})`, "down"],
  refused: () => ["Not signed in", "down"],
  out: () => ["Signed out", "down"],
};

function showState(kind, details = {}) {
  const [text, dot] = states[kind](details);
  setText(byId("link-text"), text);
  byId("link-dot").dataset.state = dot;
  byId("app").dataset.link = kind;
  if (details.node) setText(byId("node"), details.node);
  if (kind !== "up") setText(byId("rtt"), "");
  else if (details.rtt !== undefined) setText(byId("rtt"), `${details.rtt < 10 ? details.rtt.toFixed(1) : Math.round(details.rtt)} ms`);
  if (kind === "kicked") notice("This device has signed in elsewhere.", "Use here", () => session.connect());
  else if (kind === "stopped") notice(stoppedBy(details.code), "Connect again", () => session.connect());
  else notice("");
  if (kind === "refused") signedOut(`The server refused the login: ${details.code.replaceAll("_", " ")}.`);
}

/** Close code 4008 is for who asks for too much; the others that stop the page are for who says what is not allowed. */
const stoppedBy = (code) => (code === 4008
  ? "This page has asked for more than the server bears."
  : "The server did not understand this page. Loading it anew may help.");

function notice(text, action, act) {
  const [bar, button] = [byId("notice"), byId("notice-action")];
  bar.hidden = !text;
  setText(byId("notice-text"), text);
  button.hidden = !action;
  setText(button, action ?? "");
  button.onclick = act ?? null;
}

/* What is seen */

/** Once for all changes of a moment. */
function repaint() {
  paint ??= requestAnimationFrame(() => {
    paint = undefined;
    if (!talks) return;
    if (open && !talks.all.has(open)) closeTalk();
    showTalks(talks, open, openTalk);
    const talk = open && talks.talk(open);
    if (!talk) return;
    showHead(talks, talk);
    showMessages(talks, talk);
    // Where nothing can be scrolled, nobody can ask for what is before.
    if (talk.known && allIsInSight()) talks.loadOlder(talk);
    if (byId("members-dialog").open) showMembers(talks, talk, removeMember);
    seen(talk);
  });
}

function seen(talk) {
  if (document.visibilityState === "visible" && isAtEnd()) talks.markRead(talk);
}

function openTalk(conv) {
  open = conv;
  kept.set("open", conv);
  const talk = talks.talk(conv);
  byId("nothing-open").hidden = true;
  byId("open-talk").hidden = false;
  byId("app").dataset.open = "true";
  if (!talk.known) talks.loadOlder(talk);
  if (isGroup(conv)) showGroup(conv);
  repaint();
  // On a phone the keyboard would come up and cover what is to be read.
  byId(matchMedia("(max-width: 719px)").matches ? "talk-name" : "text").focus();
}

function closeTalk() {
  open = undefined;
  sessionStorage.removeItem("warbler.open");
  byId("open-talk").hidden = true;
  byId("nothing-open").hidden = false;
  delete byId("app").dataset.open;
  byId("members-dialog").close();
  repaint();
}

byId("back").addEventListener("click", () => {
  const conv = open;
  closeTalk();
  requestAnimationFrame(() => {
    const row = Array.from(byId("talks").children).find((item) => item.dataset.key === conv);
    (row?.firstElementChild ?? byId("new-chat")).focus();
  });
});

byId("scroll").addEventListener("scroll", () => {
  const talk = open && talks?.talk(open);
  if (!talk) return;
  if (byId("scroll").scrollTop < 80) talks.loadOlder(talk);
  seen(talk);
}, { passive: true });

document.addEventListener("visibilitychange", () => talks && repaint());
new ResizeObserver(() => talks && repaint()).observe(byId("scroll"));

/* Writing */

byId("compose").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text || !open) return;
  talks.send(open, text);
  byId("text").value = "";
  grow();
  byId("scroll").scrollTop = byId("scroll").scrollHeight;
  byId("text").focus();
});

byId("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("compose").requestSubmit();
  }
});

byId("text").addEventListener("input", grow);

function grow() {
  const field = byId("text");
  field.rows = Math.min(6, field.value.split("\n").length);
}

/* Dialogs */

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector(".cancel").addEventListener("click", () => dialog.close());
}

function ask(dialog) {
  byId(dialog).querySelector("form")?.reset();
  setText(byId(dialog).querySelector(".problem"), "");
  byId(dialog).showModal();
}

/** Does something with what was entered, and shows what is wrong with it. */
function answered(form, dialog, work) {
  byId(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    const problem = byId(dialog).querySelector(".problem");
    setText(problem, "");
    try {
      await work();
    } catch (error) {
      setText(problem, error.message);
    }
  });
}

function userFrom(text) {
  if (!isUser(text)) throw new ApiError(0, "user_invalid", `“${text}” cannot be a name: no spaces, no colons, at most 60 bytes.`);
  return text;
}

byId("new-chat").addEventListener("click", () => ask("chat-dialog"));
answered("chat-form", "chat-dialog", () => {
  const talk = talks.with(userFrom(byId("chat-user").value.trim()));
  byId("chat-dialog").close();
  openTalk(talk.conv);
});

byId("new-group").addEventListener("click", () => ask("group-dialog"));
answered("group-form", "group-dialog", async () => {
  const members = byId("group-users").value.split(/[\s,]+/).filter(Boolean).map(userFrom);
  const mine = talks;
  const group = await groups.create(byId("group-name").value, members);
  mine.groupShown(group);
  if (mine !== talks) return;
  byId("group-dialog").close();
  openTalk(group.conv);
});

async function showGroup(conv) {
  const asked = talks;
  try {
    asked.groupShown(await groups.show(conv));
  } catch (error) {
    if (error.code === "no_such_group") asked.forget(conv);
  }
}

byId("about-group").addEventListener("click", () => {
  ask("members-dialog");
  showMembers(talks, talks.talk(open), removeMember);
  showGroup(open);
});

answered("add-form", "members-dialog", async () => {
  await groups.add(open, userFrom(byId("add-user").value.trim()));
  byId("add-form").reset();
  await showGroup(open);
});

async function removeMember(user) {
  await groups.remove(open, user).catch((error) => setText(byId("members-dialog").querySelector(".problem"), error.message));
  await showGroup(open);
}

byId("leave").addEventListener("click", async () => {
  const [mine, conv] = [talks, open];
  try {
    await groups.remove(conv, mine.me);
    byId("members-dialog").close();
    mine.forget(conv);
  } catch (error) {
    setText(byId("members-dialog").querySelector(".problem"), error.message);
  }
});

function quiet() {
  // The list of groups is asked for again at the next login.
}

/* Begin */

// Pushes are hints: what was lost without a trace is found here.
setInterval(() => talks?.askUnread(), LOOK_EVERY);

byId("loading").remove();
if (kept.get("user") && kept.get("token")) {
  begin(kept.get("user"), kept.get("token"));
} else {
  byId("sign-in").hidden = false;
  byId("user").focus();
}
