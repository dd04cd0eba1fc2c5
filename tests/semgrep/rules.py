# What each rule finds (ruleid) and allows (ok): `semgrep test` compares. Nothing imports this file.
import hmac
import re
import sqlite3
import ssl
from pathlib import Path

import boto3
import numpy
import torch
from flask import redirect, render_template_string, request, send_file, url_for
from PIL import Image

from core.jobs.buckets import OutputBucket
from core.jobs.items import partition
from core.jobs.keys import input_key
from services.s3 import Bucket
from web_tier.auth.guard import safe_redirect

# ruleid: image-opened-outside-the-sandbox
Image.open(upload)
# ok: image-opened-outside-the-sandbox
Path("a").open()

# ruleid: model-file-that-runs-code
torch.export.load(path)
# ruleid: model-file-that-runs-code
numpy.load(path, allow_pickle=True)
# ok: model-file-that-runs-code
numpy.load(path)

# ruleid: aws-client-outside-services
boto3.client("s3")
# ruleid: aws-client-outside-services
session.create_client("s3")
# ok: aws-client-outside-services
clients.s3()

# ruleid: item-or-object-outside-the-store
partition(job_id)
# ruleid: item-or-object-outside-the-store
inputs.get(input_key(ref, "jpg"))
# ruleid: item-or-object-outside-the-store
Bucket.named(clients, config.names.output_bucket)
# ruleid: item-or-object-outside-the-store
ingest.bucket._bucket.get(record.key)
# ok: item-or-object-outside-the-store
OutputBucket.named(clients, config.names.output_bucket)
# ok: item-or-object-outside-the-store
ingest.bucket.original(record, max_bytes)

# ruleid: key-written-outside-the-store
table.get("JOB#1", image_id)
# ruleid: key-written-outside-the-store
table.get(place, f"RESULT#{ref.image_id}")
# ruleid: key-written-outside-the-store
outputs.get(f"{ref.job_id}/{ref.image_id}.json")
# ok: key-written-outside-the-store
client.get(f"/api/v1/jobs/{job_id}/images/{image_id}")

# ruleid: secret-compared-by-equals
given == session.csrf_token
# ruleid: secret-compared-by-equals
user.password != given
# ok: secret-compared-by-equals
hmac.compare_digest(given, user.password)
# ok: secret-compared-by-equals
entry.client_token == other


def paths():
    name = request.args["name"]
    # ruleid: users-text-in-a-path
    Path("/data", name)
    # ruleid: users-text-in-a-path, item-or-object-outside-the-store
    input_key(upload.filename, "png")
    # ok: users-text-in-a-path
    Path("/data", ref.image_id)


def redirects():
    place = request.values.get("next")
    # ruleid: redirect-to-users-text
    redirect(place)
    # ok: redirect-to-users-text
    redirect(safe_redirect(place))
    # ok: redirect-to-users-text
    redirect(url_for("jobs.jobs_page", q=place))


def patterns():
    text = request.args["q"]
    # ruleid: pattern-of-users-text
    re.compile(f"{text}.*")
    # ok: pattern-of-users-text
    re.compile(re.escape(text))


# ruleid: file-shown-in-the-page
send_file(path)
# ruleid: file-shown-in-the-page
render_template_string(text)
# ok: file-shown-in-the-page
render_template("page.html")

# ruleid: cookie-without-flags
answer.set_cookie("name", value, httponly=True)
# ok: cookie-without-flags
answer.set_cookie("name", value, secure=True, httponly=True, samesite="Lax")

# ruleid: certificate-not-verified
client(verify=False)
# ruleid: certificate-not-verified
context.verify_mode = ssl.CERT_NONE
# ok: certificate-not-verified
client(verify=True)

# ruleid: request-body-without-a-bound
request.files["image"]
# ok: request-body-without-a-bound
request.get_data()

base = sqlite3.connect("base")
# ruleid: statement-of-sql-by-formatting
base.execute(f"SELECT * FROM jobs WHERE name = '{name}'")
# ok: statement-of-sql-by-formatting
base.execute("SELECT * FROM jobs WHERE name = ?", (name,))
# ok: statement-of-sql-by-formatting
base.execute(f"PRAGMA user_version = {FORMAT}")
