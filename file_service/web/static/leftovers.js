/** Uploads that an earlier visit to the page has left unfinished. */

import { ENDPOINT, terminate } from "./transfer.js";

const { tus } = globalThis;
const PREFIX = "tus::"; // tus-js-client's keys are tus::FINGERPRINT::NUMBER

/** An upload that only lacks its file: the browser does not keep that over a reload. */
export class Leftover extends EventTarget {
  state = "unfinished";
  sent = 0;
  failure = null;
  remark = "";
  rate = null;
  isBusy = false;

  constructor({ size, metadata, uploadUrl, urlStorageKey }) {
    super();
    this.name = metadata.filename;
    this.size = size;
    this.url = uploadUrl;
    this.fingerprint = urlStorageKey.slice(PREFIX.length, urlStorageKey.lastIndexOf("::"));
  }

  get isOver() {
    return this.state === "cancelled";
  }

  /** Say that the file chosen for it is not the one. */
  refuse() {
    this.remark = "That is another file, or it has been changed since.";
    this.dispatchEvent(new CustomEvent("change", { detail: { before: this.state } }));
  }

  /** Take it off the list: it goes on, here or in another window. */
  leave() {
    this.state = "cancelled";
    this.dispatchEvent(new CustomEvent("change", { detail: { before: "unfinished" } }));
  }

  async cancel() {
    this.leave();
    await terminate(this.url);
  }
}

/** Every unfinished upload to this service that the browser remembers, the oldest first. */
export async function findLeftovers() {
  const known = await tus.defaultOptions.urlStorage.findAllUploads();
  return known
    .filter((each) => each.uploadUrl?.startsWith(ENDPOINT) && each.metadata?.filename)
    .sort((a, b) => Date.parse(a.creationTime) - Date.parse(b.creationTime))
    .map((each) => new Leftover(each));
}

/**
 * Have windows tell each other what they are at work on: none of it is left over.
 *
 * Returned is how to tell them of more.
 */
export function listenToOthers({ getOwn, onOthers }) {
  const channel = new BroadcastChannel(`uploads of ${ENDPOINT}`);
  channel.addEventListener("message", ({ data }) => {
    if (data.question) channel.postMessage({ urls: getOwn() });
    else onOthers(data.urls);
  });
  channel.postMessage({ question: true });
  return (urls) => channel.postMessage({ urls });
}
