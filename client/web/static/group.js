// The dialog of a group: who is in it, and what its owner and admins may do.

import { ask, busy, field } from "./dialog.js";
import { $, avatar, el } from "./view.js";

export const ID = { required: true, maxlength: 64, pattern: "[A-Za-z0-9._@\\-]+", title: "Letters, digits and . _ @ -" };

const DAY = 86400000;
const ADMINS = ["owner", "admin"];

// manage shows the group until the dialog is closed; each change shows it anew.
export async function manage(api, c) {
  const path = `/groups/${encodeURIComponent(c.group)}`, listed = el("div", { class: "column" });
  let info, list, next;
  const load = async () => {
    const [group, page] = await Promise.all([api.get(path), api.page(path + "/members")]);
    const name = $("field-name");
    if (name && name.value === info?.name) name.value = group.name; // another admin's change is not undone
    [info, list, next] = [group, page.members, page.next];
    return show();
  };
  const more = async () => {
    const page = await api.page(path + "/members", next);
    list.push(...page.members);
    next = page.next;
    show();
  };
  // does is a button for one change; leaves: the group is none of ours after it.
  const does = (label, method, sub, body, { leaves, ...attrs } = {}) => el("button", { type: "button", ...attrs, onclick: () => busy(async () => {
    await api.change(method, path + sub, body);
    if (leaves) return null;
    await load();
  }) }, label);
  // show draws what is loaded, and says whether one may change it.
  const show = () => {
    const role = list.find((m) => m.user === c.me)?.role ?? (info.owner === c.me ? "owner" : c.role);
    const chief = role === "owner", admin = ADMINS.includes(role), quiet = info.muted_until > Date.now();
    listed.replaceChildren(...[
      el("p", { class: "muted" }, `${info.members} ${info.members === 1 ? "member" : "members"}${quiet ? " · muted" : ""}`),
      el("div", { class: "tools" }, ...[
        admin && (quiet ? does("Unmute all", "POST", "/mute", { until: 0 }, { id: "unmute-all" }) : does("Mute all for a day", "POST", "/mute", { until: Date.now() + DAY }, { id: "mute-all" })),
        chief && does("Dismiss the group", "DELETE", "", undefined, { id: "dismiss", class: "danger", leaves: true }),
        role && !chief && does("Leave", "DELETE", `/members/${encodeURIComponent(c.me)}`, undefined, { id: "leave", leaves: true })].filter(Boolean)),
      el("div", { class: "members" }, ...list.map((m) => member(m, { me: c.me, chief, admin, does }))),
      next && el("button", { type: "button", onclick: () => busy(more) }, "Show more"),
    ].filter(Boolean));
    return admin;
  };
  if (!(await load())) return ask(c.title, [listed]);
  const fields = [field("name", "Name", { value: info.name, maxlength: 100 }), field("user", "Add a member", { ...ID, required: false })];
  return ask(c.title, [...fields, listed], async ({ name, user }) => {
    if (name === info.name && !user) return true;
    if (name !== info.name) {
      await api.change("PATCH", path, { name });
      info.name = $("dialog-title").textContent = name; // should the next one fail, this is done
    }
    if (user) await api.change("POST", path + "/members", { members: [user] });
    $("field-user").value = "";
    await load();
  });
}

function member(m, { me, chief, admin, does }) {
  const at = `/members/${encodeURIComponent(m.user)}`;
  const below = m.user !== me && (chief || (admin && m.role === "member"));
  const quiet = m.muted_until > Date.now();
  return el("div", { class: "member", "data-user": m.user }, avatar(m.user),
    el("span", { class: "grow" }, m.user, el("small", { class: "muted role" }, m.role + (quiet ? ", muted" : ""))),
    chief && m.user !== me && m.role === "member" && does("Make admin", "PUT", at + "/role", { role: "admin" }),
    chief && m.user !== me && m.role === "admin" && does("Make member", "PUT", at + "/role", { role: "member" }),
    chief && m.user !== me && m.role === "admin" && does("Make owner", "PUT", at + "/role", { role: "owner" }),
    below && does(quiet ? "Unmute" : "Mute", "POST", "/mute", { user: m.user, until: quiet ? 0 : Date.now() + DAY }),
    below && does("Remove", "DELETE", at));
}
