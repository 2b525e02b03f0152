/** What went wrong, in words for whoever sits in front of the page. */

import { formatSize } from "./format.js";

// Answers after which the same request may succeed.
const PASSING = new Set([408, 409, 423, 425, 429, 500, 502, 503, 504]);
const TAKEN_OVER = "/problems/upload-taken-over";

const BY_STATUS = {
  403: ["The service refuses this upload", "Ask whoever runs it."],
  404: ["This upload is gone", "It has expired, or was removed. Try again to send it from the start."],
  410: ["This upload has expired", "Too much time has passed. Try again to send it from the start."],
  413: ["This file is too large", "The service does not take files of this size."],
  423: ["This upload goes on elsewhere", "Another window is sending this file. Try again to go on here instead."],
  507: ["There is no room for this file", "The service’s disk is full. Try again later."],
};

/** The status of the answer that an error is about; 0 where there was none. */
export function getStatus(error) {
  return getResponse(error)?.getStatus() ?? 0;
}

/** Whether it is worth asking again without asking the person. */
export function isPassing(error) {
  const status = getStatus(error);
  return status === 0 || (PASSING.has(status) && readProblem(error).type !== TAKEN_OVER);
}

/** Why an upload waits, while it tries again by itself. */
export function explainWait(error) {
  if (getStatus(error) !== 0) {
    return "The service cannot take it at the moment. Trying again by itself.";
  }
  return navigator.onLine
    ? "The connection is lost. Trying again by itself."
    : "You are offline. It goes on by itself once you are back.";
}

/** Why an upload failed: a title, what to do, and whether trying again makes sense. */
export function explainFailure(error, { size, limit }) {
  const status = getStatus(error);
  const problem = readProblem(error);
  const isFinal = status >= 400 && status < 500 && ![401, 403, 404, 410, 423].includes(status);
  if (status === 0) {
    const title = navigator.onLine ? "The service does not answer" : "You are offline";
    return { title, detail: "What was sent is kept. Try again to go on.", isFinal };
  }
  if (status === 413 && isTooLarge(size, limit)) return explainTooLarge(size, limit);
  const [title, detail] = BY_STATUS[status] ?? [
    problem.title ?? "The service could not take this file",
    `The answer was ${status}.`,
  ];
  // The service knows better than the page, where it says something itself.
  const told = [404, 410, 423].includes(status) ? null : problem.detail;
  return { title, detail: told ?? detail, isFinal, isElsewhere: problem.type === TAKEN_OVER };
}

export function isTooLarge(size, limit) {
  return limit !== null && size > limit;
}

export function explainTooLarge(size, limit) {
  const detail = `It has ${formatSize(size)}; ${formatSize(limit)} is the most the service takes.`;
  return { title: BY_STATUS[413][0], detail, isFinal: true };
}

// tus-js-client keeps the answer on the error; one that we threw ourselves is its cause.
function getResponse(error) {
  return error?.originalResponse ?? error?.causingError?.originalResponse ?? null;
}

/** The problem details (RFC 9457) of the answer, empty where it is none, as from a proxy. */
function readProblem(error) {
  try {
    const problem = JSON.parse(getResponse(error)?.getBody() ?? "{}");
    return problem !== null && typeof problem === "object" ? problem : {};
  } catch {
    return {};
  }
}
