// Pictures of images that the server has deleted, from what this browser has kept of its own uploads.

import { localPicture } from "./local_pictures.js";

export const DELETED = new URL("deleted.svg", import.meta.url).href;

/** Show in `root` what this browser has of images that are no longer stored. */
export async function showOwnPictures(root) {
  for (const picture of root.querySelectorAll("img[data-local]")) {
    const address = await localPicture(picture.dataset.local);
    if (address) picture.src = address;
  }
}

/**
 * The address of a list's picture of an image that is not to be kept.
 *
 * @param {string} id the image's
 * @param {() => string} stored the address of what the server has, or `DELETED` where it has nothing
 */
export async function ownPicture(id, stored) {
  return (await localPicture(id)) ?? stored();
}
