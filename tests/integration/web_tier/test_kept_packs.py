"""Other programs open the kept images of a job in the bucket: tar, and WebDataset as a data set of shards."""

import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from core.config import Config
from core.ids import new_id
from core.images import ImageLimits
from core.jobs.buckets import InputBucket
from core.jobs.models import ImageRecord, Job
from core.jobs.packs import PackSizes, by_pack
from core.jobs.store import JobStore
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import Queue
from tests.conftest import keys_in
from tests.support.jobs import NOW, picture
from tests.support.unsandboxed import inspect
from web_tier.uploads.ingest import ImageIngest
from web_tier.uploads.multipart import Upload

pytestmark = pytest.mark.processes

READ_SHARDS: Final = """
import json, sys
from hashlib import sha256
sys.modules["torch"] = None  # WebDataset does without, and a start with it takes seconds
from webdataset import WebDataset
for sample in WebDataset(sys.argv[1:], shardshuffle=False):
    [(extension, data)] = [each for each in sample.items() if not each[0].startswith("__")]
    print(json.dumps([sample["__url__"], f"{sample['__key__']}.{extension}", sha256(data).hexdigest()]))
"""


def test_tar_and_webdataset_read_each_kept_image_of_a_job_as_it_was_sent(
    provisioned: Clients, config: Config, store: JobStore, tmp_path: Path
) -> None:
    bucket = Bucket.named(provisioned, config.names.input_bucket)
    queue = Queue.named(provisioned.sqs, config.queue_name(config.names.request_queue))
    job = Job(new_id(), "kept", NOW, keep=True)
    store.create(job)
    ingest = ImageIngest(ImageLimits(), InputBucket(bucket), store, queue, inspect, sizes=PackSizes(50, lambda: 0.01))
    files = [picture(["JPEG", "PNG", "WEBP"][number % 3], size=(8 + number, 8)) for number in range(200)]
    uploads = [Upload(f"{number}.img", data, len(data)) for number, data in enumerate(files)]
    images = [each for each in ingest.ingest(job, uploads) if isinstance(each, ImageRecord)]
    ingest.pool.shutdown()
    assert len(images) == len(files)
    sent = {image.ref.image_id: files[int(image.filename.removesuffix(".img"))] for image in images}
    shards = {}
    for pack in by_pack(images):
        path = tmp_path / pack[0].key.replace("/", "-")
        path.write_bytes(bucket.get(pack[0].key))
        if pack[0].is_lone:
            assert path.read_bytes() == sent[pack[0].ref.image_id]
        else:
            members = [f"{place:02}.{image.extension}" for place, image in enumerate(pack)]
            shards[path] = {name: sent[image.ref.image_id] for name, image in zip(members, pack, strict=True)}
    assert max(map(len, shards.values())) >= 20
    assert keys_in(bucket, job.job_id) == sorted({image.key for image in images})
    for number, (path, contents) in enumerate(shards.items()):
        folder = tmp_path / f"unpacked-{number}"
        folder.mkdir()
        subprocess.run(["tar", "xf", path], cwd=folder, check=True)
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == contents
    read = subprocess.run([sys.executable, "-c", READ_SHARDS, *shards], capture_output=True, text=True, check=True)
    assert [json.loads(line) for line in read.stdout.splitlines()] == [
        [str(path), name, sha256(data).hexdigest()]
        for path, contents in shards.items()
        for name, data in contents.items()
    ]
