// The file with all rejected files, of which the page lists only some.

/**
 * The places before the first character of a formula: at the start of a cell, and where a spreadsheet may split it. The
 * same as in results/export.py.
 */
const FORMULA_STARTS = /(?:^|(?<=[;\t\r\n]))(?="*[=+\-@\uff1d\uff0b\uff0d\uff20\t\r\n])/g;

/** Return a cell escaped so that no spreadsheet executes it as a formula: names are texts of other people. */
export function safeCell(text) {
    return text.replace(FORMULA_STARTS, "'");
}

/** Let the browser save a CSV file with the name and the reason of each of these files. */
export function saveRejected(files) {
    const rows = [["filename", "reason"], ...files.map(({ name, reason }) => [name, reason])];
    const lines = rows.map((row) => row.map((cell) => `"${safeCell(cell).replaceAll('"', '""')}"`).join(","));
    // Excel reads a CSV as UTF-8 only if it begins with a byte order mark.
    const href = URL.createObjectURL(new Blob(["\ufeff", lines.join("\r\n"), "\r\n"], { type: "text/csv" }));
    Object.assign(document.createElement("a"), { href, download: "rejected.csv" }).click();
    URL.revokeObjectURL(href);
}
