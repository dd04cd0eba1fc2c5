#!/usr/bin/env bash
# Upload one image straight to the input bucket with a presigned form, then print its label.
#   examples/presigned.sh http://127.0.0.1:8000 photo.jpg
# The web tier signs the form; the image itself does not pass through it.
set -euo pipefail

readonly API="${1:?the address of the system}/api/v1" IMAGE="${2:?an image}"
readonly JSON="Content-Type: application/json" TYPE="image/jpeg"

call() { curl --silent --show-error --fail ${FLEETSIGHT_TOKEN:+-H "Authorization: Bearer $FLEETSIGHT_TOKEN"} "$@"; }
field() { python3 -c "import json, sys; value = json.load(sys.stdin)
for key in sys.argv[1:]: value = value[int(key) if key.isdigit() else key]
print(value)" "$@"; }

job=$(call -H "$JSON" -d '{"name": "presigned"}' "$API/jobs" | field job_id)
size=$(wc -c <"$IMAGE")
offer=$(call -H "$JSON" -d "{\"files\": [{\"name\": \"${IMAGE##*/}\", \"bytes\": $size, \"content_type\": \"$TYPE\"}]}" "$API/jobs/$job/uploads")

# All fields of the form, in any order, then the file as the last one.
python3 -c 'import json, sys
for name, value in json.load(sys.stdin)["uploads"][0]["upload"]["fields"].items(): print(f"form-string = \"{name}={value}\"")' \
  <<<"$offer" | curl --silent --show-error --fail --config - -F "file=@$IMAGE;type=$TYPE" "$(field uploads 0 upload url <<<"$offer")"

call -X POST "$API/jobs/$job/uploads/$(field upload_id <<<"$offer")/commit" >/dev/null
until [ "$(call "$API/jobs/$job" | field state)" = finished ]; do sleep 0.5; done
call "$API/jobs/$job/results.csv"
