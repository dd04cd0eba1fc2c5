// A tar of files in the format ustar, as core/jobs/packs.py makes it.

const BLOCK_BYTES = 512;

/**
 * Return a tar as a blob that refers to the files: nothing of them is copied or read.
 *
 * @param {{name: string, blob: Blob}[]} members - in order; their names are short, and ASCII.
 * @returns {Blob}
 */
export function tarOf(members) {
    const parts = members.flatMap(({ name, blob }) => [header(name, blob.size), blob, zeros(-blob.size)]);
    return new Blob([...parts, new Uint8Array(2 * BLOCK_BYTES)]);
}

/** Return zeros up to the end of a block, for `bytes` modulo its size. */
function zeros(bytes) {
    return new Uint8Array(((bytes % BLOCK_BYTES) + BLOCK_BYTES) % BLOCK_BYTES);
}

/** Return the header of a file: https://pubs.opengroup.org/onlinepubs/9699919799/utilities/pax.html#tag_20_92_13_06 */
function header(name, size) {
    const block = new Uint8Array(BLOCK_BYTES);
    const write = (at, text) => block.set(new TextEncoder().encode(text), at);
    write(0, name);
    write(100, "0000644\0"); // rights
    write(108, "0000000\0"); // user
    write(116, "0000000\0"); // group
    write(124, `${octal(size, 11)}\0`);
    write(136, `${octal(0, 11)}\0`); // time
    write(148, " ".repeat(8)); // its own sum counts as spaces
    write(156, "0"); // a file
    write(257, "ustar\x0000");
    write(148, `${octal(block.reduce((sum, byte) => sum + byte, 0), 6)}\0 `);
    return block;
}

function octal(number, digits) {
    return number.toString(8).padStart(digits, "0");
}
