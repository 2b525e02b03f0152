/** How an upload looks in the list, and what can be done with it there. */

import { formatLeft, formatSize } from "./format.js";

const MAIN = {
  // What the first button does in a state; no button in others.
  queued: ["pause", "Pause", "#pause"],
  starting: ["pause", "Pause", "#pause"],
  sending: ["pause", "Pause", "#pause"],
  waiting: ["pause", "Pause", "#pause"],
  paused: ["resume", "Resume", "#play"],
  failed: ["resume", "Try again", "#again"],
  unfinished: ["choose", "Choose again", "#file"],
};

const END = { done: "Hide", failed: "Remove", unfinished: "Discard" };
const PICTURES = { done: "#check", failed: "#alert" };
const template = document.getElementById("row");

/** `actions` are called with the upload: pause, resume, choose, cancel, hide, copy. */
export class Row {
  #transfer;
  #parts = {};
  #action = null;

  constructor(transfer, actions) {
    this.#transfer = transfer;
    this.element = template.content.firstElementChild.cloneNode(true);
    for (const name of ["picture", "name", "state", "main", "end", "progress", "reason", "link", "copy"]) {
      this.#parts[name] = this.element.querySelector(`.row-${name}`);
    }
    const { name, progress, main, end, copy } = this.#parts;
    name.textContent = transfer.name;
    name.title = transfer.name;
    progress.setAttribute("aria-label", `Progress of ${transfer.name}`);
    copy.setAttribute("aria-label", `Copy link of ${transfer.name}`);
    main.addEventListener("click", () => actions[this.#action](transfer));
    end.addEventListener("click", () => actions[transfer.state === "done" ? "hide" : "cancel"](transfer));
    copy.addEventListener("click", () => actions.copy(transfer));
    this.update();
  }

  /** Show the upload as it is now. */
  update() {
    const { state } = this.#transfer;
    const hadFocus = this.element.contains(document.activeElement);
    this.element.dataset.state = state;
    this.#parts.state.textContent = describe(this.#transfer);
    this.#updateProgress();
    this.#updateReason();
    this.#updateActions();
    if (state === "done" && this.#parts.link.hidden) this.#showLink(hadFocus);
  }

  /** Show that the link is on the clipboard, or selected to be copied by hand. */
  confirmCopy(isCopied) {
    const label = this.#parts.copy.querySelector("span");
    label.textContent = isCopied ? "Copied" : "Selected";
    this.#parts.copy.classList.toggle("is-copied", isCopied);
    clearTimeout(this.copyTimer);
    this.copyTimer = setTimeout(() => {
      label.textContent = "Copy link";
      this.#parts.copy.classList.remove("is-copied");
    }, 3000);
  }

  /** Select the link's words, and copy them as browsers did before there was a clipboard. */
  selectLink() {
    getSelection().selectAllChildren(this.#parts.link.querySelector("a"));
    return document.execCommand("copy");
  }

  focus() {
    [...this.element.querySelectorAll("button")].find((each) => each.checkVisibility())?.focus();
  }

  #updateProgress() {
    const { state, sent, size } = this.#transfer;
    const { progress } = this.#parts;
    progress.hidden = ["done", "unfinished"].includes(state) || this.#transfer.failure?.isFinal === true;
    progress.value = size === 0 ? 0 : sent / size;
  }

  #updateReason() {
    const { failure, remark } = this.#transfer;
    const text = failure?.detail ?? remark;
    this.#parts.reason.textContent = text;
    this.#parts.reason.hidden = text === "";
  }

  #updateActions() {
    const { state, name, failure } = this.#transfer;
    const { main, end, picture } = this.#parts;
    const [action, word, symbol] = MAIN[state] ?? [];
    const isOffered = action !== undefined && failure?.isFinal !== true;
    const hadFocus = document.activeElement === main;
    main.hidden = !isOffered;
    this.#action = action;
    if (isOffered) label(main, word, name, symbol);
    else if (hadFocus) end.focus(); // or the keyboard would be lost with the button
    label(end, END[state] ?? "Cancel", name);
    picture.querySelector("use").setAttribute("href", PICTURES[state] ?? "#file");
  }

  #showLink(hadFocus) {
    const anchor = this.#parts.link.querySelector("a");
    anchor.href = this.#transfer.link;
    anchor.textContent = this.#transfer.link;
    this.#parts.link.hidden = false;
    if (hadFocus) this.#parts.copy.focus();
  }
}

/** Name a button for the eye by a word, for the ear by the file as well. */
function label(button, word, name, symbol) {
  const span = button.querySelector("span");
  if (span.textContent !== word) {
    span.textContent = word;
    button.setAttribute("aria-label", `${word} ${name}`);
  }
  if (symbol !== undefined) button.querySelector("use").setAttribute("href", symbol);
}

/** The line under the name. */
function describe(transfer) {
  const { state, sent, size, failure } = transfer;
  const whole = formatSize(size);
  const part = `${formatSize(sent)} of ${whole}`;
  switch (state) {
    case "queued":
      return `${whole} · waiting for its turn`;
    case "starting":
      return `${whole} · starting`;
    case "sending":
      return ["Uploading", part, ...describeRate(transfer)].join(" · ");
    case "finishing":
      return `${whole} · all sent, being stored`;
    case "waiting":
      return `Waiting · ${part}`;
    case "paused":
      return `Paused · ${part}`;
    case "done":
      return `${whole} · done`;
    case "failed":
      return failure.title;
    case "unfinished":
      return `${whole} · choose the file again to go on`;
    default:
      return whole;
  }
}

function describeRate({ rate, sent, size }) {
  if (rate === null) return [];
  if (rate < 1) return ["stalled"];
  return [`${formatSize(rate)}/s`, formatLeft((size - sent) / rate)];
}
