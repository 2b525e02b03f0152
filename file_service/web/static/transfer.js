/** One file on its way to the service: tus-js-client, and the states a person sees. */

import { Rate } from "./format.js";
import {
  explainFailure, explainTooLarge, explainWait, getStatus, isPassing, isTooLarge,
} from "./words.js";

const { tus } = globalThis;

// Relative to the page, so that both work below any path of a proxy.
export const ENDPOINT = new URL("uploads/", document.baseURI).href;
const FILES = new URL("files/", document.baseURI).href;

// Quick at first, then patient: after an hour without an answer a person has to ask again.
const DELAYS = [500, 1000, 2000, 5000, 10_000, 20_000, ...Array(120).fill(30_000)];

// A connection can be gone without a word, as when a phone changes networks.
const SILENCE = 60_000;

/** What tells the same file chosen again from another one. */
export function getFingerprint({ name, type, size, lastModified }) {
  return ["file-service", name, type, size, lastModified, ENDPOINT].join("-");
}

/** Take an upload out of what the browser remembers. */
export async function forget(url) {
  const { urlStorage } = tus.defaultOptions;
  const known = await urlStorage.findAllUploads();
  const its = known.filter((each) => each.uploadUrl === url);
  await Promise.all(its.map((each) => urlStorage.removeUpload(each.urlStorageKey)));
}

/**
 * Remove an unfinished upload at the service; one that cannot be removed expires there.
 *
 * It is forgotten first: a file that is chosen again goes up anew, and not to what is about to go.
 */
export async function terminate(url, { isAtWork = false } = {}) {
  await forget(url);
  try {
    // It may have been finished in another window, where its link is shown.
    if (!isAtWork && await isFile(url)) return;
    await tus.Upload.terminate(url, { retryDelays: DELAYS, onShouldRetry: isPassing });
  } catch {
    // Gone already, or gone with its time.
  }
}

/** Whether an upload is finished; what cannot be asked now is taken for unfinished. */
async function isFile(url) {
  try {
    const { headers } = await fetch(url, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
    const length = headers.get("Upload-Length");
    return length !== null && length === headers.get("Upload-Offset");
  } catch {
    return false;
  }
}

/**
 * Tells of every change by a "change" event. `state` is one of
 * queued → starting → sending → finishing → done, and waiting, paused, failed, cancelled.
 */
export class Transfer extends EventTarget {
  state = "queued";
  sent = 0;
  failure = null; // {title, detail, isFinal} of what failed
  remark = ""; // what a person should know while it is not failed
  #upload;
  #rate = new Rate();
  #heardAt = 0;
  #isCreating = false; // the service is being asked for an upload, whose URL is to come
  #limit;

  constructor(file, limit) {
    super();
    this.file = file;
    this.name = file.name;
    this.size = file.size;
    this.fingerprint = getFingerprint(file);
    this.#limit = limit;
    this.#upload = new tus.Upload(file, this.#makeOptions());
  }

  #makeOptions() {
    const { name, type } = this.file;
    return {
      endpoint: ENDPOINT,
      metadata: type ? { filename: name, filetype: type } : { filename: name },
      fingerprint: async () => this.fingerprint,
      removeFingerprintOnSuccess: true,
      retryDelays: DELAYS,
      onShouldRetry: (error) => this.#onTrouble(error),
      onBeforeRequest: (request) => { this.#isCreating = request.getMethod() === "POST"; },
      onAfterResponse: (request, response) => this.#checkResumption(request, response),
      onUploadUrlAvailable: () => this.#settleUrl(),
      onProgress: (sent) => this.#onProgress(sent),
      onSuccess: () => this.#succeed(),
      onError: (error) => this.#fail(error),
    };
  }

  get isBusy() {
    return ["starting", "sending", "waiting", "finishing"].includes(this.state);
  }

  get isOver() {
    return ["done", "cancelled"].includes(this.state);
  }

  get url() {
    return this.#upload.url;
  }

  /** Where the finished file is. */
  get link() {
    return `${FILES}${this.#upload.url.split("/").pop()}/`;
  }

  /** Bytes a second, null while that is not known. */
  get rate() {
    return this.state === "sending" ? this.#rate.perSecond : null;
  }

  /** Fail at once what the service is known to refuse: it need not wait for its turn. */
  judge() {
    const limit = this.#limit();
    if (!isTooLarge(this.size, limit)) return;
    this.#become("failed", { failure: explainTooLarge(this.size, limit) });
  }

  /** Begin, or go on, also where an earlier visit to the page has stopped. */
  async begin() {
    if (this.state !== "queued") return;
    this.#become("starting", { failure: null, remark: "" });
    if (this.#upload.url === null) {
      const known = await this.#upload.findPreviousUploads();
      if (this.state !== "starting") return; // paused or cancelled meanwhile
      known.sort((a, b) => Date.parse(b.creationTime) - Date.parse(a.creationTime));
      if (known.length > 0) this.#upload.resumeFromPreviousUpload(known[0]);
    }
    this.#start();
  }

  #start() {
    if (!this.#isCreating) this.#upload.start();
  }

  /** End what is under way, but for a creation: nobody would know what it has made. */
  #stop() {
    if (!this.#isCreating) this.#upload.abort();
  }

  pause() {
    this.#stop();
    this.#become("paused", { remark: "" });
  }

  /** Wait for a turn again; whoever keeps the queue calls begin(). */
  resume() {
    this.#become("queued", { failure: null, remark: "" });
  }

  /** End it and remove what the service has of it. */
  async cancel() {
    const { url } = this.#upload;
    const isOurs = !this.failure?.isElsewhere; // else it is another window's to end
    const isAtWork = ["sending", "finishing"].includes(this.state);
    this.#become("cancelled");
    this.#stop();
    if (url !== null && isOurs) await terminate(url, { isAtWork });
  }

  /** Try again now: the browser is back online, or nothing has been heard for too long. */
  nudge() {
    this.#stop();
    this.#start();
  }

  /** Look after a silent connection; called now and then. */
  check(now) {
    if (this.state !== "sending" || now - this.#heardAt < SILENCE) return;
    this.#become("waiting", { remark: explainWait(null) });
    this.nudge();
  }

  #become(state, changes = {}) {
    Object.assign(this, changes);
    const before = this.state;
    this.state = state;
    this.dispatchEvent(new CustomEvent("change", { detail: { before } }));
  }

  #onProgress(sent) {
    if (!this.isBusy) return;
    const now = performance.now();
    if (this.state !== "sending") this.#rate.restart();
    this.#rate.add(sent, now);
    this.#heardAt = now;
    this.#become(sent < this.size ? "sending" : "finishing", { sent, remark: this.#keptRemark() });
  }

  // Of the remarks only that it began anew stays true once bytes flow.
  #keptRemark() {
    return this.state === "waiting" ? "" : this.remark;
  }

  /** Decide whether tus-js-client tries again by itself, and say why it waits. */
  #onTrouble(error) {
    this.#isCreating = false;
    const isTried = this.isBusy && isPassing(error);
    if (isTried) {
      this.#become("waiting", { remark: explainWait(error) });
      if (getStatus(error) === 0) this.#checkFile();
    }
    return isTried;
  }

  /** A file that was changed, moved or unplugged looks like a lost connection to the browser. */
  async #checkFile() {
    try {
      await this.file.slice(0, 1).arrayBuffer();
    } catch {
      if (this.state !== "waiting") return; // cancelled meanwhile
      this.#upload.abort();
      const title = "The file can no longer be read";
      const detail = "It was changed, moved or removed. Choose it again.";
      this.#become("failed", { failure: { title, detail, isFinal: true } });
    }
  }

  /** tus-js-client begins anew where it cannot resume: right for what is gone, not for a 429. */
  #checkResumption(request, response) {
    if (request.getMethod() !== "HEAD") return;
    const status = response.getStatus();
    const isGone = status === 404 || status === 410;
    // It handles 423 itself.
    if (status >= 400 && status !== 423 && !isGone) {
      throw new tus.DetailedError("not now", null, request, response);
    }
    if (isGone) {
      this.remark = "What was sent before has expired, so it began from the start.";
    }
  }

  /** Go on below the address the page was opened at, whatever the service is called outside. */
  async #settleUrl() {
    const id = new URL(this.#upload.url).pathname.split("/").filter(Boolean).pop();
    const url = new URL(id, ENDPOINT).href;
    this.#upload.url = url;
    this.#isCreating = false;
    if (this.isBusy) return;
    this.#upload.abort(); // paused or cancelled meanwhile
    if (this.state === "cancelled") await terminate(url, { isAtWork: true });
  }

  #succeed() {
    if (this.state !== "cancelled") this.#become("done", { sent: this.size, remark: "" });
  }

  #fail(error) {
    this.#isCreating = false;
    if (!this.isBusy) return; // paused or cancelled meanwhile
    const failure = explainFailure(error, { size: this.size, limit: this.#limit() });
    this.#become("failed", { failure, remark: "" });
  }
}
