// What the page of a job does when the session has ended, or when the job has been deleted, such as in another tab, or is
// no longer shared.

import { fetchInTime } from "../fetching.js";
import { goToSignIn, needsSignIn } from "../sign_in.js";

/** Return true if a response says that the job no longer exists: its images are deleted only with it. */
export function isGone(response) {
    return response.status === 404;
}

/** Go to the list of jobs, which says that the job was deleted; of a shared job, show what the server says now. */
export function goToJobs() {
    if (document.body.classList.contains("shared")) location.reload();
    else location.assign("/jobs?deleted=1");
}

/** Fetch an address of the job, and leave the page if the response says that it shows nothing any more. */
export async function fetchOrLeave(address, request) {
    const response = await fetchInTime(address, request);
    if (needsSignIn(response)) goToSignIn();
    if (isGone(response)) goToJobs();
    return response;
}
