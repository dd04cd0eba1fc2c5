"""The API answers an image that the model has classified before at once."""

import json
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from flask.testing import FlaskClient

from core.ids import ImageRef, input_key, new_id
from core.jobs.models import ImageRecord, Job
from core.jobs.store import JobStore
from core.messages import Model
from core.result_cache import ResultCache
from tests.support.jobs import NOW, done, picture


def test_the_api_answers_a_repeated_image_at_once_and_says_so(client: FlaskClient, job: Job, store: JobStore) -> None:
    data = picture()
    # The configured bundle is the demo; its path is relative to the working directory, as everywhere.
    digest = json.loads(Path("app_tier/demo/bundle/bundle.json").read_text(encoding="utf-8"))["digest"]
    first = done(ImageRecord(ImageRef(new_id(), new_id()), "other.jpg", "key", 1, NOW), "cat")
    known = first.model_copy(
        update={
            "key": input_key(first.ref, "jpg"),
            "sha256": sha256(data).hexdigest(),
            "model": Model(name="demo", digest=digest),
        }
    )
    ResultCache(store.table, timedelta(days=1)).put([known], datetime.now(UTC), {known.job_id: ""})
    single = client.post("/api/v1/classify?wait=0", data=data, content_type="image/jpeg")
    assert (single.status_code, single.get_json()["cached"], single.get_json()["label"]) == (200, True, "cat")
    form = {"f": (BytesIO(data), "x.jpg")}
    (accepted,) = client.post(f"/api/v1/jobs/{job.job_id}/images", data=form).get_json()["accepted"]
    assert accepted["cached"]
    status = client.get(f"/api/v1/jobs/{job.job_id}").get_json()
    assert (status["state"], status["done"], status["cached"]) == ("finished", 1, 1)
    image = client.get(f"/api/v1/jobs/{job.job_id}/images/{accepted['image_id']}").get_json()
    assert (image["cached"], image["status"], image["model"]["digest"]) == (True, "done", digest)
