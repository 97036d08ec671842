#!/bin/sh
# Publishes an event, and prints its id.
#
#   publisher.sh ACTION_ID EVENT_TYPE [PAYLOAD]
#
# The payload is JSON, @file, or - for standard input. MESSAGE_BROKER and its URL say where it goes.
set -eu
if [ "$#" -lt 2 ] || [ "$#" -gt 3 ]; then
    echo "usage: publisher.sh ACTION_ID EVENT_TYPE [JSON|@file|-]" >&2
    exit 2
fi
exec pipeline publish "$@"
