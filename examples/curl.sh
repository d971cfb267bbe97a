#!/bin/sh
# Asks TensorFlow Serving with curl: the model's status, an image, and the image with thresholds of its own.
set -eu

usage="usage: curl.sh FILE [URL [THRESHOLDS]]
  FILE        an image: JPEG, PNG, BMP or GIF
  URL         of the model; default http://localhost:8501/v1/models/dvt (or that with /versions/3 or /labels/stable)
  THRESHOLDS  one for each exit but the last, with commas; 2 means never. For example 0.9,2"

case "${1:-}" in
    -h | --help) echo "$usage"; exit 0 ;;
    "") echo "curl.sh: no image is given; curl.sh --help tells how" >&2; exit 2 ;;
esac
file=$1 url=${2:-http://localhost:8501/v1/models/dvt} thresholds=${3:-}
[ -f "$file" ] || { echo "curl.sh: cannot read '$file'" >&2; exit 2; }

# Images are binary, so JSON carries them as base64. From a pipe, since a command line is too short for one.
image() { base64 < "$file" | tr -d '\n'; }

ask() {
    curl --silent --show-error --fail-with-body --max-time 30 "$@" && echo ||
        { echo; echo "curl.sh: no answer from $url" >&2; exit 1; }
}

# The status of a label cannot be asked for, only a version's or the whole model's.
case "$url" in */labels/*) ;; *) ask "$url" ;; esac

{ printf '{"instances": [{"b64": "'; image; printf '"}]}'; } | ask --data-binary @- "$url:predict"

[ -z "$thresholds" ] || {
    printf '{"signature_name": "with_thresholds", "instances": [{"image_bytes": {"b64": "'
    image
    printf '"}, "thresholds": [%s]}]}' "$thresholds"
} | ask --data-binary @- "$url:predict"
