/** The page: files in by choosing or dropping, a queue, and the list of them. */

import { formatSize } from "./format.js";
import { findLeftovers, Leftover, listenToOthers } from "./leftovers.js";
import { Row } from "./row.js";
import { ENDPOINT, getFingerprint, Transfer } from "./transfer.js";

const AT_ONCE = 3;
const TICK = 1000;

const rows = new Map(); // every upload of the list, and its row
const $ = (id) => document.getElementById(id);
let limit = null; // bytes a file may have, where the service says so
let tellOthers = () => {}; // the other windows, of what goes on here
let wanted = null; // the leftover that the next chosen file is meant for

// ── the list ──

const actions = {
  pause: (transfer) => transfer.pause(),
  resume: (transfer) => transfer.resume(),
  cancel: (transfer) => transfer.cancel(),
  hide: (transfer) => remove(transfer),
  choose: (leftover) => openChooser(leftover),
  copy: (transfer) => copyLink(transfer),
};

function list(transfer) {
  const row = new Row(transfer, actions);
  rows.set(transfer, row);
  $("rows").append(row.element);
  transfer.addEventListener("change", ({ detail }) => onChange(transfer, detail.before));
}

function onChange(transfer, before) {
  if (transfer.state === "cancelled") remove(transfer);
  else rows.get(transfer).update();
  if (transfer.state !== before) {
    tell(transfer, before);
    if (transfer.state === "sending") tellOthers([transfer.url]);
    fillSlots();
  }
  showSummary();
}

/** Take a row away without losing the place of whoever uses the keyboard. */
function remove(transfer) {
  const row = rows.get(transfer);
  if (row === undefined) return;
  const hadFocus = row.element.contains(document.activeElement);
  const all = [...rows.values()];
  const next = all[all.indexOf(row) + 1] ?? all[all.indexOf(row) - 1];
  rows.delete(transfer);
  row.element.remove();
  if (hadFocus && next === undefined) $("choose").focus();
  else if (hadFocus) next.focus();
  showSummary();
}

/** Begin what is next while there is room; what begins tells so, and comes by here again. */
function fillSlots() {
  const all = [...rows.keys()];
  while (all.filter((each) => each.isBusy).length < AT_ONCE) {
    const next = all.find((each) => each.state === "queued");
    if (next === undefined) return;
    next.begin();
  }
}

function showSummary() {
  const all = [...rows.keys()];
  const done = all.filter((each) => each.state === "done").length;
  $("uploads").hidden = all.length === 0;
  $("summary").textContent = all.length === 0 ? "" : `${done} of ${all.length} done`;
  const open = all.filter((each) => each.isBusy || each.state === "queued");
  const sum = (key) => open.reduce((total, each) => total + each[key], 0);
  const percent = Math.floor((100 * sum("sent")) / Math.max(1, sum("size")));
  document.title = open.length === 0 ? "Upload files" : `${percent} % · Upload files`;
}

// ── what is read out ──

const TOLD = {
  done: (each) => `${each.name} is uploaded. Its link is ready.`,
  paused: (each) => `${each.name} is paused.`,
  waiting: (each) => `${each.name} waits. ${each.remark}`,
  failed: (each) => `${each.name}: ${each.failure.title}. ${each.failure.detail}`,
};

function tell(transfer, before) {
  if (transfer.state in TOLD) announce(TOLD[transfer.state](transfer));
  else if (transfer.state === "sending" && before === "waiting") announce(`${transfer.name} goes on.`);
  else if (transfer.state === "cancelled" && before !== "unfinished") announce(`${transfer.name} is cancelled.`);
}

function announce(text) {
  const line = document.createElement("p");
  line.textContent = text;
  $("log").append(line);
  while ($("log").childElementCount > 20) $("log").firstElementChild.remove();
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = text === "";
  if (text !== "") announce(text);
}

// ── files in ──

function openChooser(leftover = null) {
  wanted = leftover;
  $("files").click();
}

function add(files) {
  notice("");
  const found = files.map(addOne);
  if (wanted !== null && files.length > 0 && !found.includes(wanted.fingerprint)) wanted.refuse();
  wanted = null;
  if (files.length > 0) announce(files.length === 1 ? `${files[0].name} is added.` : `${files.length} files are added.`);
  fillSlots();
  showSummary();
}

/** Add a file to the list, or go on with it where it is there already; return its fingerprint. */
function addOne(file) {
  const fingerprint = getFingerprint(file);
  const known = [...rows.keys()].filter((each) => each.fingerprint === fingerprint);
  for (const each of known) if (each instanceof Leftover) each.leave();
  const open = known.find((each) => each instanceof Transfer && !each.isOver);
  if (open === undefined) addNew(file);
  else if (["paused", "failed"].includes(open.state) && !open.failure?.isFinal) open.resume();
  return fingerprint;
}

function addNew(file) {
  const transfer = new Transfer(file, () => limit);
  list(transfer);
  transfer.judge();
}

function listenToChooser() {
  $("choose").addEventListener("click", () => openChooser());
  $("files").addEventListener("cancel", () => { wanted = null; });
  $("files").addEventListener("change", ({ target }) => {
    add([...target.files]);
    target.value = ""; // or the same file, chosen again, would be no change
  });
}

function listenToDrops() {
  let depth = 0; // every element on the way tells of its own enter and leave
  const show = (value) => {
    depth = Math.max(0, value);
    document.body.classList.toggle("is-dragging", depth > 0);
  };
  const on = (type, act) => document.addEventListener(type, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // or the browser would open the file instead of the page
    act(event);
  });
  on("dragenter", () => show(depth + 1));
  on("dragleave", () => show(depth - 1));
  on("dragover", (event) => { event.dataTransfer.dropEffect = "copy"; });
  on("drop", (event) => {
    show(0);
    drop(event.dataTransfer);
  });
}

function drop(data) {
  const items = [...data.items].filter((each) => each.kind === "file");
  const isFolder = (item) => item.webkitGetAsEntry()?.isDirectory === true;
  const files = items.filter((each) => !isFolder(each)).map((each) => each.getAsFile());
  add(files.filter(Boolean));
  if (files.length < items.length) notice("Folders cannot be uploaded. Drop the files in them instead.");
}

// ── links out ──

async function copyLink(transfer) {
  const row = rows.get(transfer);
  let isCopied = false;
  try {
    await navigator.clipboard.writeText(transfer.link); // absent on plain http in a local network
    isCopied = true;
  } catch {
    isCopied = row.selectLink();
  }
  row.confirmCopy(isCopied);
  announce(isCopied ? `The link of ${transfer.name} is copied.` : `The link of ${transfer.name} is selected. Copy it with Control C.`);
}

// ── the rest of the world ──

async function askLimit() {
  try {
    const answer = await fetch(ENDPOINT, { method: "OPTIONS" });
    limit = Number(answer.headers.get("Tus-Max-Size")) || null;
  } catch {
    return; // the service says so itself when a file is too large
  }
  if (limit !== null) $("limit").textContent = `Up to ${formatSize(limit)} each.`;
  $("limit").hidden = limit === null;
}

async function listLeftovers() {
  for (const leftover of await findLeftovers()) list(leftover);
  showSummary();
  tellOthers = listenToOthers({
    getOwn: () => [...rows.keys()].filter((each) => each instanceof Transfer && each.url !== null).map((each) => each.url),
    onOthers: (urls) => {
      for (const each of rows.keys()) if (each instanceof Leftover && urls.includes(each.url)) each.leave();
    },
  });
}

function watch() {
  addEventListener("online", () => {
    for (const each of rows.keys()) if (each.state === "waiting") each.nudge();
  });
  setInterval(() => {
    for (const each of rows.keys()) each.check?.(performance.now());
  }, TICK);
}

listenToChooser();
listenToDrops();
watch();
askLimit();
listLeftovers();
