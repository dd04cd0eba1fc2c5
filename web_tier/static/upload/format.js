// Texts of counts, sizes and durations, as the pages that the server renders have them.

const numberFormat = new Intl.NumberFormat("en"); // created once: `toLocaleString` creates one for each call

/** A count with commas between thousands. */
export function formatCount(count) {
    return numberFormat.format(count);
}

export function plural(count, noun) {
    return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Bytes in powers of 1,024. */
export function fileSize(bytes) {
    if (bytes < 2 ** 20) return `${Math.max(1, Math.round(bytes / 2 ** 10))} KB`;
    const megabytes = bytes / 2 ** 20;
    if (megabytes < 1024) return `${Number(megabytes.toPrecision(3))} MB`;
    return `${Number((megabytes / 1024).toPrecision(3))} GB`;
}

export function duration(seconds) {
    return seconds < 120 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}
