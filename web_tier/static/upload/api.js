// The page's calls to the web tier.

const RESPONSE_TIMEOUT_MS = 120_000;
/** An upload that sends no bytes for this long, in milliseconds, is aborted. */
const STALL_TIMEOUT_MS = 45_000;

const REUSED_KEY = "urn:fleetsight:problem:idempotency-key-reused";

/**
 * Raised when a call got no response or an error response. `canRetry` is true if the same call may succeed later,
 * `isReusedKey` if the server has accepted another call with the same key; `status` is 0 without a response.
 */
export class ApiError extends Error {
    constructor(message, canRetry, retryAfterSeconds = 0, isReusedKey = false, status = 0) {
        super(message);
        Object.assign(this, { canRetry, retryAfterSeconds, isReusedKey, status });
    }
}

/** Raised when a call was rejected because the user is not signed in. The call can be retried after a sign-in. */
export class SignedOutError extends ApiError {
    constructor() {
        super("you are not signed in", true);
    }
}

/** Raised when the user stopped the call. */
export class StoppedError extends ApiError {
    constructor() {
        super("the upload was stopped", true);
    }
}

/**
 * Return random bytes as hexadecimal digits: by default a key, or the id of a trace, which the log lines about all calls
 * of an upload have. Unlike `randomUUID`, `getRandomValues` also works on pages without TLS.
 */
export function randomHex(bytes = 16) {
    return [...crypto.getRandomValues(new Uint8Array(bytes))]
        .map((byte) => byte.toString(16).padStart(2, "0"))
        .join("");
}

/** Return the headers of a call that may be repeated: see https://www.w3.org/TR/trace-context/. */
export function repeatableHeaders(key, traceId) {
    return { "Idempotency-Key": key, traceparent: `00-${traceId}-${randomHex(8)}-00` };
}

/**
 * Create a job. A second call with the same key returns the same job.
 *
 * @param {object} job - its fields, as the API takes them.
 * @param {string} key - the idempotency key.
 * @param {string} traceId - of the upload.
 */
export function createJob(job, key, traceId) {
    const headers = { "Content-Type": "application/json", ...repeatableHeaders(key, traceId) };
    return post("/api/v1/jobs", headers, JSON.stringify(job), () => {});
}

/**
 * Upload images to a job. A second call with the same key adds no image twice.
 *
 * @param {string} jobId
 * @param {BatchItem[]} items
 * @param {number} remaining - how many files further calls have.
 * @param {string} key - the idempotency key.
 * @param {string} traceId - of the upload.
 * @param {(share: number) => void} onProgress - receives the share of the body that has been sent, 0 to 1.
 * @param {AbortSignal} signal - stops the call unless its whole body has been sent.
 */
export function addImages(jobId, items, remaining, key, traceId, onProgress, signal) {
    const form = new FormData();
    form.append("positions", items.map((item) => item.position).join(",")); // before the files, as the next one
    form.append("remaining", remaining);
    for (const item of items) form.append("images", item.blob, item.name);
    return post(`/api/v1/jobs/${jobId}/images`, repeatableHeaders(key, traceId), form, onProgress, signal);
}

/**
 * Send a request; return what it is answered, null for an answer without content. `signal` stops it unless its whole body
 * has been sent. By XMLHttpRequest, because fetch does not report the progress of an upload.
 */
export function post(url, headers, body, onProgress, signal) {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.responseType = "json";
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    return new Promise((resolve, reject) => {
        let timer;
        let isSent = false;
        const stop = () => {
            if (isSent) return; // the server may accept the images: its response says which
            request.abort();
            reject(new StoppedError());
        };
        signal?.addEventListener("abort", stop);
        const abortAfter = (milliseconds) => {
            clearTimeout(timer);
            timer = setTimeout(() => request.abort(), milliseconds);
        };
        request.upload.onprogress = ({ loaded, total }) => {
            onProgress(total ? loaded / total : 0);
            isSent = loaded === total;
            abortAfter(isSent ? RESPONSE_TIMEOUT_MS : STALL_TIMEOUT_MS);
        };
        request.onloadend = () => {
            clearTimeout(timer);
            signal?.removeEventListener("abort", stop);
            settle(request, resolve, reject);
        };
        abortAfter(RESPONSE_TIMEOUT_MS);
        request.send(body);
    });
}

function settle(request, resolve, reject) {
    const body = request.response; // null if it is no JSON
    const isSuccess = request.status >= 200 && request.status < 300;
    // An error response that lists `rejected` files is a result too: the server decided on every file.
    if ((body && (isSuccess || "rejected" in body)) || request.status === 204) {
        resolve(body);
        return;
    }
    if (request.status === 401) {
        reject(new SignedOutError());
        return;
    }
    const problem = request.status ? `the server returned ${request.status}` : "the connection failed";
    const trace = request.status >= 500 && body?.trace_id ? ` (trace ID ${body.trace_id})` : "";
    const canRetry = isSuccess || [0, 408, 429].includes(request.status) || request.status >= 500;
    // A browser complains if a page asks for a single header that the bucket does not expose.
    const seconds = Number(/^retry-after: *(\d+)/im.exec(request.getAllResponseHeaders())?.[1] ?? 0);
    reject(new ApiError(`${body?.detail ?? problem}${trace}`, canRetry, seconds, body?.type === REUSED_KEY, request.status));
}
