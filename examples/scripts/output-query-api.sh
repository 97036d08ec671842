#!/bin/sh
# Asks for the output of a stage, while it runs and after.
#
#   output-query-api.sh get-status  ACTION_ID STAGE
#   output-query-api.sh get-logs    ACTION_ID STAGE [LAST_LINES]
#   output-query-api.sh search      ACTION_ID STAGE PATTERN
#   output-query-api.sh stream-logs ACTION_ID STAGE
#   output-query-api.sh list
#
# DATASTORE_BACKENDS and their URLs say which stores are asked.
set -eu
case "${1-}" in
get-status | get-logs | search | stream-logs | list) exec pipeline "$@" ;;
*)
    echo "usage: output-query-api.sh get-status|get-logs|search|stream-logs ACTION_ID STAGE [...], or list" >&2
    exit 2
    ;;
esac
