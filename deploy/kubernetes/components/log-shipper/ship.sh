#!/bin/sh
# Sends the log to a bucket: the file of a day is moved aside, packed and uploaded, twice a minute.
#
# Whatever is killed, the folder says where it goes on. A file keeps its name until the bucket has
# it, so that one which is sent twice is one object. MiniVault writes no line to a file that has
# lost its name; so when its lock was free once after that, it is whole.
log=${LOG_DIR:-/logs/entries}
outgoing=${OUTGOING_DIR:-/logs/outgoing}

ship() {
  for file in "$log"/????-??-??.jsonl; do
    [ -s "$file" ] || continue
    folder=$outgoing/date=$(basename "$file" .jsonl)/pod=$POD
    mkdir -p "$folder" && mv "$file" "$folder/$(cat /proc/sys/kernel/random/uuid).jsonl"
  done
  mkdir -p "$outgoing"
  find "$outgoing" -name '*.jsonl' | while read -r file; do
    # also one that was packed in part when this was killed
    flock "$file" true && gzip -f "$file"
  done
  rclone move "$outgoing" "$DESTINATION" --include '*.jsonl.gz' && touch "$outgoing/.sent"
}

trap 'stopping=1; kill "$waiting"' TERM INT
while [ ! "$stopping" ]; do
  ship
  sleep "${SECONDS_BETWEEN:-30}" &
  waiting=$!
  wait "$waiting"
done
# MiniVault has ended by now: what it wrote last, as long as the pod may stay
until ship; do sleep 1; done
