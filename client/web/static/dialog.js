// The page's one dialog. It stays open and disabled while what it asked for is
// under way, and a newer question ends the former one with null.

import { $, el, notice } from "./view.js";

let open = null; // {done} of the question that is shown

// ask resolves with what check(values) returns, or null when the dialog is left.
// Where check throws {message} or returns undefined the dialog stays open.
export function ask(title, body, check) {
  dismiss();
  return new Promise((done) => {
    open = { done };
    $("dialog-title").textContent = title;
    $("dialog-error").textContent = "";
    $("dialog-body").replaceChildren(...body);
    enable(true);
    $("dialog-ok").hidden = !check;
    $("dialog-cancel").textContent = check ? "Cancel" : "Close";
    $("dialog-form").onsubmit = (e) => {
      e.preventDefault();
      if (!check) return dismiss();
      const values = Object.fromEntries(new FormData($("dialog-form"))); // disabled fields would be left out
      busy(() => check(values));
    };
    $("dialog-cancel").onclick = dismiss;
    $("dialog").onclose = () => { if (!$("dialog").open) dismiss(); }; // Escape; a newer question may be open again
    $("dialog").showModal();
  });
}

// busy shows that work is under way, then its error or, if it returns a value,
// that is the answer.
export async function busy(work) {
  const mine = open, focus = document.activeElement;
  enable(false);
  $("dialog-error").textContent = "";
  let value, error = "";
  try { value = await work(); } catch (e) { error = e.message ?? String(e); }
  if (open !== mine) { if (error) notice(error); return; }
  enable(true);
  $("dialog-error").textContent = error;
  if (value !== undefined) finish(value);
  else (focus?.isConnected ? focus : $("dialog-cancel")).focus(); // a button may have been drawn anew
}

// dismiss leaves the dialog, if it is open.
export function dismiss() { if (open) finish(null); }

function finish(value) {
  const { done } = open;
  open = null;
  $("dialog").close();
  done(value);
}

function enable(on) { $("dialog-fields").disabled = $("dialog-ok").disabled = !on; }

export const field = (name, label, attrs = {}) => el("label", {}, label, el("input", { name, id: "field-" + name, ...attrs }));
