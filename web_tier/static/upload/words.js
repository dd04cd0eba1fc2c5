// How figures read; the same words as the pages that the server makes (pages/words.py).

const digits = new Intl.NumberFormat("en"); // made once: `toLocaleString` makes one at each call

/** A count with commas between thousands. */
export function grouped(count) {
    return digits.format(count);
}

export function plural(count, noun) {
    return `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Bytes in powers of 1,024. */
export function fileSize(bytes) {
    if (bytes < 2 ** 20) return `${Math.max(1, Math.round(bytes / 2 ** 10))} KB`;
    const megabytes = bytes / 2 ** 20;
    return megabytes < 1024 ? `${Number(megabytes.toPrecision(3))} MB` : `${Number((megabytes / 1024).toPrecision(3))} GB`;
}

export function duration(seconds) {
    return seconds < 120 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}
