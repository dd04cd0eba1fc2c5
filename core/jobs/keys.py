"""The keys of the objects of jobs, which follow from ids: no text of a user is ever part of one.

The objects of a job are in one folder of each bucket. It is named by the job's id, so the folders of new jobs are
neighbours in the order of keys, where S3 takes 3,500 puts/s until it has split them
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html).
"""

from core.ids import ImageRef


def input_key(ref: ImageRef, extension: str) -> str:
    """Return the key of an image in the input bucket; `extension` is without the dot."""
    return f"{ref.job_id}/{ref.image_id}.{extension}"


def pack_key(job_id: str, pack_id: str, extension: str) -> str:
    """Return the key of the object of a pack in the input bucket: of one image, that of this image."""
    return input_key(ImageRef(job_id, pack_id), extension)


def form_key(job_id: str, pack_id: str, extension: str) -> str:
    """Return the key at which a presigned form puts the object of a pack; no image is read from there."""
    return f"{job_id}/forms/{pack_id}.{extension}"


def output_key(ref: ImageRef) -> str:
    """Return the key of the prediction of an image that is a pack of its own in the output bucket."""
    return f"{ref.job_id}/{ref.image_id}.json"


def outputs_key(job_id: str, pack_id: str) -> str:
    """Return the key of the predictions of a pack of several images in the output bucket."""
    return f"{job_id}/{pack_id}.jsonl"


def tries_key(ref: ImageRef) -> str:
    """Return the key of the tries of an image in the output bucket."""
    return f"{ref.job_id}/{ref.image_id}.tries"


def merged_key(job_id: str) -> str:
    """Return the key of the file with all results of a job in the output bucket, apart from the predictions."""
    return f"results/{job_id}.jsonl"


def cancelled_key(job_id: str) -> str:
    """Return the key of the tombstone of a cancelled job in the input bucket; no image has it."""
    return f"{job_id}/cancelled"
