// Texts of counts, sizes and durations, as the pages that the server renders have them.

/** A count with commas between thousands; the first use of `Intl` would hold up the page for 40 ms. */
export function formatCount(count) {
    return String(count).replace(/\B(?=(\d{3})+$)/g, ",");
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
