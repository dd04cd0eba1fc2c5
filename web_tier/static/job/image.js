// The page of one image.

import { showLocalPictures } from "./local_pictures.js";

showLocalPictures(document);
