/** Sizes, rates and times as people say them; pure functions. */

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Decimal units, as the file managers of phones and desktops show them: 12.4 MB. */
export function formatSize(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const digits = unit === 0 || value >= 99.5 ? 0 : 1;
  return `${Number(value.toFixed(digits))} ${UNITS[unit]}`;
}

/** About how long it takes, in words: a time left that jumps by the second is no help. */
export function formatLeft(seconds) {
  if (seconds < 5) return "a moment left";
  if (seconds < 55) return `${Math.ceil(seconds / 5) * 5} s left`;
  const minutes = Math.max(1, Math.round(seconds / 60));
  if (minutes < 60) return `${minutes} min left`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min left`;
}

/** A rate that follows what happens, but not every hiccup. */
export class Rate {
  #bytes = 0;
  #at = null;
  #rate = null;

  /** Count from here: what was there already did not just arrive. */
  restart() {
    this.#at = null;
    this.#rate = null;
  }

  add(bytes, now) {
    if (this.#at === null) {
      [this.#bytes, this.#at] = [bytes, now];
      return;
    }
    const seconds = (now - this.#at) / 1000;
    if (seconds < 0.3) return;
    const latest = Math.max(0, bytes - this.#bytes) / seconds;
    const weight = Math.exp(-seconds / 4);
    this.#rate = this.#rate === null ? latest : weight * this.#rate + (1 - weight) * latest;
    [this.#bytes, this.#at] = [bytes, now];
  }

  /** Bytes a second, null before anything is known. */
  get perSecond() {
    return this.#rate;
  }
}
