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
    const [number, unit] = bytes < 2 ** 30 ? [bytes / 2 ** 20, "MB"] : [bytes / 2 ** 30, "GB"];
    return `${number < 999.5 ? Number(number.toPrecision(3)) : formatCount(Math.round(number))} ${unit}`;
}

export function duration(seconds) {
    const units = [[120, 1, "s"], [7_200, 60, "min"], [172_800, 3_600, "h"], [Infinity, 86_400, "days"]];
    const [, length, unit] = units.find(([limit]) => seconds < limit);
    return `${Math.max(1, Math.round(seconds / length))} ${unit}`;
}
