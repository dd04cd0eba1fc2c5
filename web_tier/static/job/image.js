// The page of one image.

import { showOwnPictures } from "./own_pictures.js";

showOwnPictures(document);
